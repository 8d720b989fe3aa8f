"""The rung `layers`: an α for each kind of tensor in each layer."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lm_eval")

import torch
from safetensors.torch import save_file
from support.adapted_models import Family
from support.tiny_models import read_weights

import tuneport
from tuneport.adaptation import layer_scales
from tuneport.adaptation.layer_scales import LayerScales
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.checkpoint.reading import readers_by_role
from tuneport.diagnosis.probing.carried_weights import carry
from tuneport.engine.choices import Choices
from tuneport.engine.summands.pair_summand import plan_transfer
from tuneport.scoring.measured_tokens import Pair

PAIRS = [Pair([2, 5, 9, 3], [7, 4]), Pair([2, 8, 30, 12, 3], [30, 4]), Pair([2, 3], [11])]


def scales_of(family: Family, **choices: Any) -> LayerScales:
    opened = (
        open_checkpoint(place, role) for place, role in zip(family.models, ("base", "tuned", "target"), strict=True)
    )
    return LayerScales.of(plan_transfer(*opened, Choices(**choices)))


def model_of(place: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()


def reference_loss(family: Family, alphas: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of the pairs, with autograd through W_target + α·(W_tuned − W_base)."""
    base, tuned, target = map(read_weights, family.models)
    weights = {
        name: target[name].float() + alphas[name] * (tuned[name].float() - base[name].float()) for name in target
    }
    model = model_of(family.target)
    nats: list[torch.Tensor] = []
    for pair in PAIRS:
        ids = torch.tensor([[*pair.prompt, *pair.answer]])
        logits = torch.func.functional_call(model, weights, (ids,)).logits[0, len(pair.prompt) - 1 : -1]
        nats.append(torch.nn.functional.cross_entropy(logits, torch.tensor(pair.answer), reduction="sum"))
    return torch.stack(nats).sum() / sum(len(pair.answer) for pair in PAIRS)


def test_slopes_are_those_of_autograd_through_the_sum(family: Family) -> None:
    scales, model = scales_of(family), model_of(family.target)
    values = np.linspace(0.5, 1.5, len(scales.groups))
    with readers_by_role(scales.plan.inputs) as readers:
        carry(model, "target", scales.scaled(values), readers, 1)
        with scales.slopes(model, readers) as slopes:
            loss = layer_scales.loss_of(model, "cpu", PAIRS)
            loss.backward()
    asked = [torch.tensor(float(value), requires_grad=True) for value in values]
    wanted = reference_loss(family, {name: asked[scales.group_of[name]] for name in scales.group_of})
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    np.testing.assert_allclose(slopes, [float(each.grad) for each in asked], rtol=2e-3, atol=1e-6)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_group_is_a_kind_in_a_layer_and_keeps_the_scale_of_the_users_rules(family: Family) -> None:
    scales = scales_of(family, rules={r"q_proj": 0.5, r"k_proj": 0})
    kinds = {(group.layer, group.kind): group.scale for group in scales.groups}
    assert kinds[0, "model.layers.#.self_attn.q_proj.weight"] == 0.5
    assert kinds[None, "lm_head.weight"] == 1.0
    assert not any("k_proj" in kind for _, kind in kinds)


def test_what_is_written_equals_what_was_moved_in_memory(family: Family, tmp_path: Path) -> None:
    given: dict[str, Any] = {"rules": {"q_proj": 0.5}}
    scales, model = scales_of(family, **given), model_of(family.target)
    values = np.linspace(0.1, 1.9, len(scales.groups))
    with readers_by_role(scales.plan.inputs) as readers:
        carry(model, "target", scales.scaled(values), readers, 1)
    rules = [f"q_proj={0.5}", *(f"{rule.pattern}={rule.scale!r}" for rule in scales.rules(values))]
    tuneport.transfer(*family.models, tmp_path / "out", rules=rules)
    written = read_weights(tmp_path / "out")
    assert all(torch.equal(tensor.float(), model.state_dict()[name]) for name, tensor in written.items())


@pytest.fixture(scope="module")
def rescaled(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """The base with another scale inside its MLP and its attention: the same function, in which Δ needs that scale too."""
    place = tmp_path_factory.mktemp("rescaled") / "target"
    shutil.copytree(family.base, place)
    weights = read_weights(family.base)
    for name in weights:
        for part, factor in FACTORS.items():
            if part in name:
                weights[name] = weights[name] * factor
    save_file(weights, place / "model.safetensors", {"format": "pt"})
    return replace(family, target=place)


FACTORS = {"up_proj": 0.25, "down_proj": 4.0, "v_proj": 0.25, "o_proj": 4.0}


def test_where_the_target_is_scaled_otherwise_inside_layers_finds_the_scales_that_addition_misses(
    rescaled: Family, tmp_path: Path
) -> None:
    given: dict[str, Any] = {
        "prompts": rescaled.file(tmp_path / "prompts.jsonl", 0, 128),
        "select": rescaled.file(tmp_path / "select.jsonl", 200, 280),
        "test": rescaled.file(tmp_path / "test.jsonl", 300, 380),
        "max_new_tokens": 4,
        "device": "cpu",
    }
    found = tuneport.adapt(*rescaled.models, tmp_path / "out", rungs=["layers"], keep_harmed=True, **given)
    rungs = {rung["name"]: rung for rung in found.record["rungs"]}
    assert found.record["chosen"] == "layers"
    assert rungs["layers"]["test"]["value"] > rungs["add"]["test"]["value"] + 0.1
    alphas = {each["kind"].split(".")[-2]: each["alpha"] for each in rungs["layers"]["layers"]}
    assert alphas["up_proj"] < 0.8 < 1.2 < alphas["down_proj"]
    manifest = json.loads((tmp_path / "out" / "tuneport.json").read_text())
    (scale,) = {tensor["scale"] for tensor in manifest["tensors"] if "up_proj" in tensor["name"]}
    assert scale == pytest.approx(alphas["up_proj"], abs=1e-6)
    assert tuneport.verify(tmp_path / "out", *rescaled.models, full=True).kind == "full"


def test_rows_that_rules_for_tokens_scale_keep_their_scales_and_ramps_are_multiplied(family: Family) -> None:
    plain, ruled = scales_of(family), scales_of(family, row_rules={"@all": 0.5}, rules={r"layers\.": "0.5..1"})
    names = {name for name in plain.group_of if name in ruled.plan.account.names} - ruled.group_of.keys()
    assert names and all(re.search("embed|lm_head", name) for name in names)
    assert {group.scale for group in ruled.groups if group.layer is not None} == {0.5}, "its one layer is the first"
    rescaled = {task.slot.name: task for task in ruled.scaled(np.full(len(ruled.groups), 2.0)).tasks}
    for task in ruled.plan.tasks:
        now = rescaled[task.slot.name]
        assert now.scales == (task.scales if task.slot.name not in ruled.group_of else (2 * task.scales[0],))
