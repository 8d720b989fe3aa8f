"""A sample says before the run what rounding to the dtype would take from Δ."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import pytest
from support import tiny_checkpoints as tiny
from support.command_results import Cli
from support.written_manifests import by_name, manifest

from engine.test_rounding import ROLES
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.comparison.rounding import rounded
from tuneport.diffvector.run import diff, plan_of
from tuneport.engine.checks import drawn_matrices
from tuneport.engine.checks.before_writing import look
from tuneport.engine.checks.rounding_loss import RoundingSample, expected_loss
from tuneport.engine.choices import Choices, Running
from tuneport.engine.plan import Plan
from tuneport.engine.run import execute
from tuneport.engine.summands.pair_summand import plan_transfer

pytestmark = pytest.mark.filterwarnings("error")


SMALL_STEP = tiny.llama(1, hidden=32)


@pytest.fixture(scope="module")
def hardly_moved(tmp_path_factory: pytest.TempPathFactory) -> tiny.Trio:
    """A fine-tuning in float32 whose steps bfloat16 cannot hold."""
    place = tmp_path_factory.mktemp("hardly")
    base = {name: value.float() for name, value in SMALL_STEP.items()}
    return tiny.trio(place, base, tiny.moved(base, 2, by=1e-5), tiny.moved(SMALL_STEP, 3))


def test_a_dry_run_says_what_rounding_would_take(cli: Cli, hardly_moved: tiny.Trio, tmp_path: Path) -> None:
    ran = cli(*hardly_moved.flags(tmp_path / "out", "--dry-run", "--json"))
    told = ran.json()
    assert ran.status == 0 and not list(tmp_path.iterdir())
    (warning,) = told["warnings"]
    assert warning.startswith("rounding to bfloat16") and "--dtype float32" in warning and "--rounding" in warning
    words = cli(*hardly_moved.flags(tmp_path / "out", "--dry-run")).out
    assert f"rounding: loses {told['rounding']['error']:.2g} of ‖Δ‖ (4 matrices, all of their elements)" in words
    for choice in (["--dtype", "float32"], ["--rounding", "stochastic"]):
        assert cli(*hardly_moved.flags(tmp_path / "out", "--dry-run", "--json", *choice)).json()["warnings"] == []


def test_with_strict_it_stops_before_the_first_byte_and_else_is_told_once(
    cli: Cli, hardly_moved: tiny.Trio, tmp_path: Path
) -> None:
    ran = cli(*hardly_moved.flags(tmp_path / "out", "--strict"))
    assert ran.status == 1 and "loses much of the diff vector" in ran.err and not list(tmp_path.iterdir())
    ran = cli(*hardly_moved.flags(tmp_path / "out"))
    assert ran.status == 0 and ran.err.count("warning: ") == 1
    assert len(manifest(tmp_path / "out")["warnings"]) == 1


def expected(plan: Plan) -> RoundingSample:
    found = look(plan).rounding
    assert found is not None
    return found


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_what_is_expected_of_all_elements_is_what_the_pass_measures(
    hardly_moved: tiny.Trio, tmp_path: Path, scale: float
) -> None:
    base = hardly_moved.tensors["base"]
    adapter = tiny.write_lora(tmp_path / "lora", base, rank=2)
    diff(hardly_moved.base, hardly_moved.tuned, tmp_path / "delta")
    choices = Choices(scale=scale)
    vectors = [(tmp_path / "delta", scale), (tmp_path / "delta", 0.5)]
    base_at, tuned_at, target_at = (
        open_checkpoint(path, role) for path, role in zip(hardly_moved.paths, ROLES, strict=True)
    )
    lora = open_checkpoint(adapter, "tuned")
    plans = {
        "full": plan_transfer(base_at, tuned_at, target_at, choices),
        "adapter": plan_transfer(base_at, lora, target_at, choices),
        "vectors": plan_of((), hardly_moved.target, vectors, lambda names: Choices()),
    }
    for name, plan in plans.items():
        found = expected(plan)
        execute(plan, tmp_path / name, Running())
        matrices = {part.task.slot.name for part in found.parts}
        told = by_name(tmp_path / name)
        for part in found.parts:
            assert asdict(rounded([part.sums])) == pytest.approx(told[part.task.slot.name]["rounding"]), name
        assert found.complete and len(matrices) == (2 if name == "adapter" else 4), name


def test_a_sample_says_how_far_it_may_be_off(
    hardly_moved: tiny.Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawn_matrices, "ELEMENTS", 64)
    roles = zip(hardly_moved.paths, ROLES, strict=True)
    plan = plan_transfer(*(open_checkpoint(path, role) for path, role in roles), Choices())
    found, verdict = expected(plan), look(plan)
    execute(plan, tmp_path / "out", Running())
    whole = manifest(tmp_path / "out")["measures"]["rounding"]["error"]
    assert not found.complete and 0 < found.margin < 0.3
    assert found.found.error == pytest.approx(whole, abs=found.margin + 1e-3)
    assert verdict.losses[0].startswith("judging by a sample of 4 matrices, rounding")
    one = RoundingSample(found.parts[:1], complete=False)
    assert math.isinf(one.margin) and one.record()["margin"] is None
    assert expected_loss(plan, one) == (), "one piece alone says nothing of the rest"
