"""An adapter laid onto its base: every module finds its weight, and names that look wrong are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.open import open_checkpoint
from tuneport.errors import PairingError
from tuneport.pairing.adapted import lay_onto


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(tiny.write_model(tmp_path / "base", tiny.llama(1)), "base")


@pytest.fixture
def target(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(tiny.write_model(tmp_path / "newer", tiny.llama(2)), "target")


def lora(tmp_path: Path, **settings: object) -> Checkpoint:
    return open_checkpoint(tiny.write_lora(tmp_path / "lora", tiny.llama(1), rank=2, **settings), "tuned")


def test_the_tuned_model_has_the_bases_tensors_and_knows_what_was_done_to_each(
    base: Checkpoint, tmp_path: Path
) -> None:
    adapted = lay_onto(lora(tmp_path), base, tied=False)
    assert list(adapted.model.tensors) == list(base.tensors) and adapted.model.config == base.config
    assert sorted(adapted.changes) == [
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_proj.weight",
    ]
    for name, tensor in adapted.model.tensors.items():
        stored = base.tensors[name]
        wanted = replace(stored, dtype="F32", nbytes=2 * stored.nbytes) if name in adapted.changes else stored
        assert tensor == wanted, "a product is never rounded to the base's dtype"


@pytest.mark.parametrize(
    ("named", "base_id", "target_id", "words"),
    [
        ("org/newer", None, None, "base and target look swapped"),
        ("/home/someone/models/newer/", None, None, "base and target look swapped"),
        ("org/Newer", "org/base", "org/newer", "base and target look swapped"),
        ("org/another", "org/base", "org/newer", "the base given is org/base"),
        ("org/base", "org/base", "org/newer", None),
        ("someone/BASE", "org/base", "org/newer", None),
        ("/somewhere/else", "org/base", "org/newer", None),
        ("org/another", None, None, None),
        (None, "org/base", "org/newer", None),
    ],
)
def test_the_base_that_the_adapter_names_is_held_against_those_given(
    base: Checkpoint,
    target: Checkpoint,
    tmp_path: Path,
    named: str | None,
    base_id: str | None,
    target_id: str | None,
    words: str | None,
) -> None:
    base = replace(base, hub_id=base_id, label=base_id or base.label)
    target = replace(target, hub_id=target_id, label=target_id or target.label)
    warnings = lay_onto(lora(tmp_path, base_model_name_or_path=named), base, False, target).warnings
    assert [words in warning for warning in warnings] == [True] if words else not warnings
    assert not any("/home" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("settings", "generation", "told"),
    [
        ({"eos_token": "<end>"}, None, True),
        ({"eos_token": {"content": "<end>"}}, None, True),
        ({"eos_token": "<end>"}, {"eos_token_id": 9}, False),
        ({"eos_token": "<turn>", "added_tokens_decoder": {"7": {"content": "<turn>"}}}, None, False),
        ({"eos_token": "</s>"}, None, False),
        ({}, None, False),
        (None, None, False),
    ],
)
def test_an_end_token_that_nothing_has_generation_stop_at_is_told(
    tmp_path: Path, settings: dict[str, object] | None, generation: dict[str, object] | None, told: bool
) -> None:
    folder = tiny.write_model(
        tmp_path / "base",
        tiny.llama(1),
        tokenizer_config__json='{"eos_token": "</s>"}',
        generation_config__json='{"eos_token_id": [2, 7]}',
    )
    adapter = tiny.write_lora(tmp_path / "lora", tiny.llama(1), rank=2)
    for name, content in (("tokenizer_config.json", settings), ("generation_config.json", generation)):
        if content is not None:
            (adapter / name).write_text(json.dumps(content))
    adapted = lay_onto(open_checkpoint(adapter, "tuned"), open_checkpoint(folder, "base"), tied=False)
    assert [("may talk on past its answers" in warning) for warning in adapted.warnings] == ([True] if told else [])


def test_everything_that_does_not_fit_the_base_is_told_at_once(tmp_path: Path) -> None:
    weights = tiny.llama(1)
    weights["model.layers.0.self_attn.q_proj.weight"] = torch.ones(9, 8, dtype=torch.bfloat16)
    del weights["model.layers.0.mlp.up_proj.weight"]
    other = open_checkpoint(tiny.write_model(tmp_path / "other", weights), "base")
    with pytest.raises(PairingError) as told:
        lay_onto(lora(tmp_path), other, tied=False)
    assert "q_proj.weight` is 9×8, the adapter's product B·A for it 8×8" in str(told.value)
    assert "up_proj.weight` is changed by the adapter, and the base has no such tensor" in str(told.value)


def test_a_square_weight_is_turned_where_the_kind_of_model_stores_it_so(tmp_path: Path) -> None:
    for model_type, said, turned in (("llama", False, False), ("llama", True, True), ("gpt2", False, True)):
        settings = tiny.config(model_type=model_type)
        base = open_checkpoint(tiny.write_model(tmp_path / "base", tiny.llama(1), settings=settings), "base")
        changes = lay_onto(lora(tmp_path, fan_in_fan_out=said), base, tied=False).changes
        square = changes["model.layers.0.self_attn.q_proj.weight"].low_rank
        assert square is not None and square.transposed is turned
        oblong = changes["model.layers.0.mlp.up_proj.weight"].low_rank
        assert oblong is not None and not oblong.transposed, "24×8 tells by its shape"
