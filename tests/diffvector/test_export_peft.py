"""`export --as peft` writes an adapter that peft itself loads on the target: target + Δ, by peft and transformers."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support import tiny_adapters as adapters
from support import tiny_checkpoints as tiny
from support.command_results import Cli
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    Gemma3Config,
    GPT2Config,
    LlamaConfig,
    Qwen2VLConfig,
    Qwen3MoeConfig,
)

import tuneport
from tuneport.diffvector.exports.peft_modules import target_modules
from tuneport.errors import DoubtError, NumericsError, OutputError, PairingError, TakenError, UsageError

IDS = torch.tensor([[1, 2, 3, 41, 5, 7, 9, 12]])
ROUNDING = 1e-6  # of float32, relative to ‖Δ‖


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def loaded(target: Path, adapter: Path, rows: int | None = None, kind: Any = AutoModelForCausalLM) -> Any:
    """The adapter on the target, by peft; no key of it may be left over or missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*(missing|unexpected).*adapter keys.*")
        model = kind.from_pretrained(target, dtype=torch.float32)
        if rows is not None:
            model.resize_token_embeddings(rows)
        return PeftModel.from_pretrained(model, adapter)


def assert_applied(where: Path, diff: Path, target: Path, adapter: Path, rows: int | None = None) -> None:
    """Adapter on target, and what `apply` writes in float32, give the same logits."""
    tuneport.apply(diff, target, where / "applied", dtype="float32")
    wanted = logits(AutoModelForCausalLM.from_pretrained(where / "applied", dtype=torch.float32))
    found = logits(loaded(target, adapter, rows))
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 2e-5 * wanted.abs().max()


def saved(config: Any, where: Path, seeds: Mapping[str, float], kind: Any = AutoModelForCausalLM) -> dict[str, Path]:
    """Base, tuned and target of a config: the same model with noise of each size."""
    torch.manual_seed(3)
    model = kind.from_config(config).float()
    words = [f"w{number}" for number in range(config.get_text_config().vocab_size)]
    first = {name: value.clone() for name, value in model.state_dict().items()}
    found = {}
    for number, (role, by) in enumerate(seeds.items()):
        made = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(first[name] + by * torch.randn(parameter.shape, generator=made))
        model.save_pretrained(where / role)
        (where / role / "tokenizer.json").write_text(json.dumps(tiny.tokenizer(words)))
        found[role] = where / role
    return found


SIZES = {"base": 0.05, "tuned": 0.02, "target": 0.06}


def exported(where: Path, paths: Mapping[str, Path], **options: Any) -> Any:
    tuneport.diff(paths["base"], paths["tuned"], where / "diff")
    return tuneport.export(where / "diff", paths["target"], where / "lora", "peft", **options)


@pytest.mark.parametrize(
    "kind",
    ["plain", "rank-stabilised with patterns", "fan_in_fan_out", "embedding and head", "embedding kept tied"],
)
def test_a_lora_comes_back_as_that_lora(tmp_path: Path, kind: str) -> None:
    made = adapters.make(tmp_path, adapters.KINDS[kind], torch.float32)
    tuneport.diff(made.base, made.adapter, tmp_path / "diff")
    found = tuneport.export(tmp_path / "diff", made.target, tmp_path / "lora", "peft")
    assert found.manifest["exported"]["error"] < ROUNDING
    assert found.manifest["exported"]["survives"] == pytest.approx(1, abs=1e-6)
    assert found.manifest["exported"]["left_out"] == []
    weights = adapters.weights_of(made.adapter).items()
    own = {name: value.shape for name, value in weights if "lora_" in name}  # peft may save the layers below too
    written = {name: value.shape for name, value in load_file(tmp_path / "lora/adapter_model.safetensors").items()}
    assert written == own
    assert_applied(tmp_path, tmp_path / "diff", made.target, tmp_path / "lora")
    again = tuneport.transfer(made.base, tmp_path / "lora", made.base, tmp_path / "from-export", dtype="float32")
    first = tuneport.transfer(made.base, made.adapter, made.base, tmp_path / "from-lora", dtype="float32")
    assert again.manifest["measures"]["diff_norm"] == pytest.approx(first.manifest["measures"]["diff_norm"], rel=1e-6)
    one, other = (tiny.read_weights(tmp_path / name) for name in ("from-export", "from-lora"))
    assert max(float((one[name] - other[name]).abs().max()) for name in other) < 1e-6


@pytest.mark.parametrize(
    "config",
    [
        adapters.llama(),
        adapters.llama(tied=True),
        adapters.gpt2(),
        adapters.gemma(),
    ],
    ids=["llama", "tied llama", "gpt2", "gemma2"],
)
def test_at_full_rank_only_what_lora_cannot_hold_is_missing(tmp_path: Path, config: Any) -> None:
    paths = saved(config, tmp_path, SIZES)
    found = exported(tmp_path, paths, rank=1000, rules={r"norm|bias|ln_": 0})
    told = found.manifest["exported"]
    assert told["left_out"] == []
    assert told["error"] < ROUNDING
    tuneport.apply(tmp_path / "diff", paths["target"], tmp_path / "out", dtype="float32", rules={r"norm|bias|ln_": 0})
    wanted = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32))
    assert (logits(loaded(paths["target"], tmp_path / "lora")) - wanted).abs().max() < 2e-5 * wanted.abs().max()


def test_tensors_of_one_dimension_are_listed_with_their_share_of_the_difference(tmp_path: Path) -> None:
    paths = saved(adapters.llama(), tmp_path, SIZES)
    told = exported(tmp_path, paths, rank=1000).manifest["exported"]
    base, tuned = (tiny.read_weights(paths[role]) for role in ("base", "tuned"))
    squares = {name: float((tuned[name].double() - base[name].double()).square().sum()) for name in base}
    length = math.sqrt(sum(squares.values()))
    wanted = {name: math.sqrt(squares[name]) / length for name in base if base[name].ndim == 1}
    assert len(wanted) == 5
    assert {each["name"]: each["share"] for each in told["left_out"]} == pytest.approx(wanted, rel=1e-5)
    assert told["error"] == pytest.approx(math.sqrt(sum(share**2 for share in wanted.values())), rel=1e-4)


def test_ranks_errors_and_shares_are_those_of_numpys_decomposition(tmp_path: Path) -> None:
    paths = saved(adapters.llama(), tmp_path, SIZES)
    base, tuned = (tiny.read_weights(paths[role]) for role in ("base", "tuned"))
    tuneport.diff(paths["base"], paths["tuned"], tmp_path / "diff")
    for name, options in {"rank": {"rank": 5}, "energy": {"energy": 0.8}}.items():
        found = tuneport.export(tmp_path / "diff", paths["target"], tmp_path / name, "peft", **options)
        assert len(found.manifest["exported"]["matrices"]) == 16
        for each in found.manifest["exported"]["matrices"]:
            matrix = (tuned[each["name"]] - base[each["name"]]).numpy()
            values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
            energy = np.cumsum(values**2) / np.sum(values**2)
            rank = 5 if name == "rank" else int(np.argmax(energy >= 0.8)) + 1
            assert each["rank"] == rank
            assert each["survives"] == pytest.approx(math.sqrt(energy[rank - 1]), rel=1e-5)
            assert each["error"] == pytest.approx(math.sqrt(1 - energy[rank - 1]), rel=1e-4)
            assert each["diff_norm"] == pytest.approx(float(np.linalg.norm(values)), rel=1e-5)
        config = json.loads((tmp_path / name / "adapter_config.json").read_text())
        assert config["lora_alpha"] == config["r"]
        assert config["alpha_pattern"] == config["rank_pattern"]


def test_a_budget_is_kept_and_spent_where_a_byte_holds_most(tmp_path: Path) -> None:
    paths = saved(adapters.llama(), tmp_path, SIZES)
    found = exported(tmp_path, paths, budget="20%")
    target = sum(value.numel() * 4 for value in tiny.read_weights(paths["target"]).values())
    tensors = load_file(tmp_path / "lora/adapter_model.safetensors")
    spent = sum(value.numel() * 4 for value in tensors.values())
    base, tuned = (tiny.read_weights(paths[role]) for role in ("base", "tuned"))
    gains = []  # of every direction of every matrix: energy for a byte, and bytes
    for name, value in base.items():
        if value.ndim == 2:
            values = np.linalg.svd((tuned[name] - value).double().numpy(), compute_uv=False)
            gains += [(each**2 / sum(value.shape), 4 * sum(value.shape), each**2) for each in values]
    gains.sort(reverse=True)
    most, left = 0.0, 0.2 * target
    for _, cost, energy in gains:
        if cost <= left:
            most, left = most + energy, left - cost
    kept = sum((each["survives"] or 0) ** 2 * each["diff_norm"] ** 2 for each in found.manifest["exported"]["matrices"])
    assert spent <= 0.2 * target
    assert kept == pytest.approx(most, rel=1e-3)
    assert len({each["rank"] for each in found.manifest["exported"]["matrices"]}) > 1
    loaded(paths["target"], tmp_path / "lora")


def test_new_tokens_are_saved_as_whole_matrices_or_left_out(tmp_path: Path) -> None:
    made = adapters.make(tmp_path, adapters.KINDS["resized, modules saved"], torch.float32)
    tuneport.diff(made.base, made.adapter, tmp_path / "diff")
    told: list[str] = []
    found = tuneport.export(tmp_path / "diff", made.target, tmp_path / "lora", "peft", warn=told.append)
    assert found.manifest["exported"]["rows"] == 63
    assert any("modules_to_save" in warning for warning in told)
    assert (tmp_path / "lora/tokenizer.json").exists()
    assert_applied(tmp_path, tmp_path / "diff", made.target, tmp_path / "lora", 63)
    without = tuneport.export(tmp_path / "diff", made.target, tmp_path / "without", "peft", new_tokens="drop")
    assert without.manifest["exported"]["rows"] is None
    assert without.manifest["exported"]["saved"] == []
    loaded(made.target, tmp_path / "without")
    with pytest.raises(DoubtError):
        tuneport.export(tmp_path / "diff", made.target, tmp_path / "strict", "peft", strict=True)


def test_experts_and_routers_are_left_out_with_their_share(tmp_path: Path) -> None:
    config = Qwen3MoeConfig(
        hidden_size=16,
        intermediate_size=24,
        moe_intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        vocab_size=60,
        decoder_sparse_step=1,
    )
    paths = saved(config, tmp_path, SIZES)
    found = exported(tmp_path, paths, rank=1000, rules={"norm": 0})
    left = found.manifest["exported"]["left_out"]
    assert any("experts" in each["name"] for each in left)
    assert any(each["name"].endswith("gate.weight") for each in left)
    assert sum(each["share"] ** 2 for each in left) == pytest.approx(found.manifest["exported"]["error"] ** 2, rel=1e-4)
    rules = {"norm|experts|gate": 0}
    tuneport.apply(tmp_path / "diff", paths["target"], tmp_path / "out", rules=rules)
    wanted = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32))
    assert (logits(loaded(paths["target"], tmp_path / "lora")) - wanted).abs().max() < 2e-5 * wanted.abs().max()


def test_a_published_checkpoint_without_the_prefix_of_its_class(tmp_path: Path) -> None:
    paths = saved(adapters.gpt2(), tmp_path, SIZES)
    for path in paths.values():
        weights = {name.removeprefix("transformer."): value for name, value in tiny.read_weights(path).items()}
        tiny.write_weights(path, weights)
    found = exported(tmp_path, paths, rank=1000, rules={r"bias|ln_": 0})
    assert found.manifest["exported"]["matrices"][0]["module"].startswith("transformer.h.0")
    tuneport.apply(tmp_path / "diff", paths["target"], tmp_path / "out", rules={r"bias|ln_": 0})
    wanted = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32))
    assert (logits(loaded(paths["target"], tmp_path / "lora")) - wanted).abs().max() < 2e-5 * wanted.abs().max()


GEMMA3 = {
    "text_config": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": 60,
    },
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
    "mm_tokens_per_image": 1,
    "image_token_index": 59,
}
QWEN2_VL = {
    "text_config": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 60,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
    },
    "vision_config": {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
    "image_token_id": 59,
    "video_token_id": 58,
}


@pytest.mark.parametrize("config", [Gemma3Config(**GEMMA3), Qwen2VLConfig(**QWEN2_VL)], ids=["gemma3", "qwen2-vl"])
def test_modules_of_multimodal_models_are_called_as_in_the_loaded_model(tmp_path: Path, config: Any) -> None:
    made = saved(config, tmp_path, SIZES, AutoModelForImageTextToText)
    rules = {r"norm|bias|ln_": 0}
    exported(tmp_path, made, rank=1000, rules=rules)
    tuneport.apply(tmp_path / "diff", made["target"], tmp_path / "out", dtype="float32", rules=rules)
    wanted = logits(AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=torch.float32))
    found = logits(loaded(made["target"], tmp_path / "lora", kind=AutoModelForImageTextToText))
    assert (found - wanted).abs().max() < 2e-5 * wanted.abs().max()


def test_a_short_name_is_a_target_only_where_it_means_modules_with_factors_alone() -> None:
    held = ["layers.0.q", "layers.1.q", "merger.mlp.0", "merger.mlp.2", "other.v"]
    others = ["layers", "layers.0", "layers.1", "merger", "merger.mlp", "vision.v", "layers.0.mlp.1"]
    assert target_modules(held, others) == ["merger.mlp.0", "merger.mlp.2", "other.v", "q"]


SIZED = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
OTHERS: dict[str, dict[str, Any]] = {
    "gpt_neox": {**SIZED, "max_position_embeddings": 64},
    "opt": {**SIZED, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "mamba": {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 1, "state_size": 8},
    "bloom": {"vocab_size": 60, "hidden_size": 32, "n_layer": 1, "n_head": 2},
    "t5": {"vocab_size": 60, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2, "pad_token_id": 0},
}  # fmt: skip  (one kind a line)
LEFT = {
    "t5": {"shared.weight"},
    "opt": {"model.decoder.embed_positions.weight"},
    "mamba": {"backbone.layers.0.mixer.out_proj.weight"},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_peft_loads_it_for_other_kinds_of_models(tmp_path: Path, kind: str) -> None:
    more = {"decoder_start_token_id": 0} if kind == "t5" else {}
    made_of = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    paths = saved(AutoConfig.for_model(kind, **OTHERS[kind], **more), tmp_path, SIZES, made_of)
    found = exported(tmp_path, paths, rank=1000)
    left = {each["name"] for each in found.manifest["exported"]["left_out"]}
    assert left >= LEFT.get(kind, set())
    tuneport.apply(tmp_path / "diff", paths["target"], tmp_path / "out", rules={f"^{re.escape(n)}$": 0 for n in left})
    given = {"input_ids": IDS, **({"decoder_input_ids": IDS} if kind == "t5" else {})}
    with torch.no_grad():
        wanted = made_of.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()(**given).logits
        answer = loaded(paths["target"], tmp_path / "lora", kind=made_of).eval()(**given).logits
    assert (
        answer - wanted
    ).abs().max() < 1e-4 * wanted.abs().max()  # a state space model's exponentials enlarge rounding


def test_scale_and_rules_are_those_of_apply(tmp_path: Path) -> None:
    made = adapters.make(tmp_path, adapters.KINDS["plain"], torch.float32)
    tuneport.diff(made.base, made.adapter, tmp_path / "diff")
    options = {"scale": 0.5, "rules": {"q_proj": -2.0, "down_proj": 0}}
    found = tuneport.export(tmp_path / "diff", made.target, tmp_path / "lora", "peft", **options)
    assert not any("down_proj" in each["name"] for each in found.manifest["exported"]["matrices"])
    tuneport.apply(tmp_path / "diff", made.target, tmp_path / "out", dtype="float32", **options)
    wanted = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32))
    assert (logits(loaded(made.target, tmp_path / "lora")) - wanted).abs().max() < 2e-5 * wanted.abs().max()


def test_the_commands_that_read_folders_know_an_export(cli: Cli, tmp_path: Path) -> None:
    made = adapters.make(tmp_path, adapters.KINDS["plain"])
    assert cli("diff", "--base", made.base, "--tuned", made.adapter, "--out", tmp_path / "diff").status == 0
    command = ["export", tmp_path / "diff", "--as", "peft", "--onto", made.target, "--rank", "2"]
    planned = cli(*command, "--out", tmp_path / "lora", "--dry-run", "--json").json()
    assert len(planned["tensors"]) == 14
    assert planned["memory"] > 0
    assert not (tmp_path / "lora").exists()
    assert (ran := cli(*command, "--out", tmp_path / "lora", "--json")).status == 0, ran.err
    assert ran.json()["rank"] == 2
    assert ran.json()["error"] > 0.1
    assert any("survives" in warning for warning in ran.json()["warnings"])
    assert cli(*command, "--out", tmp_path / "lora", "--json").json()["already_done"] is True
    assert cli("inspect", tmp_path / "lora", "--json").json()["kind"] == "adapter"
    assert cli("verify", tmp_path / "lora").status == 0
    assert cli("verify", tmp_path / "lora", "--diff", tmp_path / "diff", "--onto", made.target).status == 2
    flipped = tmp_path / "lora/adapter_model.safetensors"
    content = bytearray(flipped.read_bytes())
    content[-1] ^= 1
    flipped.write_bytes(content)
    assert cli("verify", tmp_path / "lora").status == 1
    other = [*command[:-1], "3", "--out", tmp_path / "lora"]
    assert cli(*other).status == 1
    assert cli(*other, "--overwrite").status == 0


def test_bytes_repeat_for_any_number_of_workers(tmp_path: Path) -> None:
    paths = saved(adapters.llama(), tmp_path, SIZES)
    tuneport.diff(paths["base"], paths["tuned"], tmp_path / "diff")
    found = []
    for workers in (1, 3):
        tuneport.export(tmp_path / "diff", paths["target"], tmp_path / f"w{workers}", "peft", rank=4, workers=workers)
        found.append((tmp_path / f"w{workers}/adapter_model.safetensors").read_bytes())
    assert found[0] == found[1]


KILLED = """
import os, signal, sys
import tuneport
from tuneport.diffvector.exports import peft_adapter
kept, first = [], peft_adapter.AdapterWork._keep
def keep(self, *given):
    first(self, *given)
    kept.append(given)
    if len(kept) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
peft_adapter.AdapterWork._keep = keep
tuneport.export(sys.argv[1], sys.argv[2], sys.argv[3], "peft", rank=4, workers=1)
"""


def test_a_killed_export_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    paths = saved(adapters.llama(), tmp_path, SIZES)
    whole = exported(tmp_path, paths, rank=4)
    arguments = [str(tmp_path / "diff"), str(paths["target"]), str(tmp_path / "again")]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "again").exists()
    assert len(list((tmp_path / "again.partial/factors").glob("*.told.npy"))) == 5
    assert tuneport.inspect(tmp_path / "again.partial")["kind"] == "unfinished output"
    torn = next((tmp_path / "again.partial/factors").glob("*.values.npy"))
    content = torn.read_bytes()
    torn.write_bytes(content[:20])
    with pytest.raises(OutputError):
        tuneport.export(*arguments, "peft", rank=4)
    torn.write_bytes(content)
    with pytest.raises(TakenError):
        tuneport.export(*arguments, "peft", rank=5)
    tuneport.export(*arguments, "peft", rank=4)
    assert {path.name for path in (tmp_path / "again").iterdir()} == {path.name for path in whole.out.iterdir()}
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (whole.out / name).read_bytes()


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    paths = saved(LlamaConfig(**{**adapters.llama().to_dict(), "num_hidden_layers": 1}), tmp_path, SIZES)
    tuneport.diff(paths["base"], paths["tuned"], tmp_path / "diff")
    arguments = (tmp_path / "diff", paths["target"], tmp_path / "lora")
    with pytest.raises(UsageError) as wrong:
        tuneport.export(*arguments, "peft", rank=3, energy=0.5)
    assert {fault.option for fault in wrong.value.faults} == {"rank", "energy"}
    for options in ({"rank": 0}, {"energy": 1.5}, {"budget": "0%"}, {"budget": "much"}):
        with pytest.raises(UsageError):
            tuneport.export(*arguments, "peft", **options)
    with pytest.raises(UsageError):
        tuneport.export(*arguments, "sparse", rank=3)
    with pytest.raises(UsageError):
        tuneport.export(*arguments, "gguf")
    with pytest.raises(PairingError):
        (tmp_path / "other").mkdir()
        strange = saved(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=60), tmp_path / "other", {"x": 0.1})
        tuneport.export(tmp_path / "diff", strange["x"], tmp_path / "lora", "peft")
    with pytest.raises(NumericsError):
        tuneport.export(*arguments, "peft", rules={".": 0})
    assert not (tmp_path / "lora").exists()
