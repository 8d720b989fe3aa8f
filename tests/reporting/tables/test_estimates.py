"""Intervals are what evaluate's own measures say, and over families what a slow bootstrap says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.made_up_results import MadeUp

from tuneport import statistics
from tuneport.reporting.tables.estimates import Change, Estimates, clear
from tuneport.results.example_scores import read_outcomes
from tuneport.results.schema import BASE, STEPS, TRANSFER, TUNED, Model, Run, Score
from tuneport.results.study_reading import Reading, read_study

M5, MOVED, FT = Model(BASE, None, "M5"), Model(TRANSFER, "M4", "M5", "sft"), Model(TUNED, None, "M5", "sft")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    return read_study(MadeUp(tmp_path_factory.mktemp("one") / "study", families=(0,), seeds=(0,), failed=None).write())


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    place = tmp_path_factory.mktemp("three") / "study"
    return read_study(MadeUp(place, families=(0, 1, 2), seeds=(0,), failed=None).write())


def outcomes(reading: Reading, model: Model, family: int, task: str = "sums") -> list[float]:
    run = next(r for r in reading.runs if r.model == model and r.family == family and r.step is None)
    return [float(score) for score in read_outcomes(reading.root / STEPS / run.folders[0])[task].scores]


def test_in_one_family_all_is_as_evaluate_would_say(one: Reading) -> None:
    estimates = Estimates(one.runs, one.root)
    base, moved, tuned = (outcomes(one, model, 0) for model in (M5, MOVED, FT))
    shown = estimates.value(MOVED, "sums")
    assert shown is not None and shown.value == pytest.approx(np.mean(moved)) and shown.n == 200
    assert shown.interval == statistics.accuracy([score == 1 for score in moved]).interval
    change = estimates.change(MOVED, M5, "sums")
    wanted = statistics.difference([s == 1 for s in moved], [s == 1 for s in base])
    assert change is not None and change.paired
    assert change.value == pytest.approx(wanted.value) and change.interval == pytest.approx(wanted.interval)
    recovered = estimates.recovered(M5, MOVED, FT, "sums")
    slow = statistics.recovered_gain(base, moved, tuned)
    assert recovered is not None and slow is not None
    assert recovered.value == pytest.approx(slow.value) and recovered.interval == pytest.approx(slow.interval)


def test_over_families_the_interval_is_that_of_a_slow_crossed_bootstrap(three: Reading) -> None:
    estimates = Estimates(three.runs, three.root)
    found = estimates.change(MOVED, M5, "sums")
    pairs = [np.array(outcomes(three, MOVED, f)) - np.array(outcomes(three, M5, f)) for f in (0, 1, 2)]
    rng = np.random.default_rng(11)
    drawn = []
    for _ in range(3000):
        families = rng.integers(0, 3, size=3)
        drawn.append(np.mean([pairs[f][rng.integers(0, 200, size=200)].mean() for f in families]))
    assert found is not None and found.interval is not None
    assert found.value == pytest.approx(np.mean([pair.mean() for pair in pairs]))
    assert found.interval == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.012)


def test_a_models_change_against_itself_is_nothing_and_signs_turn_with_the_order(one: Reading) -> None:
    estimates = Estimates(one.runs, one.root)
    same = estimates.change(M5, M5, "sums")
    assert same is not None and same.value == 0 and same.p == 1.0
    there, back = estimates.change(MOVED, M5, "sums"), estimates.change(M5, MOVED, "sums")
    assert there is not None and back is not None and there.value == -back.value


def test_without_outcomes_the_standard_errors_stand_in_and_the_interval_is_wider(tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "study", families=(0,), seeds=(0,), failed=None)
    made.write()
    with_outcomes = Estimates(read_study(made.root).runs, made.root).change(MOVED, M5, "sums")
    for file in (made.root / STEPS).glob("*/scores.examples.jsonl"):
        file.unlink()
    estimates = Estimates(read_study(made.root).runs, made.root)
    without = estimates.change(MOVED, M5, "sums")
    assert with_outcomes is not None and without is not None and estimates.without_outcomes > 0
    assert not without.paired and without.value == with_outcomes.value
    assert without.interval is not None and with_outcomes.interval is not None
    assert without.interval[1] - without.interval[0] > with_outcomes.interval[1] - with_outcomes.interval[0]


def test_seeds_without_outcomes_err_together_so_their_mean_errs_like_one_of_them(tmp_path: Path) -> None:
    """They answer the same examples."""
    scores = {seed: {"sums": Score("f1", 0.601, 0.03, 300)} for seed in (0, 1)}
    runs = [Run(MOVED, 0, seed, None, 300, "done", None, scores[seed]) for seed in scores]
    one, both = (Estimates(some, tmp_path).value(MOVED, "sums") for some in (runs[:1], runs))
    assert one is not None and one.interval is not None and both is not None and both.interval is not None
    assert both.seeds == 2 and both.interval == pytest.approx(one.interval)
    assert both.interval == pytest.approx((0.601 - 1.96 * 0.03, 0.601 + 1.96 * 0.03), abs=0.004)


def test_outcomes_that_do_not_give_the_reported_value_are_not_used(tmp_path: Path) -> None:
    made = MadeUp(tmp_path / "study", families=(0,), seeds=(0,), failed=None)
    made.write()
    told = json.loads((made.root / "results.json").read_text())
    row = next(row for row in told["results"] if row["kind"] == "base" and row["target"] == "M5")
    row["scores"]["sums"] |= {"metric": "bleu", "value": 0.123, "stderr": None}
    (made.root / "results.json").write_text(json.dumps(told))
    estimates = Estimates(read_study(made.root).runs, made.root)
    shown = estimates.value(M5, "sums")
    assert shown is not None and shown.value == 0.123 and shown.interval is None
    change = estimates.change(MOVED, M5, "sums")
    assert change is not None and change.interval is None and change.p == 1.0
    assert estimates.recovered(M5, MOVED, FT, "sums") is None


def test_a_gain_over_nothing_is_not_recovered(one: Reading) -> None:
    assert Estimates(one.runs, one.root).recovered(M5, MOVED, M5, "sums") is None


def test_where_fine_tuning_itself_harms_there_is_nothing_to_recover(one: Reading) -> None:
    estimates = Estimates(one.runs, one.root)
    harmed = Model(TRANSFER, "M1", "M5", "sft")
    change = estimates.change(harmed, M5, "sums")
    assert change is not None and change.interval is not None and change.interval[1] < 0, (
        "as a fine-tuning it would harm"
    )
    assert estimates.recovered(M5, harmed, FT, "sums") is not None
    assert estimates.recovered(M5, MOVED, harmed, "sums") is None


def test_clear_is_judged_after_holms_adjustment_within_the_table() -> None:
    table = {name: Change(0.1, (0.01, 0.2), p, True) for name, p in (("a", 0.001), ("b", 0.02), ("c", 0.03))}
    assert clear({**table, "d": None}) == {"a": 1, "b": 1, "c": 1}
    assert clear({**table, "e": Change(-0.1, (-0.2, -0.01), 0.04, True)}) == {"a": 1, "b": 0, "c": 0, "e": 0}
    assert clear({"worse": Change(-0.1, (-0.2, -0.01), 0.001, True)}) == {"worse": -1}
