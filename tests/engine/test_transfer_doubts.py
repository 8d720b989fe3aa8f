"""What stops a transfer, or raises a doubt: NaN and infinity, a zero diff vector, models in wrong roles."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from support import tiny_checkpoints as tiny
from support.command_results import Cli
from support.written_manifests import by_name, manifest

pytestmark = pytest.mark.filterwarnings("error")


def poisoned(tmp_path: Path, role: str) -> tiny.Trio:
    parts = {"base": tiny.llama(1)}
    parts["tuned"], parts["target"] = tiny.moved(parts["base"], 2), tiny.moved(parts["base"], 3)
    parts[role]["model.layers.0.mlp.up_proj.weight"][3, :2] = torch.tensor([float("nan"), float("inf")])
    return tiny.trio(tmp_path, parts["base"], parts["tuned"], parts["target"])


@pytest.mark.parametrize("role", ["base", "tuned", "target"])
def test_nan_and_infinity_are_named_with_tensor_count_and_origin_and_can_be_allowed_afterwards(
    cli: Cli, tmp_path: Path, role: str
) -> None:
    made = poisoned(tmp_path, role)
    ran = cli(*made.flags(tmp_path / "out"))
    assert ran.status == 1
    assert re.search(rf"`model\.layers\.0\.mlp\.up_proj\.weight`: 2 in the output \(2 in {role}\)", ran.err)
    assert "--allow-nonfinite" in ran.err
    assert not (tmp_path / "out").exists()
    assert cli(*made.flags(tmp_path / "out", "--allow-nonfinite")).status == 0
    found, wanted = tiny.read_weights(tmp_path / "out"), tiny.expected(made)
    for name, value in wanted.items():
        assert torch.equal(found[name].isnan(), value.isnan())
        assert torch.equal(found[name].nan_to_num(), value.nan_to_num())
    assert by_name(tmp_path / "out")["model.layers.0.mlp.up_proj.weight"]["nonfinite"] == 2
    json.loads((tmp_path / "out" / "tuneport.json").read_text(), parse_constant=lambda word: pytest.fail(word))


def test_a_rule_of_zero_leaves_such_a_tensor_as_the_target_has_it(cli: Cli, tmp_path: Path) -> None:
    made = poisoned(tmp_path, "tuned")
    assert cli(*made.flags(tmp_path / "out", "--rule", "up_proj=0")).status == 0
    name = "model.layers.0.mlp.up_proj.weight"
    assert tiny.bits(tiny.read_weights(tmp_path / "out")[name]) == tiny.bits(made.tensors["target"][name])


def test_a_nan_that_is_only_copied_stops_nothing(cli: Cli, tmp_path: Path) -> None:
    made = poisoned(tmp_path, "target")
    assert cli(*made.flags(tmp_path / "out", "--rule", "up_proj=0")).status == 0
    name = "model.layers.0.mlp.up_proj.weight"
    assert tiny.bits(tiny.read_weights(tmp_path / "out")[name]) == tiny.bits(made.tensors["target"][name])


def test_a_diff_vector_that_is_zero_stops(cli: Cli, tmp_path: Path) -> None:
    base = tiny.llama(1)
    ran = cli(*tiny.trio(tmp_path, base=base, tuned=base).flags(tmp_path / "out"))
    assert ran.status == 1 and "zero" in ran.err
    assert not (tmp_path / "out").exists()


def test_models_that_have_nothing_to_do_with_each_other_warn_and_strict_stops(cli: Cli, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path, base=tiny.llama(1), target=tiny.llama(77))
    ran = cli(*made.flags(tmp_path / "out", "--json"))
    assert ran.status == 0
    assert any("unrelated" in warning for warning in ran.json()["warnings"])
    assert "unrelated" in ran.err
    assert any("unrelated" in warning for warning in manifest(tmp_path / "out")["warnings"])
    assert "unrelated" in (tmp_path / "out" / "README.md").read_text()
    strict = cli(*made.flags(tmp_path / "strict", "--strict"))
    assert strict.status == 1 and "--strict" in strict.err
    assert not (tmp_path / "strict").exists()


@pytest.mark.parametrize(
    ("one", "other", "tuned_by", "target_by"),
    # Base and tuned the wrong way round show in the weights only where the fine-tuning is no less than the drift.
    [("base", "tuned", 0.05, 0.025), ("base", "target", 0.005, 0.025)],
)
def test_roles_that_were_swapped_warn(
    cli: Cli, tmp_path: Path, one: str, other: str, tuned_by: float, target_by: float
) -> None:
    base = tiny.llama(1, torch.float32)
    parts = {"base": base, "tuned": tiny.moved(base, 2, by=tuned_by), "target": tiny.moved(base, 3, by=target_by)}
    right = tiny.trio(tmp_path / "right", **parts)
    assert cli(*right.flags(tmp_path / "fine", "--strict")).status == 0, "the right roles raise no doubt"
    parts[one], parts[other] = parts[other], parts[one]
    ran = cli(*tiny.trio(tmp_path / "wrong", **parts).flags(tmp_path / "out", "--json"))
    assert ran.status == 0
    assert any(f"base and {other} look swapped" in warning for warning in ran.json()["warnings"])


def test_a_fine_tuning_that_is_much_longer_than_the_drift_raises_no_doubt(cli: Cli, tmp_path: Path) -> None:
    """target + (tuned − base) is the same sum with tuned and target the other way round: their lengths say nothing."""
    base = tiny.llama(1, torch.float32)
    parts = {"base": base, "tuned": tiny.moved(base, 2, by=0.08), "target": tiny.moved(base, 3, by=0.01)}
    near = tiny.trio(tmp_path / "near", **parts)
    assert cli(*near.flags(tmp_path / "out", "--strict")).status == 0
    measured = manifest(tmp_path / "out")["measures"]
    assert measured["diff_norm"] > 7 * measured["shift_norm"]
    other = tiny.trio(tmp_path / "other", base, parts["target"], parts["tuned"])
    assert cli(*other.flags(tmp_path / "same", "--strict")).status == 0
    first, second = (tiny.read_weights(tmp_path / out) for out in ("out", "same"))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=1e-6)


def test_vectors_do_not_hide_that_models_are_unrelated(cli: Cli, tmp_path: Path) -> None:
    """Norms are near 1 in any model: over all tensors these two have a cosine of 0.6."""
    strange = tiny.llama(77)
    strange |= {name: value.abs() * 8 for name, value in tiny.llama(1).items() if value.ndim == 1}
    made = tiny.trio(tmp_path, base=tiny.llama(1) | {n: v for n, v in strange.items() if v.ndim == 1}, target=strange)
    ran = cli(*made.flags(tmp_path / "out"))
    assert ran.status == 0 and "base and target look unrelated" in ran.err
