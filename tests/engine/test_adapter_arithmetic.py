"""A transfer with an adapter as its tuned side gives every bit of the definition, and what peft would merge, kind by kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from support import tiny_adapters
from support import tiny_checkpoints as tiny
from support.command_results import Cli
from support.tiny_adapters import KINDS, Made
from support.written_manifests import manifest
from transformers import AutoModelForCausalLM

from tuneport.diffvector.run import transfer
from tuneport.engine import budget as budgets
from tuneport.engine import product


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_onto_its_own_base_it_gives_what_peft_merges(made: Made, kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    adapter = made(kind, dtype)
    transfer(adapter.base, adapter.adapter, adapter.base, tmp_path / "out", dtype="float32")
    found, changed = tiny.read_weights(tmp_path / "out"), 0
    assert set(found) <= set(adapter.merged)
    base = tiny.read_weights(adapter.base)
    for name, tensor in found.items():
        merged = adapter.merged[name]
        assert tensor.shape == merged.shape, name
        if kind == "embedding kept tied" and "embed_tokens" in name:
            merged = (merged + base[name].float()) / 2  # peft 0.21.2 merges the tied product twice; see the next test
        torch.testing.assert_close(tensor, merged, rtol=1e-5, atol=1e-6, msg=name)
        changed += tensor.shape != base[name].shape or not torch.equal(tensor, base[name].float())
    assert changed >= 2, "the adapter must have changed something"


@pytest.mark.parametrize(
    "kind", ["plain", "fan_in_fan_out", "embedding kept tied", "embedding and head", "trained tokens of a tied model"]
)
def test_the_output_speaks_as_the_model_that_was_trained(made: Made, kind: str, tmp_path: Path) -> None:
    """Not the merge but the adapter at work, as it was in training, is what counts in the end."""
    adapter = made(kind, torch.float32)
    transfer(adapter.base, adapter.adapter, adapter.base, tmp_path / "out")
    base = AutoModelForCausalLM.from_pretrained(adapter.base)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        before = base.eval()(tokens).logits
        trained = PeftModel.from_pretrained(base, adapter.adapter).eval()(tokens).logits
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()(tokens).logits
    torch.testing.assert_close(found, trained, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, trained, rtol=1e-2, atol=1e-2), "the adapter must make a difference"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "embedding kept tied"])
def test_in_bfloat16_it_is_the_merge_rounded_once(made: Made, kind: str, tmp_path: Path) -> None:
    adapter = made(kind)
    transfer(adapter.base, adapter.adapter, adapter.base, tmp_path / "out")
    for name, tensor in tiny.read_weights(tmp_path / "out").items():
        assert tensor.dtype == torch.bfloat16
        # Half a step of bfloat16's seven bits, and float32's own roundings of the product.
        error = (tensor.double() - adapter.merged[name].double()).abs()
        assert bool((error <= adapter.merged[name].double().abs() * 2**-8 + 1e-6).all()), name


@pytest.mark.parametrize("kind", ["plain", "rank-stabilised with patterns", "fan_in_fan_out", "embedding and head"])
def test_onto_another_version_it_adds_the_product_in_float64_within_rounding(
    made: Made, kind: str, tmp_path: Path
) -> None:
    adapter = made(kind)
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out", dtype="float32", scale=0.5)
    base, target = tiny.read_weights(adapter.base), tiny.read_weights(adapter.target)
    for name, tensor in tiny.read_weights(tmp_path / "out").items():
        delta = adapter.merged[name].double() - base[name].double()
        torch.testing.assert_close(tensor.double(), target[name].double() + 0.5 * delta, rtol=1e-5, atol=1e-6, msg=name)


def product_in_words(a: torch.Tensor, b: torch.Tensor, scaling: float, transposed: bool) -> np.ndarray:
    """Term after term, each product and each sum a float32 of its own: the definition, one element at a time."""
    left, right = b.float().numpy(), a.float().numpy()
    out = np.empty((left.shape[0], right.shape[1]), np.float32)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            total = np.float32(left[i, 0] * right[0, j])
            for k in range(1, right.shape[0]):
                total = np.float32(total + np.float32(left[i, k] * right[k, j]))
            out[i, j] = np.float32(total * np.float32(scaling))
    return out.T if transposed else out


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("kind", ["two modules", "fan_in_fan_out", "embedding of a tied model"])
def test_every_bit_is_that_of_the_definition(made: Made, kind: str, scale: float, tmp_path: Path) -> None:
    adapter = made(kind)
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out", scale=scale)
    factors, checked = tiny_adapters.weights_of(adapter.adapter), 0
    settings = KINDS[kind].settings
    scaling = settings.get("lora_alpha", 8) / settings["r"]
    found, target = tiny.read_weights(tmp_path / "out"), tiny.read_weights(adapter.target)
    for name, tensor in found.items():
        module = "base_model.model." + name.removesuffix(".weight")
        if f"{module}.lora_A.weight" in factors:
            a, b = factors[f"{module}.lora_A.weight"], factors[f"{module}.lora_B.weight"]
            delta = product_in_words(a, b, scaling, transposed=kind == "fan_in_fan_out")
        elif f"{module}.lora_embedding_A" in factors:
            a, b = factors[f"{module}.lora_embedding_A"], factors[f"{module}.lora_embedding_B"]
            delta = product_in_words(a, b, scaling, transposed=True)
        else:
            assert tiny.bits(tensor) == tiny.bits(target[name]), f"{name} is not trained"
            continue
        wide = target[name].float().numpy()
        wanted = wide + (delta if scale == 1 else np.float32(scale) * delta)
        assert tiny.bits(tensor) == tiny.bits(torch.from_numpy(wanted).bfloat16()), name
        checked += 1
    assert checked >= 2


@pytest.mark.parametrize(
    "kind", ["embedding and head", "fan_in_fan_out", "resized, trained tokens", "resized, embedding"]
)
def test_workers_pieces_tiles_shards_and_kernel_change_no_byte(
    made: Made, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = made(kind)
    parents = adapter.base, adapter.adapter, adapter.target
    transfer(*parents, tmp_path / "out")
    wanted = tiny.read_weights(tmp_path / "out")
    transfer(*parents, tmp_path / "shards", shard_size="9KB", workers=3)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) >= 3
    tiny.assert_same(tiny.read_weights(tmp_path / "shards"), wanted)
    for right, left in ((33, 9), (64, 5), (7, 1000)):
        monkeypatch.setattr(product, "RIGHT", right)
        monkeypatch.setattr(product, "LEFT", left)
        monkeypatch.setattr(budgets, "PIECES", (65536,))
        out = tmp_path / f"tiles-{right}-{left}"
        transfer(*parents, out)
        tiny.assert_same(tiny.read_weights(out), wanted)


def test_the_numpy_kernel_gives_the_same_bytes(made: Made, tmp_path: Path, command: Cli) -> None:
    adapter = made("rank-stabilised with patterns")
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out", scale=0.7)
    ran = command(*adapter.flags(tmp_path / "numpy", "--scale", "0.7"), env={"TUNEPORT_KERNEL": "numpy"})
    assert ran.status == 0, ran.err
    assert manifest(tmp_path / "numpy")["environment"]["kernel"] == "numpy"
    tiny.assert_same(tiny.read_weights(tmp_path / "numpy"), tiny.read_weights(tmp_path / "out"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_factors_and_weights_of_other_dtypes_are_added_in_the_working_dtype(
    made: Made, dtype: torch.dtype, tmp_path: Path
) -> None:
    adapter = made("plain", dtype)
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out")
    base, target = tiny.read_weights(adapter.base), tiny.read_weights(adapter.target)
    factors = tiny_adapters.weights_of(adapter.adapter)
    step = {torch.float16: 2**-11, torch.float64: 2**-50}[dtype]
    for name, tensor in tiny.read_weights(tmp_path / "out").items():
        module = "base_model.model." + name.removesuffix(".weight")
        if f"{module}.lora_A.weight" not in factors:
            continue
        a, b = factors[f"{module}.lora_A.weight"].double(), factors[f"{module}.lora_B.weight"].double()
        wanted = target[name].double() + 2 * b @ a
        exact = step if factors[f"{module}.lora_A.weight"].dtype == torch.float64 or dtype == torch.float16 else 2**-22
        assert tensor.dtype == dtype == base[name].dtype
        assert bool(((tensor.double() - wanted).abs() <= exact * (wanted.abs() + 1)).all()), name
