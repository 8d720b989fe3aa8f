"""The other way: an instruct model of the newer Llama, onto the older base that lacks some of its tokens."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.carried_models import Carried
from support.command_results import Cli
from support.model_families import TUNING, Family
from support.slow_reference import carried as slowly_carried
from support.slow_reference import differing, tokens_of
from support.tiny_models import edit_json, perturbed, read_json, read_weights, write_weights
from transformers import AutoModelForCausalLM, AutoTokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] }}<|eot_id|>{% endfor %}"
)


@pytest.fixture(scope="module")
def backward(transfers: Callable[[str], Carried], tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Llama 3.1 and its instruct model, which ends with one of three tokens, onto 3.0, which has two of them."""
    forward, root = transfers("llama").family, tmp_path_factory.mktemp("backward")
    shutil.copytree(forward.target, root / "base")
    shutil.copytree(forward.target, root / "tuned", ignore=shutil.ignore_patterns("*.safetensors*", "LICENSE"))
    shutil.copytree(forward.base, root / "target")
    ids = tokens_of(root / "base")
    tuned = perturbed(read_weights(root / "base"), 7, TUNING)
    tuned["lm_head.weight"][ids["<|eot_id|>"], 0] = 1.0
    write_weights(root / "tuned", tuned)
    stops = [ids[token] for token in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")]
    for file in ("config.json", "generation_config.json"):
        edit_json(root / "tuned" / file, {"eos_token_id": stops}, ["_from_model_config"])
    edit_json(root / "tuned" / "tokenizer_config.json", {"eos_token": "<|eot_id|>", "chat_template": TEMPLATE})
    return Family(root, end="<|eot_id|>")


@pytest.fixture
def out(backward: Family, run: Cli, tmp_path: Path) -> Path:
    said = run("transfer", *backward.parents, "--out", tmp_path / "out")
    assert said.status == 0, said.err
    assert said.err.count("warning: ") == said.err.count("<|eom_id|>") == 3  # lost rows, and a file each that names it
    return tmp_path / "out"


def test_every_tensor_is_what_the_formula_gives(backward: Family, out: Path, run: Cli) -> None:
    wanted = slowly_carried(backward.base, backward.tuned, backward.target, out, {}, (False,) * 3)
    assert differing(read_weights(out), wanted) == []
    assert run("verify", out, *backward.parents, "--full").status == 0
    assert read_json(out / "config.json")["rope_scaling"] is None and tokens_of(out) == tokens_of(backward.target)


def test_the_end_tokens_that_the_older_version_has_are_carried(backward: Family, out: Path) -> None:
    ids = tokens_of(out)
    for file in ("config.json", "generation_config.json"):
        assert read_json(out / file)["eos_token_id"] == [ids["<|end_of_text|>"], ids["<|eot_id|>"]]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    said = tokenizer.apply_chat_template([{"role": "user", "content": "fox"}], return_tensors="pt", return_dict=True)
    with torch.no_grad():
        written = model.generate(**said, max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert written[0, said["input_ids"].shape[1] :].tolist() == [ids["<|eot_id|>"]]


def test_strict_stops_at_a_lost_end_token(backward: Family, run: Cli, tmp_path: Path) -> None:
    said = run("transfer", *backward.parents, "--out", tmp_path / "out", "--strict")
    assert said.status == 1 and "<|eom_id|>" in said.err and not (tmp_path / "out").exists()


def test_where_only_the_bases_own_end_token_is_left_the_run_stops(backward: Family, run: Cli, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    shutil.copytree(backward.tuned, tuned)
    ids = tokens_of(tuned)
    for file in ("config.json", "generation_config.json"):
        edit_json(tuned / file, {"eos_token_id": [ids["<|end_of_text|>"], ids["<|eom_id|>"]]})
    parents = ["--base", backward.base, "--tuned", tuned, "--onto", backward.target]
    said = run("transfer", *parents, "--out", tmp_path / "out")
    assert said.status == 1 and "never stops" in said.err and not (tmp_path / "out").exists()
    flags = ["--config", "eos_token_id=target", "--config", "generation.eos_token_id=target"]
    said = run("transfer", *parents, "--out", tmp_path / "out", *flags)
    assert said.status == 0, said.err
    assert read_json(tmp_path / "out" / "config.json")["eos_token_id"] == tokens_of(tmp_path / "out")["<|end_of_text|>"]
