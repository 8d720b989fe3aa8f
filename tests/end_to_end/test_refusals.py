"""Models that do not belong together, or cannot be subtracted, end in one clear message, and nothing is written."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.command_results import Cli, Ran
from support.model_families import FAMILIES, Family, folder_digest
from support.slow_reference import differing
from support.tiny_models import (
    Weights,
    edit_json,
    perturbed,
    pretrained,
    read_json,
    read_weights,
    write_json,
    write_weights,
)
from transformers import (
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    LlamaConfig,
)

Families = Callable[[str], Family]


def refused(run: Cli, out: Path, *parents: str | Path) -> str:
    """The one message of a transfer that must not begin; a dry run says no as well."""
    said = run("transfer", *parents, "--out", out)
    assert said.status == 1 and said.out == "" and not out.exists() and not out.with_name("out.partial").exists()
    assert "Traceback" not in said.err and said.err.count("tuneport: ") == 1
    assert run("transfer", *parents, "--out", out, "--dry-run").status == 1
    return said.err


def test_qwen_2_5_onto_qwen_3_is_one_line_of_reason(families: Families, run: Cli, tmp_path: Path) -> None:
    old, new = families("qwen2"), families("qwen3")
    told = refused(run, tmp_path / "out", "--base", old.base, "--tuned", old.tuned, "--onto", new.target)
    assert told.count("\n") == 1
    assert "`qwen2` (Qwen2ForCausalLM)" in told and "`qwen3` (Qwen3ForCausalLM)" in told
    assert "architecture" in told and "model.layers" not in told


def test_every_two_families_are_told_apart(families: Families, run: Cli, tmp_path: Path) -> None:
    names = list(FAMILIES)
    for one, other in zip(names, [*names[1:], names[0]], strict=True):
        mine, theirs = families(one), families(other)
        told = refused(run, tmp_path / "out", "--base", mine.base, "--tuned", mine.tuned, "--onto", theirs.target)
        types = {read_json(family.base / "config.json")["model_type"] for family in (mine, theirs)}
        assert len(types) == 2 and all(f"`{kind}`" in told for kind in types) and told.count("\n") == 1
        diff = run("diff", "--base", mine.base, "--tuned", theirs.tuned, "--out", tmp_path / "vector")
        assert diff.status == 1 and all(f"`{kind}`" in diff.err for kind in types)


def test_a_model_of_another_size_is_told_in_a_few_words(families: Families, run: Cli, tmp_path: Path) -> None:
    family = families("llama")
    size = read_json(family.base / "config.json")["vocab_size"]
    wide = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=size,
    )  # fmt: skip
    shutil.copytree(family.target, tmp_path / "wide", ignore=shutil.ignore_patterns("*.safetensors*", "config.json"))
    pretrained(wide, tmp_path / "wide")
    told = refused(run, tmp_path / "out", "--base", family.base, "--tuned", family.tuned, "--onto", tmp_path / "wide")
    assert "different models" in told and "×32" in told and "×64" in told
    assert told.count("\n") == 1
    told = refused(run, tmp_path / "out", "--base", tmp_path / "wide", "--tuned", family.tuned, "--onto", family.target)
    assert "×32" in told and "×64" in told and told.count("\n") < 5


def test_a_model_with_more_layers_is_told_in_a_few_words(families: Families, run: Cli, tmp_path: Path) -> None:
    family, deep = families("llama"), tmp_path / "deep"
    shutil.copytree(family.target, deep)
    weights = read_weights(deep)
    more = {name.replace("layers.1.", "layers.2."): t for name, t in weights.items() if "layers.1." in name}
    for path in deep.glob("*.safetensors*"):
        path.unlink()
    write_weights(deep, weights | more)
    edit_json(deep / "config.json", {"num_hidden_layers": 3})
    told = refused(run, tmp_path / "out", "--base", family.base, "--tuned", family.tuned, "--onto", deep)
    assert told.count("\n") == 1 and "layers.2" in told and "different models" in told


def classifier(family: Family, folder: Path) -> Path:
    """The tuned model with a head that scores in place of one that speaks, as transformers' class for it saves it."""
    shutil.copytree(family.tuned, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    model = AutoModelForSequenceClassification.from_pretrained(family.tuned, num_labels=3, dtype=torch.bfloat16)
    assert type(model).__name__.endswith("ForSequenceClassification")
    model.save_pretrained(folder)
    assert "score.weight" in read_weights(folder) and "lm_head.weight" not in read_weights(folder)
    return folder


def test_a_classifier_is_refused_with_the_flags_that_decide(families: Families, run: Cli, tmp_path: Path) -> None:
    family = families("qwen3")
    tuned = classifier(family, tmp_path / "classifier")
    parents = ["--base", family.base, "--tuned", tuned, "--onto", family.target]
    told = refused(run, tmp_path / "out", *parents)
    assert "`score.weight` (3×32)" in told and "--drop '^score" in told
    assert "--config architectures=base|tuned|target" in told and "Qwen3ForSequenceClassification" in told
    told = refused(run, tmp_path / "out", *parents, "--drop", "^score")
    assert "--config architectures=base|tuned|target" in told and "`score.weight`" not in told
    flags = ["--drop", "^score", "--config", "architectures=target"]
    said = run("transfer", *parents, "--out", tmp_path / "out", *flags)
    assert said.status == 0, said.err
    assert run("transfer", *family.parents, "--out", tmp_path / "plain").status == 0
    assert differing(read_weights(tmp_path / "out"), read_weights(tmp_path / "plain")) == []
    assert read_json(tmp_path / "out" / "config.json")["architectures"] == ["Qwen3ForCausalLM"]


def test_the_body_of_a_classifier_without_a_head_to_match_can_be_carried_by_saying_so(
    families: Families, run: Cli, tmp_path: Path
) -> None:
    family = families("llama")
    tuned = classifier(family, tmp_path / "classifier")
    parents = ["--base", family.base, "--tuned", tuned, "--onto", family.target]
    told = refused(run, tmp_path / "out", *parents)
    assert "LlamaForSequenceClassification" in told and "LlamaForCausalLM" in told
    flags = ["--drop", r"^(score|lm_head)\.weight$", "--config", "architectures=target"]
    said = run("transfer", *parents, "--out", tmp_path / "out", *flags)
    assert said.status == 0, said.err
    found, target = read_weights(tmp_path / "out"), read_weights(family.target)
    assert torch.equal(found["lm_head.weight"], target["lm_head.weight"]) and "score.weight" not in found
    entries = {entry["name"]: entry for entry in read_json(tmp_path / "out" / "tuneport.json")["tensors"]}
    assert entries["score.weight"]["fate"] == "dropped" and entries["lm_head.weight"]["fate"] == "copied"
    assert read_json(tmp_path / "out" / "config.json")["architectures"] == ["LlamaForCausalLM"]


def test_a_value_head_beside_the_model_is_refused_until_it_is_dropped(
    families: Families, run: Cli, tmp_path: Path
) -> None:
    family, tuned = families("llama"), tmp_path / "tuned"
    shutil.copytree(family.tuned, tuned, ignore=shutil.ignore_patterns("*.safetensors*"))
    weights = read_weights(family.tuned)
    write_weights(tuned, weights | {"v_head.summary.weight": torch.ones(1, 32), "v_head.summary.bias": torch.ones(1)})
    parents = ["--base", family.base, "--tuned", tuned, "--onto", family.target]
    told = refused(run, tmp_path / "out", *parents)
    assert "`v_head.summary.weight` (1×32)" in told and "`v_head.summary.bias`" in told and "--drop" in told
    assert run("transfer", *parents, "--out", tmp_path / "out", "--drop", "^v_head").status == 0
    assert run("transfer", *family.parents, "--out", tmp_path / "plain").status == 0
    assert differing(read_weights(tmp_path / "out"), read_weights(tmp_path / "plain")) == []


def _gptq(weights: Weights) -> Weights:
    packed = {name: t for name, t in weights.items() if "q_proj" not in name}
    for name in weights.keys() - packed.keys():
        stem = name.removesuffix(".weight")
        packed |= {
            f"{stem}.qweight": torch.zeros(4, 32, dtype=torch.int32),
            f"{stem}.qzeros": torch.zeros(1, 4, dtype=torch.int32),
            f"{stem}.scales": torch.ones(1, 32, dtype=torch.float16),
            f"{stem}.g_idx": torch.zeros(32, dtype=torch.int32),
        }
    return packed


def _nf4(weights: Weights) -> Weights:
    packed = {name: t for name, t in weights.items() if "q_proj" not in name}
    for name in weights.keys() - packed.keys():
        packed |= {
            name: torch.zeros(512, 1, dtype=torch.uint8),
            f"{name}.absmax": torch.ones(16, dtype=torch.uint8),
            f"{name}.quant_map": torch.ones(16),
            f"{name}.nested_absmax": torch.ones(1),
            f"{name}.quant_state.bitsandbytes__nf4": torch.zeros(8, dtype=torch.uint8),
        }
    return packed


def _int8(weights: Weights) -> Weights:
    packed = dict(weights)
    for name in [name for name in weights if "q_proj" in name]:
        packed |= {name: torch.zeros(32, 32, dtype=torch.int8), name.replace("weight", "SCB"): torch.ones(32)}
    return packed


def _float8(weights: Weights) -> Weights:
    return {name: t.to(torch.float8_e4m3fn) if "proj" in name else t for name, t in weights.items()}


BITSANDBYTES = BitsAndBytesConfig(load_in_4bit=True).to_dict()
QUANTISED: dict[str, tuple[Callable[[Weights], Weights], dict[str, Any]]] = {
    "gptq": (_gptq, {"quant_method": "gptq", "bits": 4, "group_size": 128}),
    "gptq without a word in the config": (_gptq, {}),
    "awq": (_gptq, {"quant_method": "awq", "bits": 4}),
    "bitsandbytes 4 bit": (_nf4, BITSANDBYTES),
    "bitsandbytes without a word in the config": (_nf4, {}),
    "bitsandbytes 8 bit": (_int8, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "int8 without a word in the config": (_int8, {}),
    "float8": (_float8, {}),
    "float8 whose scales are missing": (_float8, {"quant_method": "fp8", "weight_block_size": [128, 128]}),
}


@pytest.mark.parametrize("side", ["base", "tuned", "target"])
@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_weights_are_refused_in_words(
    kind: str, side: str, families: Families, run: Cli, tmp_path: Path
) -> None:
    family, (pack, config) = families("llama"), QUANTISED[kind]
    folder = tmp_path / side
    shutil.copytree(family.root / side, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    save_file(pack(read_weights(family.root / side)), folder / "model.safetensors", metadata={"format": "pt"})
    if config:
        edit_json(folder / "config.json", {"quantization_config": config})
    flags = {"base": "--base", "tuned": "--tuned", "target": "--onto"}
    parents = [*family.parents]
    parents[parents.index(flags[side]) + 1] = str(folder)
    told = refused(run, tmp_path / "out", *parents)
    assert f"{side} {side} is quantised" in told and "dequantise" in told and told.count("\n") == 1


def test_an_adapter_is_named_as_one(families: Families, run: Cli, tmp_path: Path) -> None:
    family, adapter = families("llama"), tmp_path / "adapter"
    write_json(adapter / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "org/base"})
    save_file({"base_model.model.q_proj.lora_A.weight": torch.ones(2, 2)}, adapter / "adapter_model.safetensors")
    told = refused(run, tmp_path / "out", "--base", family.base, "--tuned", adapter, "--onto", family.target)
    assert "adapter" in told and "`q_proj` has LoRA A, but A and B belong together" in told
    told = refused(run, tmp_path / "out", "--base", adapter, "--tuned", family.tuned, "--onto", family.target)
    assert "only --tuned takes one" in told and "merge_and_unload" in told


def test_an_architecture_changed_by_tuning_stops_naming_the_flag(families: Families, run: Cli, tmp_path: Path) -> None:
    family, tuned = families("llama"), tmp_path / "tuned"
    shutil.copytree(family.tuned, tuned)
    stretched = {"factor": 4.0, "rope_type": "linear"}
    edit_json(tuned / "config.json", {"rope_scaling": stretched, "rms_norm_eps": 1e-6})
    parents = ["--base", family.base, "--tuned", tuned, "--onto", family.target]
    told = refused(run, tmp_path / "out", *parents)
    assert "--config rope_scaling=base|tuned|target" in told and "--config rms_norm_eps=base|tuned|target" in told
    flags = ["--config", "rope_scaling=target", "--config", "rms_norm_eps=tuned"]
    said = run("transfer", *parents, "--out", tmp_path / "out", *flags)
    assert said.status == 0, said.err
    written = read_json(tmp_path / "out" / "config.json")
    assert written["rope_scaling"]["rope_type"] == "llama3" and written["rms_norm_eps"] == 1e-6


def test_parents_are_never_written_to(families: Families, run: Cli, tmp_path: Path) -> None:
    family = families("llama")
    before = [folder_digest(folder) for folder in (family.base, family.tuned, family.target)]
    for out in (family.base, family.target / "out", family.root):
        said: Ran = run("transfer", *family.parents, "--out", out)
        assert said.status == 1 and re.search(r"out|inside|exists|there", said.err)
    assert [folder_digest(folder) for folder in (family.base, family.tuned, family.target)] == before


def test_a_model_of_the_same_make_from_another_start_is_doubted(families: Families, run: Cli, tmp_path: Path) -> None:
    family, other = families("qwen3"), tmp_path / "other"
    shutil.copytree(family.target, other, ignore=shutil.ignore_patterns("*.safetensors*"))
    generator = torch.Generator().manual_seed(99)
    unrelated = {
        name: torch.randn(t.shape, generator=generator).to(t.dtype) for name, t in read_weights(family.target).items()
    }
    write_weights(other, perturbed(unrelated, 1, 0.1))
    parents = ["--base", family.base, "--tuned", family.tuned, "--onto", other]
    assert run("transfer", *parents, "--out", tmp_path / "strict", "--strict").status == 1
    assert not (tmp_path / "strict").exists()
    said = run("transfer", *parents, "--out", tmp_path / "out")
    assert said.status == 0 and "unrelated" in said.err
    assert "unrelated" in read_json(tmp_path / "out" / "tuneport.json")["warnings"][0]
