"""What a transfer does with an adapter and tells of it: fates, tokens, its own diff vector, its memory."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import tiny_adapters
from support import tiny_checkpoints as tiny
from support.command_results import Cli
from support.tiny_adapters import KINDS, Made, edit
from support.written_manifests import by_name, manifest
from transformers import AutoModelForCausalLM

from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.diffvector.run import apply, diff, transfer
from tuneport.engine import budget as budgets
from tuneport.engine import product
from tuneport.engine.choices import Choices
from tuneport.engine.summands.pair_summand import plan_transfer
from tuneport.errors import TuneportError
from tuneport.verification import verify


def test_what_it_does_to_each_tensor_stands_in_the_manifest(made: Made, tmp_path: Path) -> None:
    adapter = made("rank-stabilised with patterns")
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out")
    told = by_name(tmp_path / "out")
    down = told["model.layers.1.mlp.down_proj.weight"]
    assert down["fate"] == "transferred" and down["reason"] == f"low-rank, r=3, scaling={5 / math.sqrt(3):g}"
    assert down["norms"]["diff"] > 0
    assert told["model.layers.0.self_attn.q_proj.weight"]["reason"] == f"low-rank, r=7, scaling={8 / math.sqrt(7):g}"
    assert told["model.layers.0.self_attn.k_proj.weight"]["reason"] == "low-rank, r=4, scaling=16"
    norm = told["model.norm.weight"]
    assert norm["fate"] == "copied" and norm["reason"] == "the adapter does not train it" and norm["scale"] is None
    entry = next(entry for entry in manifest(tmp_path / "out")["inputs"] if entry["role"] == "tuned")
    assert entry["adapter"] == "rank-stabilised LoRA, r=4, alpha=8, with patterns"
    assert "- peft\n" in (tmp_path / "out" / "README.md").read_text()
    assert manifest(tmp_path / "out")["measures"]["shift_norm"] is None, "the base's weights were not read"


def test_an_adapter_of_saved_modules_alone_is_carried_and_measures_no_drift(made: Made, tmp_path: Path) -> None:
    adapter = made("two modules", torch.float32)
    own = shutil.copytree(adapter.adapter, tmp_path / "own")
    norm = tiny.read_weights(adapter.base)["model.norm.weight"] * 1.5
    save_file({"base_model.model.model.norm.weight": norm}, own / "adapter_model.safetensors")
    transfer(adapter.base, own, adapter.target, tmp_path / "out")
    told = by_name(tmp_path / "out")
    assert told["model.norm.weight"]["reason"] == "saved as a whole"
    assert sum(entry["fate"] == "transferred" for entry in told.values()) == 1
    measured = manifest(tmp_path / "out")["measures"]
    assert measured["shift_norm"] is None and measured["diff_norm"] == pytest.approx(float(norm.norm()) / 3, rel=1e-6)


def test_the_norm_of_the_difference_is_that_of_the_merge(made: Made, tmp_path: Path) -> None:
    adapter = made("embedding and head", torch.float32)
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out")
    base = tiny.read_weights(adapter.base)
    square = sum(float(((adapter.merged[name] - tensor).double() ** 2).sum()) for name, tensor in base.items())
    assert manifest(tmp_path / "out")["measures"]["diff_norm"] == pytest.approx(math.sqrt(square), rel=1e-5)


def test_rules_and_stochastic_rounding_hold_for_products_too(made: Made, tmp_path: Path) -> None:
    adapter = made("plain")
    rules = {"q_proj": 0, "k_proj": -2}
    transfer(
        adapter.base, adapter.adapter, adapter.target, tmp_path / "out", rules=rules, rounding="stochastic", seed=3
    )
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
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "dropped", new_tokens="drop")
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


def test_a_target_with_more_tokens_takes_an_adapter_that_trained_no_rows(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(24)]
    base, longer = tiny.llama(1), tiny.llama(2, rows=32)
    tiny.write_model(tmp_path / "base", base, words=words, shards=len(base))  # beyond a tensor its file ends
    tiny.write_model(tmp_path / "target", longer, words=[*words, *(f"new{i}" for i in range(8))])
    tiny.write_lora(tmp_path / "tuned", base, 2)
    transfer(tmp_path / "base", tmp_path / "tuned", tmp_path / "target", tmp_path / "out")
    told, found = by_name(tmp_path / "out"), tiny.read_weights(tmp_path / "out")
    rows = [name for name, tensor in longer.items() if tensor.shape[0] == 32]
    assert rows and all(told[name]["fate"] == "copied" for name in rows)
    tiny.assert_same({name: found[name] for name in rows}, {name: longer[name] for name in rows})


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
        transfer(adapter.base, swapped, adapter.target, tmp_path / "strict", strict=True)
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


@pytest.mark.parametrize("kind", KINDS)
def test_diff_then_apply_gives_every_byte_of_the_transfer(made: Made, kind: str, tmp_path: Path) -> None:
    adapter = made(kind)
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out", scale=0.6)
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
    diff(adapter.base, adapter.adapter, tmp_path / "diff", encoding="float32")
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
