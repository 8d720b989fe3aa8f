"""The committed rules are the installed transformers'; read by us, they do what transformers does."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.tables import make_spellings
from tuneport.checkpoint.weights import StoredTensor
from tuneport.pairing.spelling_rules import data, rules_of


def test_the_committed_rules_are_those_of_the_installed_transformers() -> None:
    assert len(data()["rules"]) > 100
    for key, entry in data()["rules"].items():
        assert make_spellings.rules_of(key) == entry, f"{key}: run python -m experiments.tables.make_spellings"
    assert data()["wrappers"] == list(make_spellings.WRAPPERS) and data()["twins"] == make_spellings.TWINS


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_vl", "t5gemma2"])
def test_the_parts_of_a_class_are_those_of_its_model(kind: str) -> None:
    import torch
    import transformers

    name = data()["kinds"][kind]
    with torch.device("meta"):
        model = getattr(transformers, name)(transformers.CONFIG_MAPPING[kind]())
    assert [list(part) for part in make_spellings.parts_of(model)] == data()["classes"][name]["parts"]


def header(shapes: dict[str, tuple[int, ...]]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for name, shape in shapes.items():
        tensors[name] = StoredTensor(name, "F32", shape, "f", 0, 4 * _product(shape))
    return tensors


def _product(shape: tuple[int, ...]) -> int:
    found = 1
    for size in shape:
        found *= size
    return found


CONFIGS: list[dict[str, Any]] = [
    {"model_type": "llava", "text_config": {"model_type": "mixtral"}},
    {"architectures": ["LlavaForConditionalGeneration"], "text_config": {"model_type": "mixtral"}},
]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_part_of_another_kind_than_usual_brings_its_own_rules(config: dict[str, Any]) -> None:
    apart = {
        f"language_model.model.layers.{layer}.block_sparse_moe.experts.{number}.{part}.weight": shape
        for layer in range(11)
        for number in range(12)
        for part, shape in (("w1", (3, 2)), ("w2", (2, 3)), ("w3", (3, 2)))
    }
    rules = rules_of(config)
    assert rules is not None
    loaded = rules.loaded(header(apart), {})
    assert set(loaded) == {
        f"model.language_model.layers.{layer}.mlp.experts.{part}"
        for layer in range(11)
        for part in ("gate_up_proj", "down_proj")
    }
    assert {tensor.shape for tensor in loaded.values()} == {(12, 6, 2), (12, 2, 3)}
    fused = loaded["model.language_model.layers.10.mlp.experts.down_proj"]
    assert fused.view is not None
    assert [part.name.split(".")[6] for part in fused.view.parts] == [str(number) for number in range(12)], (
        "10 comes after 9"
    )
    again = rules.saved(loaded, {})
    assert {name: tensor.shape for name, tensor in again.items()} == apart
    assert all(tensor.in_one_piece for tensor in again.values())


def test_kinds_without_rules_have_none() -> None:
    assert rules_of({"model_type": "llama"}) is None
    assert rules_of({"model_type": "nobody's"}) is None
    assert rules_of({"model_type": ["llava"], "architectures": [3]}) is None
    assert rules_of({}) is None
