"""Adapters on the experts of a mixture: peft's merge, whether the base stores the experts apart or in one tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from support import tiny_checkpoints as tiny
from support.written_manifests import by_name
from transformers import AutoModelForCausalLM, GptOssConfig, MixtralConfig, PreTrainedConfig

from tuneport.diffvector.run import apply, diff, transfer
from tuneport.errors import PairingError, TuneportError
from tuneport.verification import verify

SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 20,
}
EXPERTS, RANK = 3, 2


@pytest.mark.parametrize(
    ("config", "targets", "changed"),
    [
        (lambda: MixtralConfig(**SHAPE, num_local_experts=EXPERTS), None, 4 + 1 + 3 * EXPERTS),
        (lambda: GptOssConfig(**SHAPE, head_dim=8, num_local_experts=EXPERTS), ["gate_up_proj", "down_proj"], 4 + 2),
    ],
    ids=["experts apart", "experts in one tensor, turned"],
)
def test_onto_its_own_base_an_adapter_of_all_linear_layers_is_pefts_merge(
    config: Any, targets: list[str] | None, changed: int, tmp_path: Path
) -> None:
    made: PreTrainedConfig = config()
    torch.manual_seed(5)
    AutoModelForCausalLM.from_config(made).save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").write_text(json.dumps(tiny.tokenizer([f"w{i}" for i in range(20)])))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tuned = get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear", target_parameters=targets))
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    tuned.save_pretrained(tmp_path / "lora")
    tuned.merge_and_unload().save_pretrained(tmp_path / "merged")
    transfer(tmp_path / "base", tmp_path / "lora", tmp_path / "base", tmp_path / "out")
    found, merged = tiny.read_weights(tmp_path / "out"), tiny.read_weights(tmp_path / "merged")
    base = tiny.read_weights(tmp_path / "base")
    assert found.keys() == merged.keys() == base.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, merged[name], rtol=1e-5, atol=1e-6, msg=name)
    assert sum(not torch.equal(tensor, base[name]) for name, tensor in found.items()) == changed


def mixture(path: Path, seed: int, apart: bool, hidden: int = 8, inner: int = 6) -> Path:
    """The experts of one layer, in bfloat16, as released checkpoints have them or as the model does in memory."""
    made = torch.Generator().manual_seed(seed)
    joined = {
        "gate_up_proj": torch.randn(EXPERTS, 2 * inner, hidden, generator=made).bfloat16(),
        "down_proj": torch.randn(EXPERTS, hidden, inner, generator=made).bfloat16(),
    }
    tensors = {name: tensor for name, tensor in tiny.llama(seed).items() if ".mlp." not in name}
    if apart:
        for expert in range(EXPERTS):
            before = f"model.layers.0.block_sparse_moe.experts.{expert}"
            tensors[f"{before}.w1.weight"], tensors[f"{before}.w3.weight"] = joined["gate_up_proj"][expert].split(inner)
            tensors[f"{before}.w2.weight"] = joined["down_proj"][expert]
    else:
        tensors |= {f"model.layers.0.mlp.experts.{name}": tensor for name, tensor in joined.items()}
    return tiny.write_model(path, tensors, settings=tiny.config(model_type="mixtral"))


def lora(path: Path, shapes: list[tuple[int, int]], parameters: list[str], **settings: Any) -> Path:
    """Factors by (inputs, outputs), the outermost first."""
    made, tensors = torch.Generator().manual_seed(9), {}
    for depth, (inputs, outputs) in enumerate(shapes):
        module = "base_model.model.model.layers.0.mlp.experts" + depth * ".base_layer"
        tensors[f"{module}.lora_A.weight"] = torch.randn(EXPERTS * RANK, inputs, generator=made)
        tensors[f"{module}.lora_B.weight"] = torch.randn(outputs, EXPERTS * RANK, generator=made)
    path.mkdir()
    save_file(tensors, path / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": RANK, "lora_alpha": 3, "target_parameters": parameters, **settings}
    (path / "adapter_config.json").write_text(json.dumps(said))
    return path


def deltas(adapter: Path, depth: int, scaling: float) -> torch.Tensor:
    """Each expert's B·A, as peft's einsum has it."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    module = "base_model.model.model.layers.0.mlp.experts" + depth * ".base_layer"
    a, b = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
    left = b.reshape(b.shape[0], -1, EXPERTS)
    return scaling * torch.einsum("ore,eri->eoi", left, a.reshape(EXPERTS, -1, a.shape[1]))


@pytest.mark.parametrize("apart", [True, False])
def test_each_tensor_of_the_target_gets_its_own_part_of_the_product(apart: bool, tmp_path: Path) -> None:
    base, target = mixture(tmp_path / "base", 1, apart=True), mixture(tmp_path / "target", 2, apart)
    adapter = lora(tmp_path / "lora", [(6, 8), (8, 12)], ["experts.down_proj", "experts.gate_up_proj"])
    transfer(base, adapter, target, tmp_path / "out", dtype="float32")
    found, before = tiny.read_weights(tmp_path / "out"), tiny.read_weights(target)
    down, gate_up = deltas(adapter, 0, 1.5), deltas(adapter, 1, 1.5)
    for expert in range(EXPERTS):
        if apart:
            place = f"model.layers.0.block_sparse_moe.experts.{expert}"
            wanted = {"w1": gate_up[expert][:6], "w3": gate_up[expert][6:], "w2": down[expert]}
            moved = {n: found[f"{place}.{n}.weight"] - before[f"{place}.{n}.weight"].float() for n in wanted}
        else:
            place = "model.layers.0.mlp.experts"
            wanted = {"gate_up_proj": gate_up[expert], "down_proj": down[expert]}
            moved = {n: (found[f"{place}.{n}"] - before[f"{place}.{n}"].float())[expert] for n in wanted}
        for name, delta in wanted.items():
            torch.testing.assert_close(moved[name], delta, rtol=1e-4, atol=1e-5)
    verify(tmp_path / "out", base, adapter, target, full=True)
    diff(base, adapter, tmp_path / "diff")
    apply([(tmp_path / "diff", 1.0)], mixture(tmp_path / "again", 2, apart=True), tmp_path / "applied")
    transfer(base, adapter, tmp_path / "again", tmp_path / "straight")
    tiny.assert_same(tiny.read_weights(tmp_path / "applied"), tiny.read_weights(tmp_path / "straight"))


def test_patterns_are_those_of_the_parameters_names(tmp_path: Path) -> None:
    base = mixture(tmp_path / "base", 1, apart=False)
    adapter = lora(tmp_path / "lora", [(6, 8)], ["down_proj"], r=9, rank_pattern={"experts.down_proj": RANK})
    transfer(base, adapter, base, tmp_path / "out")
    told = by_name(tmp_path / "out")["model.layers.0.mlp.experts.down_proj"]["reason"]
    assert told == f"low-rank, r={RANK}, scaling=1.5 for each of {EXPERTS}"


def test_patterns_of_a_module_beside_parameters_are_those_of_the_modules_name(tmp_path: Path) -> None:
    """A target without a dot (peft's own for all-linear) could be a parameter of any module."""
    base = mixture(tmp_path / "base", 1, apart=False)
    adapter = lora(tmp_path / "lora", [(6, 8)], ["down_proj"], alpha_pattern={"q_proj": 12})
    tensors = load_file(adapter / "adapter_model.safetensors")
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors |= {f"{module}.lora_A.weight": torch.ones(RANK, 8), f"{module}.lora_B.weight": torch.ones(8, RANK)}
    save_file(tensors, adapter / "adapter_model.safetensors")
    transfer(base, adapter, base, tmp_path / "out")
    told = by_name(tmp_path / "out")["model.layers.0.self_attn.q_proj.weight"]["reason"]
    assert told == f"low-rank, r={RANK}, scaling=6"


@pytest.mark.parametrize(("version", "turned"), [("0.18.1", True), ("0.19.0", False), (None, False)])
def test_of_square_experts_the_version_of_peft_says_how_they_lie(
    version: str | None, turned: bool, tmp_path: Path
) -> None:
    base = mixture(tmp_path / "base", 1, apart=False, inner=8)
    adapter = lora(tmp_path / "lora", [(8, 8)], ["experts.down_proj"], peft_version=version)
    transfer(base, adapter, base, tmp_path / "out", dtype="float32")
    name = "model.layers.0.mlp.experts.down_proj"
    moved = tiny.read_weights(tmp_path / "out")[name] - tiny.read_weights(base)[name].float()
    delta = deltas(adapter, 0, 1.5)
    torch.testing.assert_close(moved, delta.transpose(1, 2) if turned else delta, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shapes", "parameters", "words"),
    [
        (
            [(7, 8)],
            ["experts.down_proj"],
            r"fit none of its parameters; the base has `model.layers.0.mlp.experts.down_proj`",
        ),
        ([(6, 8)], ["attention.weight"], "has rank 6, the config says 2"),
        ([(6, 8), (8, 12)], ["experts.down_proj"], "do not say what its factors are for"),
    ],
)
def test_factors_that_fit_no_parameter_are_refused(
    shapes: list[tuple[int, int]], parameters: list[str], words: str, tmp_path: Path
) -> None:
    base = mixture(tmp_path / "base", 1, apart=False)
    with pytest.raises(TuneportError, match=words):
        transfer(base, lora(tmp_path / "lora", shapes, parameters), base, tmp_path / "out")


# ---- adapters on single experts, as versions before transformers 5 made them


def expert_lora(path: Path, experts: tuple[int, ...] = (0, 2), **whole: torch.Tensor) -> Path:
    """Factors on w1 and w2 of some experts, of another rank for each matrix; ``whole`` are tensors saved as they are."""
    made, tensors = torch.Generator().manual_seed(4), {}
    for expert in experts:
        for matrix, (inputs, outputs) in {"w1": (8, 6), "w2": (6, 8)}.items():
            module = f"base_model.model.model.layers.0.block_sparse_moe.experts.{expert}.{matrix}"
            tensors[f"{module}.lora_A.weight"] = torch.randn(RANK, inputs, generator=made)
            tensors[f"{module}.lora_B.weight"] = torch.randn(outputs, RANK, generator=made)
    path.mkdir()
    save_file(tensors | whole, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 3}))
    return path


@pytest.mark.parametrize("base_apart", [True, False])
@pytest.mark.parametrize("target_apart", [True, False])
def test_adapters_on_single_experts_find_them_wherever_they_lie(
    base_apart: bool, target_apart: bool, tmp_path: Path
) -> None:
    base, target = mixture(tmp_path / "base", 1, base_apart), mixture(tmp_path / "target", 2, target_apart)
    adapter = expert_lora(tmp_path / "lora")
    transfer(base, adapter, target, tmp_path / "out", vocabulary="positions")
    verify(tmp_path / "out", base, adapter, target, full=True)
    factors, before = tiny.read_weights(adapter), tiny.read_weights(mixture(tmp_path / "apart", 2, apart=True))
    wanted = dict(before)
    for name in before:
        module = "base_model.model." + name.removesuffix(".weight")
        if f"{module}.lora_A.weight" in factors:
            product = 1.5 * (factors[f"{module}.lora_B.weight"] @ factors[f"{module}.lora_A.weight"])
            wanted[name] = (before[name].float() + product).bfloat16()
    out = tiny.read_weights(tmp_path / "out")
    if not target_apart:
        fused = {name: tensor for name, tensor in out.items() if "experts" in name}
        assert {name.rpartition(".")[2] for name in fused} == {"gate_up_proj", "down_proj"}
        up, down = (fused[f"model.layers.0.mlp.experts.{name}"] for name in ("gate_up_proj", "down_proj"))
        for expert in range(EXPERTS):
            place = f"model.layers.0.block_sparse_moe.experts.{expert}"
            out[f"{place}.w1.weight"], out[f"{place}.w3.weight"] = up[expert].split(6)
            out[f"{place}.w2.weight"] = down[expert]
    changed = 0
    for name, tensor in wanted.items():
        torch.testing.assert_close(out[name], tensor, msg=name)
        changed += not torch.equal(out[name], before[name])
    assert changed == 4


def test_parts_that_are_saved_whole_are_told_with_what_to_do(tmp_path: Path) -> None:
    base, target = mixture(tmp_path / "base", 1, apart=True), mixture(tmp_path / "target", 2, apart=False)
    name = "base_model.model.model.layers.0.block_sparse_moe.experts.1.w1.modules_to_save.weight"
    adapter = expert_lora(tmp_path / "lora", **{name: torch.ones(6, 8)})
    with pytest.raises(PairingError, match="with the tensor names that the adapter was trained on"):
        transfer(base, adapter, target, tmp_path / "out", vocabulary="positions")
    transfer(base, adapter, base, tmp_path / "there", vocabulary="positions")
