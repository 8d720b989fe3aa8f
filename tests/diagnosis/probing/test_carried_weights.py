"""What is asked in memory is what a transfer writes, bit by bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

import torch
from support.probed_models import Asked, weights_in_float32
from support.tiny_lines import renumber, rewrite
from support.tiny_models import edit_json, read_weights
from transformers import AutoModelForCausalLM

import tuneport
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.checkpoint.reading import readers_by_role
from tuneport.diagnosis.probing.carried_weights import carry
from tuneport.engine.choices import Choices
from tuneport.engine.summands.pair_summand import plan_transfer
from tuneport.errors import CheckpointError


def carried(models: tuple[Path, Path, Path], **choices: Any) -> dict[str, torch.Tensor]:
    """The weights of target + Δ in memory."""
    opened = [open_checkpoint(path, role) for path, role in zip(models, ("base", "tuned", "target"), strict=True)]
    plan = plan_transfer(*opened, Choices(**choices))
    model = AutoModelForCausalLM.from_pretrained(models[2], dtype=torch.float32)
    with readers_by_role(plan.inputs) as readers:
        carry(model, "target", plan, readers, 2)
    return dict(model.state_dict())


def same_bits(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    assert one, "no weights"
    return one.keys() == other.keys() and all(
        torch.equal(one[name].view(torch.int32), other[name].view(torch.int32)) for name in one
    )


@pytest.mark.parametrize("choices", [{}, {"scale": 0.7}, {"dtype": "float32"}, {"rules": {"mlp": 0.0}}])
def test_weights_in_memory_are_those_that_transfer_writes(
    asked: Asked, tmp_path: Path, choices: dict[str, Any]
) -> None:
    tuneport.transfer(*asked.models, tmp_path / "out", **choices)
    from tuneport.engine.choices import parse_rules

    own = {name: parse_rules(value) if name == "rules" else value for name, value in choices.items()}
    assert same_bits(carried(asked.models, **own), weights_in_float32(tmp_path / "out"))


def test_rows_that_meet_by_token_are_those_that_transfer_writes(asked: Asked, tmp_path: Path) -> None:
    models = asked.base, asked.tuned, renumber(asked.target, tmp_path / "renumbered", 3, inserted=5)
    tuneport.transfer(*models, tmp_path / "out")
    assert same_bits(carried(models), weights_in_float32(tmp_path / "out"))


def test_a_vocabulary_that_the_fine_tuning_extended_grows_in_memory_too(asked: Asked, tmp_path: Path) -> None:
    tuned = Path(shutil.copytree(asked.tuned, tmp_path / "tuned"))
    path = tuned / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    rows = len(tokenizer["model"]["vocab"])
    added = [{**tokenizer["added_tokens"][0], "id": rows + n, "content": f"<new{n}>"} for n in range(2)]
    path.write_text(json.dumps({**tokenizer, "added_tokens": tokenizer["added_tokens"] + added}))
    weights = read_weights(tuned)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], torch.full((2, weights[name].shape[1]), 0.25)])
    rewrite(tuned, tuned, weights)
    edit_json(tuned / "config.json", {"vocab_size": rows + 2})
    models = asked.base, tuned, asked.target
    tuneport.transfer(*models, tmp_path / "out")
    found = carried(models)
    assert found["lm_head.weight"].shape[0] == rows + 2
    assert same_bits(found, weights_in_float32(tmp_path / "out"))


def test_a_model_that_is_not_the_targets_tensors_is_refused(asked: Asked) -> None:
    opened = [open_checkpoint(path, role) for path, role in zip(asked.models, ("base", "tuned", "target"), strict=True)]
    plan = plan_transfer(*opened, Choices())
    other = AutoModelForCausalLM.from_pretrained(asked.tuned, dtype=torch.float32)
    with (
        readers_by_role(plan.inputs) as readers,
        pytest.raises(CheckpointError, match="differs from the checkpoint"),
    ):
        carry(other, "target", plan, readers, 1)
