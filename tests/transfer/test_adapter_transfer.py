"""A transfer with an adapter as its tuned side is a transfer with the model that peft would merge, kind by kind."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_adapters
import torch
from peft import PeftModel
from ran import Cli
from safetensors.torch import save_file
from tiny_adapters import KINDS, Adapter, edit, make
from transformers import AutoModelForCausalLM

from tuneport.checkpoint.open import open_checkpoint
from tuneport.diff.run import apply, diff
from tuneport.errors import NumericsError, PairingError, TuneportError, VerificationError
from tuneport.transfer import budget as budgets
from tuneport.transfer import product
from tuneport.transfer.choices import Choices, Running
from tuneport.transfer.plan import plan_transfer
from tuneport.transfer.run import transfer
from tuneport.transfer.verify import verify

Made = Callable[..., Adapter]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Adapters by kind and dtype, each made once."""
    found: dict[tuple[str, torch.dtype], Adapter] = {}

    def get(kind: str, dtype: torch.dtype = torch.bfloat16) -> Adapter:
        if (kind, dtype) not in found:
            found[kind, dtype] = make(tmp_path_factory.mktemp("adapter"), KINDS[kind], dtype)
        return found[kind, dtype]

    return get


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "tuneport.json").read_text()))


def by_name(folder: Path) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in manifest(folder)["tensors"]}


# ---- against peft's own merge


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_onto_its_own_base_it_gives_what_peft_merges(made: Made, kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    adapter = made(kind, dtype)
    transfer(adapter.base, adapter.adapter, adapter.base, tmp_path / "out", Choices(dtype="float32"))
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
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out", Choices(dtype="float32", scale=0.5))
    base, target = tiny.read_weights(adapter.base), tiny.read_weights(adapter.target)
    for name, tensor in tiny.read_weights(tmp_path / "out").items():
        delta = adapter.merged[name].double() - base[name].double()
        torch.testing.assert_close(tensor.double(), target[name].double() + 0.5 * delta, rtol=1e-5, atol=1e-6, msg=name)


# ---- to the last bit


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
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out", Choices(scale=scale))
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
    transfer(*parents, tmp_path / "shards", Choices(shard_size="9KB"), Running(workers=3))
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
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out", Choices(scale=0.7))
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


# ---- a diff vector of its own


@pytest.mark.parametrize("kind", KINDS)
def test_diff_then_apply_gives_every_byte_of_the_transfer(made: Made, kind: str, tmp_path: Path) -> None:
    adapter = made(kind)
    choices = Choices(scale=0.6)
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out", choices)
    diff(adapter.base, adapter.adapter, tmp_path / "diff")
    apply([(tmp_path / "diff", 0.6)], adapter.target, tmp_path / "applied")
    one, other = tiny.contents(tmp_path / "out"), tiny.contents(tmp_path / "applied")
    told = {"README.md", "tuneport.json"}
    assert {name: value for name, value in one.items() if name not in told} == {
        name: value for name, value in other.items() if name not in told
    }
    verify(tmp_path / "out", adapter.base, adapter.adapter, adapter.target, full=True)
    verify(tmp_path / "applied", adapter.base, adapter.adapter, adapter.target, full=True)
    verify(tmp_path / "diff", adapter.base, adapter.adapter, full=True)


def test_a_diff_vector_holds_what_was_trained_and_nothing_else(made: Made, tmp_path: Path) -> None:
    adapter = made("trained tokens")
    diff(adapter.base, adapter.adapter, tmp_path / "diff")
    stored = tiny.read_weights(tmp_path / "diff")
    assert sorted(stored) == [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
    ]
    assert stored["model.embed_tokens.weight"].shape == (3, 32), "three trained rows of sixty"
    base = tiny.read_weights(adapter.base)["model.embed_tokens.weight"].float()
    rows = tiny_adapters.weights_of(adapter.adapter)[
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    ]
    assert torch.equal(stored["model.embed_tokens.weight"], rows.float() - base[[3, 7, 41]])
    assert manifest(tmp_path / "diff")["diff"]["model.embed_tokens.weight"]["ids"] == [3, 7, 41]


@pytest.mark.parametrize(
    "ids",
    [[3, 7], [3, 7, 7], [3, 7, 60], [3, 7, -1], "3", None],
    ids=["few", "twice", "beyond", "negative", "text", "none"],
)
def test_a_diff_vector_whose_manifest_names_other_rows_is_refused(made: Made, ids: Any, tmp_path: Path) -> None:
    adapter = made("trained tokens")
    diff(adapter.base, adapter.adapter, tmp_path / "diff")
    told = manifest(tmp_path / "diff")
    told["diff"]["model.embed_tokens.weight"]["ids"] = ids
    (tmp_path / "diff" / "tuneport.json").write_text(json.dumps(told))
    with pytest.raises(TuneportError, match=r"ids|not stored as the manifest says"):
        apply([(tmp_path / "diff", 1.0)], adapter.target, tmp_path / "out")


# ---- choices, fates and words


def test_what_it_does_to_each_tensor_stands_in_the_manifest(made: Made, tmp_path: Path) -> None:
    adapter = made("rank-stabilised with patterns")
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out")
    told = by_name(tmp_path / "out")
    down = told["model.layers.1.mlp.down_proj.weight"]
    assert down["action"] == "transferred" and down["reason"] == f"low-rank, r=3, scaling={5 / math.sqrt(3):g}"
    assert down["norms"]["diff"] > 0
    assert told["model.layers.0.self_attn.q_proj.weight"]["reason"] == f"low-rank, r=7, scaling={8 / math.sqrt(7):g}"
    assert told["model.layers.0.self_attn.k_proj.weight"]["reason"] == "low-rank, r=4, scaling=16"
    norm = told["model.norm.weight"]
    assert norm["action"] == "copied" and norm["reason"] == "the adapter does not train it" and norm["scale"] is None
    entry = next(entry for entry in manifest(tmp_path / "out")["inputs"] if entry["role"] == "tuned")
    assert entry["adapter"] == "rank-stabilised LoRA, r=4, alpha=8, with patterns"
    assert "- peft\n" in (tmp_path / "out" / "README.md").read_text()
    assert manifest(tmp_path / "out")["measures"]["drift_norm"] is None, "the base's weights were not read"


def test_an_adapter_of_saved_modules_alone_is_carried_and_measures_no_drift(made: Made, tmp_path: Path) -> None:
    adapter = made("two modules", torch.float32)
    own = shutil.copytree(adapter.adapter, tmp_path / "own")
    norm = tiny.read_weights(adapter.base)["model.norm.weight"] * 1.5
    save_file({"base_model.model.model.norm.weight": norm}, own / "adapter_model.safetensors")
    transfer(adapter.base, own, adapter.target, tmp_path / "out")
    told = by_name(tmp_path / "out")
    assert told["model.norm.weight"]["reason"] == "saved as a whole"
    assert sum(entry["action"] == "transferred" for entry in told.values()) == 1
    measured = manifest(tmp_path / "out")["measures"]
    assert measured["drift_norm"] is None and measured["diff_norm"] == pytest.approx(float(norm.norm()) / 3, rel=1e-6)


def test_the_norm_of_the_difference_is_that_of_the_merge(made: Made, tmp_path: Path) -> None:
    adapter = made("embedding and head", torch.float32)
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out")
    base = tiny.read_weights(adapter.base)
    square = sum(float(((adapter.merged[name] - tensor).double() ** 2).sum()) for name, tensor in base.items())
    assert manifest(tmp_path / "out")["measures"]["diff_norm"] == pytest.approx(math.sqrt(square), rel=1e-5)


def test_rules_and_stochastic_rounding_hold_for_products_too(made: Made, tmp_path: Path) -> None:
    from tuneport.pairing.tensors import Rule

    adapter = made("plain")
    choices = Choices(rules=(Rule("q_proj", 0), Rule("k_proj", -2)), rounding="stochastic", seed=3)
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out", choices)
    found, target, base = (tiny.read_weights(folder) for folder in (tmp_path / "out", adapter.target, adapter.base))
    for name, tensor in found.items():
        if "q_proj" in name:
            assert tiny.bits(tensor) == tiny.bits(target[name])
        if "k_proj" in name:
            wanted = target[name].double() - 2 * (adapter.merged[name].double() - base[name].double())
            error = (tensor.double() - wanted).abs()
            assert bool((error <= wanted.abs() * 2**-7 + 1e-6).all()) and bool((error > wanted.abs() * 2**-9).any())


def test_new_tokens_of_an_adapter_are_appended_as_those_of_a_full_model(made: Made, tmp_path: Path) -> None:
    adapter = made("resized, trained tokens")
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out")
    assert [token["token"] for token in manifest(tmp_path / "out")["tokens"][0]["added"]] == [
        "<|new0|>",
        "<|new1|>",
        "<|new2|>",
    ]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    embedding = model.get_input_embeddings().weight
    assert embedding.shape[0] == 63
    rounded = adapter.merged["model.embed_tokens.weight"][60:].bfloat16().float()
    assert torch.equal(embedding[60:], rounded), "two trained rows, and one as the resizing left it"
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "dropped", Choices(new_tokens="drop"))
    assert tiny.read_weights(tmp_path / "dropped")["model.embed_tokens.weight"].shape[0] == 60


def test_an_embedding_that_is_not_trained_gives_new_tokens_the_bases_padded_rows(made: Made, tmp_path: Path) -> None:
    adapter = made("two modules")
    for role in ("base", "tuned", "target"):
        shutil.copytree(getattr(adapter, "adapter" if role == "tuned" else role), tmp_path / role)
    for role, words in (("base", 56), ("target", 50)):
        (tmp_path / role / "tokenizer.json").write_text(json.dumps(tiny.tokenizer([f"w{i}" for i in range(words)])))
    own = tiny.tokenizer([f"w{i}" for i in range(56)], ["<|own|>"])
    (tmp_path / "tuned" / "tokenizer.json").write_text(json.dumps(own))
    transfer(tmp_path / "base", tmp_path / "tuned", tmp_path / "target", tmp_path / "out")
    base, found = tiny.read_weights(tmp_path / "base"), tiny.read_weights(tmp_path / "out")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(found[name][50], base[name][56]), "the row that the tuned model has for its new token"
        assert torch.equal(found[name][51:], tiny.read_weights(tmp_path / "target")[name][51:])
    diff(tmp_path / "base", tmp_path / "tuned", tmp_path / "diff")
    apply([(tmp_path / "diff", 1.0)], tmp_path / "target", tmp_path / "applied")
    tiny.assert_same(tiny.read_weights(tmp_path / "applied"), found)


def test_rows_of_products_follow_their_tokens_to_other_ids(made: Made, tmp_path: Path) -> None:
    adapter = made("embedding and head", torch.float32)
    shutil.copytree(adapter.target, tmp_path / "target")
    order = [(7 * i) % 60 for i in range(60)]
    (tmp_path / "target" / "tokenizer.json").write_text(json.dumps(tiny.tokenizer([f"w{i}" for i in order])))
    transfer(adapter.base, adapter.adapter, tmp_path / "target", tmp_path / "out")
    base, target, found = (tiny.read_weights(path) for path in (adapter.base, tmp_path / "target", tmp_path / "out"))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        wanted = target[name] + (adapter.merged[name] - base[name])[order]
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-6)


def test_its_own_tokenizer_counts_and_without_one_the_bases_does(made: Made, tmp_path: Path) -> None:
    adapter = made("two modules")
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out")
    decided = {entry["subject"]: entry["choice"] for entry in manifest(tmp_path / "out")["decisions"]}
    assert decided["adapter.tokenizer"] == "the base's"
    own = shutil.copytree(adapter.adapter, tmp_path / "own")
    shutil.copy(adapter.base / "tokenizer.json", own)
    (own / "chat_template.jinja").write_text("{{ messages }}")
    (own / "config.json").write_text(json.dumps({"model_type": "another"}))
    transfer(adapter.base, own, adapter.target, tmp_path / "with")
    decided = {entry["subject"]: entry["choice"] for entry in manifest(tmp_path / "with")["decisions"]}
    assert decided["adapter.tokenizer"] == "the adapter's"
    template = "{{ messages }}"
    assert any(
        template in path.read_text() for path in (tmp_path / "with").glob("*") if path.suffix in (".jinja", ".json")
    )
    tiny.assert_same(tiny.read_weights(tmp_path / "with"), tiny.read_weights(tmp_path / "out"))


def test_the_base_that_the_adapter_names_is_compared_with_those_given(made: Made, tmp_path: Path) -> None:
    adapter = made("two modules")
    swapped = edit(shutil.copytree(adapter.adapter, tmp_path / "swapped"), base_model_name_or_path="/some/where/target")
    outcome = transfer(adapter.base, swapped, adapter.target, tmp_path / "out")
    assert any("base and target look swapped" in warning for warning in outcome.warnings)
    assert "/some/where" not in (tmp_path / "out" / "tuneport.json").read_text()
    with pytest.raises(TuneportError, match="swapped"):
        transfer(adapter.base, swapped, adapter.target, tmp_path / "strict", running=Running(strict=True))
    assert not transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "right").warnings


def test_a_dry_run_tells_what_the_adapter_trains_and_inspect_what_it_is(made: Made, tmp_path: Path, cli: Cli) -> None:
    adapter = made("two modules")
    dry = cli(*adapter.flags(tmp_path / "out", "--dry-run"))
    assert dry.status == 0 and not (tmp_path / "out").exists()
    assert "lm_head.weight and 16 more: the adapter does not train it" in dry.out
    assert "model.layers.0.self_attn.q_proj.weight and 3 more: low-rank, r=3, scaling=1.66667" in dry.out
    told = cli("inspect", str(adapter.adapter), "--json").json()
    assert told["kind"] == "adapter" and told["adapter"] == "LoRA, r=3, alpha=5"
    assert told["changes"] == {"low-rank, r=3, scaling=1.66667": 4}


# ---- what stands against it


def test_an_adapter_that_was_never_trained_is_a_zero_diff_vector(made: Made, tmp_path: Path) -> None:
    adapter = made("two modules")

    def forget(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: torch.zeros_like(value) for name, value in tensors.items() if "lora_B" in name})

    untrained = edit(shutil.copytree(adapter.adapter, tmp_path / "untrained"), forget)
    with pytest.raises(NumericsError, match="zero"):
        transfer(adapter.base, untrained, adapter.target, tmp_path / "out")


def test_nan_in_a_factor_is_named_and_stops(made: Made, tmp_path: Path) -> None:
    adapter = made("two modules")

    def break_one(tensors: dict[str, torch.Tensor]) -> None:
        next(value for name, value in tensors.items() if "layers.1.self_attn.v_proj.lora_A" in name)[0, 3] = math.nan

    broken = edit(shutil.copytree(adapter.adapter, tmp_path / "broken"), break_one)
    with pytest.raises(NumericsError, match=r"layers\.1\.self_attn\.v_proj\.weight.*16 in the output \(1 in tuned\)"):
        transfer(adapter.base, broken, adapter.target, tmp_path / "out")


def test_an_adapter_stands_only_where_the_tuned_model_does(made: Made, tmp_path: Path) -> None:
    adapter = made("two modules")
    for parents in ((adapter.adapter, adapter.base, adapter.target), (adapter.base, adapter.adapter, adapter.adapter)):
        with pytest.raises(TuneportError, match="PEFT adapter; only --tuned takes one"):
            transfer(*parents, tmp_path / "out")


def test_a_base_that_the_adapter_does_not_fit_is_refused_with_every_reason(made: Made, tmp_path: Path) -> None:
    adapter, other = made("plain"), made("fan_in_fan_out")
    with pytest.raises(PairingError) as told:
        transfer(other.base, adapter.adapter, other.target, tmp_path / "out")
    assert "does not fit its base" in str(told.value) and str(told.value).count("has no such tensor") == 14

    def shorten(tensors: dict[str, torch.Tensor]) -> None:
        for name, value in tensors.items():
            if "layers.0.mlp.up_proj.lora_B" in name:
                tensors[name] = value[:-1]

    shorter = edit(shutil.copytree(adapter.adapter, tmp_path / "shorter"), shorten)
    with pytest.raises(PairingError, match=r"up_proj.weight` is 56×32, the adapter's product B·A for it 55×32"):
        transfer(adapter.base, shorter, adapter.target, tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, "trains the head apart"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, "trains the embedding apart"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, "saved two that differ"),
        ({"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}, "saved two that differ"),
        (
            {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [1, 3]}},
            "trains the head apart",
        ),
    ],
)
def test_a_tied_models_head_that_goes_its_own_way_is_refused(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    kind = tiny_adapters.Kind(lambda: tiny_adapters.llama(tied=True), {"r": 2, **settings})
    adapter = make(tmp_path, kind, tied=False)
    with pytest.raises(PairingError, match=words):
        transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out")


def test_a_tokenizer_that_moves_the_bases_tokens_is_refused(made: Made, tmp_path: Path) -> None:
    adapter = made("embedding and head")
    own = shutil.copytree(adapter.adapter, tmp_path / "own")
    (own / "tokenizer.json").write_text(json.dumps(tiny.tokenizer([f"w{(i + 1) % 60}" for i in range(60)])))
    for target in (adapter.base, adapter.target):
        with pytest.raises(PairingError, match="gives 60 tokens of the base other ids"):
            transfer(adapter.base, own, target, tmp_path / "out")
    with pytest.raises(PairingError, match="gives 60 tokens of the base other ids"):
        diff(adapter.base, own, tmp_path / "diff")


def test_a_saved_head_that_the_base_lacks_is_refused_unless_dropped(made: Made, tmp_path: Path) -> None:
    adapter = made("two modules")

    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["base_model.model.score.weight"] = torch.ones(2, 32)

    scoring = edit(shutil.copytree(adapter.adapter, tmp_path / "scoring"), add)
    with pytest.raises(PairingError, match=r"`score.weight` \(2×32\) is in the tuned model.*--drop"):
        transfer(adapter.base, scoring, adapter.target, tmp_path / "out")
    transfer(adapter.base, scoring, adapter.target, tmp_path / "dropped", Choices(drop="^score"))
    assert by_name(tmp_path / "dropped")["score.weight"]["action"] == "dropped"


def test_a_difference_without_a_place_is_dropped_with_its_norm(made: Made, tmp_path: Path) -> None:
    adapter = made("plain", torch.float32)
    target = shutil.copytree(adapter.target, tmp_path / "target")
    weights = tiny.read_weights(target)
    name = "model.layers.1.mlp.up_proj.weight"
    del weights[name]
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    transfer(adapter.base, adapter.adapter, target, tmp_path / "out", Choices(drop="layers.1.mlp.up_proj"))
    delta = adapter.merged[name] - tiny.read_weights(adapter.base)[name]
    assert by_name(tmp_path / "out")[name]["norms"]["diff"] == pytest.approx(float(delta.norm()), rel=1e-5)


def test_what_the_adapter_does_not_train_needs_no_place_in_the_target(made: Made, tmp_path: Path) -> None:
    adapter = made("two modules")
    target = shutil.copytree(adapter.target, tmp_path / "target")
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    weights = tiny.read_weights(target)
    del weights["lm_head.weight"]
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    transfer(adapter.base, adapter.adapter, target, tmp_path / "out")
    head = by_name(tmp_path / "out")["lm_head.weight"]
    assert head["action"] == "dropped" and head["norms"]["diff"] == 0 and "does not train it" in head["reason"]


def test_names_that_lack_a_prefix_throughout_are_found(made: Made, tmp_path: Path) -> None:
    """GPT-2 on the Hub is saved without the `transformer.` that its classes, and so its adapters, have."""
    adapter = made("fan_in_fan_out")
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out")
    for role in ("base", "target"):
        place = shutil.copytree(getattr(adapter, role), tmp_path / role)
        tensors = tiny.read_weights(place)
        tiny.write_weights(place, {name.removeprefix("transformer."): value for name, value in tensors.items()})
    transfer(tmp_path / "base", adapter.adapter, tmp_path / "target", tmp_path / "short")
    found = tiny.read_weights(tmp_path / "short")
    tiny.assert_same(
        {f"transformer.{name}": value for name, value in found.items()}, tiny.read_weights(tmp_path / "out")
    )


def test_a_tied_embeddings_product_goes_onto_both_matrices_of_an_untied_target(made: Made, tmp_path: Path) -> None:
    adapter = made("embedding kept tied", torch.float32)
    target = shutil.copytree(adapter.target, tmp_path / "target")
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    weights = tiny.read_weights(target)
    weights["lm_head.weight"] = tiny.moved(weights, 9)["model.embed_tokens.weight"]
    tiny.write_weights(target, weights)
    transfer(adapter.base, adapter.adapter, target, tmp_path / "out")
    found = tiny.read_weights(tmp_path / "out")
    delta = found["model.embed_tokens.weight"] - weights["model.embed_tokens.weight"]
    assert float(delta.abs().max()) > 0.01
    torch.testing.assert_close(found["lm_head.weight"] - weights["lm_head.weight"], delta, rtol=1e-4, atol=1e-6)


def test_a_changed_adapter_is_noticed_by_resume_and_by_verify(made: Made, tmp_path: Path) -> None:
    adapter = made("two modules")
    own = shutil.copytree(adapter.adapter, tmp_path / "own")
    transfer(adapter.base, own, adapter.target, tmp_path / "out")
    assert transfer(adapter.base, own, adapter.target, tmp_path / "out").already_done
    edit(own, lora_alpha=6)  # another scaling: not one byte of the weights is different
    with pytest.raises(TuneportError, match="adapter_config"):
        transfer(adapter.base, own, adapter.target, tmp_path / "out")
    with pytest.raises(VerificationError, match="is not the one this was made from"):
        verify(tmp_path / "out", adapter.base, own, adapter.target, full=True)


def test_a_tied_embeddings_product_that_the_head_was_trained_without_is_told(made: Made, tmp_path: Path) -> None:
    kept = made("embedding kept tied")
    assert not transfer(kept.base, kept.adapter, kept.target, tmp_path / "kept").warnings
    adapter = made("embedding of a tied model")
    warnings = transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out").warnings
    assert len(warnings) == 1 and "as in peft's own merge" in warnings[0]


MEASURE = """
import sys
from tuneport.cli import main
status = main(sys.argv[1:])
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1], file=sys.stderr)
sys.exit(status)
"""


def test_tiles_of_factors_are_part_of_the_memory_that_is_planned(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def more_memory(kind: str, tuned: str = "adapter") -> int:
        adapter = made(kind)
        parents = ((adapter.base, "base"), (getattr(adapter, tuned), "tuned"), (adapter.target, "target"))
        inputs = [open_checkpoint(path, role) for path, role in parents]
        return plan_transfer(inputs[0], inputs[1], inputs[2], Choices()).more_memory

    assert more_memory("plain") == product.NBYTES and more_memory("plain", "target") == 0
    held = budgets.memory_held()
    monkeypatch.setattr(budgets, "memory_held", lambda: held)  # it moves by many MiB while the tests run
    with_tiles = budgets.budget(10**10, 3, more=product.NBYTES).estimate - budgets.budget(10**10, 3).estimate
    assert with_tiles == 3 * product.NBYTES, "for each worker"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here to tell the peak of memory")
@pytest.mark.parametrize(("limit", "workers"), [("128MiB", "2"), ("128MiB", "8"), ("64MiB", "8")])
@pytest.mark.parametrize("embedding", [False, True])
def test_memory_stays_under_its_bound_with_a_large_rank_on_a_wide_layer(
    tmp_path: Path, limit: str, workers: str, embedding: bool
) -> None:
    """Rank 256 on 28,672 inputs: in float32 a factor of 29 MB, and the product of 14 MB; models mostly of holes."""
    name = "model.embed_tokens" if embedding else "model.layers.0.mlp.down_proj"
    rows, columns, rank = (28_672, 120, 256) if embedding else (120, 28_672, 256)
    for role in ("base", "target"):
        place = tiny.write_model(tmp_path / role, tiny.llama(1))
        write_holes(place / "model.safetensors", {f"{name}.weight": ("BF16", [rows, columns])})
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    ends = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
    shapes = [[rank, rows], [columns, rank]] if embedding else [[rank, columns], [rows, rank]]
    factors = {f"base_model.model.{name}.{end}": ("F32", shape) for end, shape in zip(ends, shapes, strict=True)}
    write_holes(adapter / "adapter_model.safetensors", factors)
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 8}))
    argv = ["transfer", "--base", tmp_path / "base", "--tuned", adapter, "--onto", tmp_path / "target"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *argv, "--out", tmp_path / "out", "--max-memory", limit, "--workers", workers],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peak = int(done.stderr.split()[-1]) * 1024
    assert 16 * 2**20 < peak <= int(limit.removesuffix("MiB")) * 2**20
    assert by_name(tmp_path / "out")[f"{name}.weight"]["norms"]["diff"] > 0


def write_holes(path: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    """Tensors whose first numbers are small ones; behind them lies a hole of zeros."""
    header, position = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * (2 if dtype == "BF16" else 4)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in header.values():
            file.seek(8 + len(text) + entry["data_offsets"][0])
            file.write(b"\x80\x3a" * 1000)
        file.truncate(8 + len(text) + position)
