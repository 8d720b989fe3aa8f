"""The verdict's calibration on made-up families, in which what decides is known: what is chosen, and that nothing leaks."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.pages import verdict_page
from experiments.verdict import choose, fitting, pair_cases, run_families
from experiments.verdict.one_family_out import (
    Families,
    brier,
    chosen_in_fold,
    fit,
    foresee,
    judged,
    one_out,
    thresholds,
)
from experiments.verdict.pair_cases import ALL, Case, cases_of, places_between, steps_between
from experiments.verdict.pair_predictors import BY_NAME, FROM_PROMPTS, PREDICTORS, measured_in
from experiments.verdict.probe_pairs import figures_of
from tuneport.comparison.calibration import parse_calibration

NAMES = ("M1", "M2", "M3", "M4", "M5", "domain", "more", "instruct")
TASKS = {"word-problems": 100, "known-facts": 100, "orders": 100}


def record(family: int) -> dict[str, Any]:
    """A family in which a transfer brings all of the gain at small distances and nothing at large ones."""
    rng = random.Random(family)
    scores: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []

    def score(kind: str, source: str | None, target: str, tuning: str | None, value: float, loss: float) -> None:
        texts = {"run-text": [loss, 9], "domain-text": [loss, 9], "language-text": [loss, 9], "longer-text": [loss, 9]}
        tasks = {task: [value, n] for task, n in TASKS.items()}
        scores.append({"kind": kind, "source": source, "target": target, "tuning": tuning, "tasks": tasks | texts})

    for name in (*NAMES, "foreign"):
        score("base", None, name, None, 0.05, 2.0)
        if name != "foreign":
            score("tuned", None, name, "large", 0.75, 3.0)
    for source in NAMES:
        for target in (*NAMES, "foreign"):
            if source != target:
                distance = 1.4 if target == "foreign" else rng.uniform(0.02, 0.5)
                along = rng.uniform(-0.1, 0.1)
                measures = {
                    **{"parameters": 300_000, "relative_shift": distance, "relative_diff": 0.2, "changed_share": 1.0},
                    **{"cosine_diff_shift": along, "opposed_share": 0.5, "diff_over_shift": 0.2 / distance},
                    **{"cosine_base_target": 1 - distance**2 / 2, "matrices": {"relative_shift": distance}},
                    "inner": {"relative_shift": distance, "relative_diff": 0.2, "cosine_diff_shift": along},
                }
                strangers = "fail" if target == "foreign" else "pass"
                pairs.append(
                    {
                        **{"source": source, "target": target, "tuning": "large", "measures": measures},
                        "gates": {"strangers": [strangers, 0.0], "roles": ["pass", None]},
                    }
                )
                share = 1 / (1 + np.exp(20 * (distance - 0.2)))
                score("transfer", source, target, "large", 0.05 + 0.7 * float(share), 2.0 + distance)
    return {"family": family, "lab": "small", "seconds": 900, "scores": scores, "pairs": pairs}


@pytest.fixture(scope="module")
def families() -> Families:
    return choose.of_kind({family: cases_of(record(family)) for family in (1, 2, 3, 4)}, ALL)


def test_the_distance_is_chosen_where_the_distance_decides(families: Families) -> None:
    foreseen, names = chosen_in_fold(families)
    assert set(names) == set(families) and not set(names.values()) & {predictor.name for predictor in PREDICTORS[:4]}
    assert brier(foreseen) < 0.3 * brier(one_out(BY_NAME["constant"], families))
    likely = [one for one in foreseen if one.word == "likely"]
    assert len(likely) > 40 and sum(not one.case.succeeded for one in likely) <= 0.1 * len(likely)
    assert {one.word for one in foreseen if one.case.target == "foreign"} == {"unlikely"}


def test_what_is_foreseen_of_a_family_does_not_depend_on_what_came_of_it(families: Families) -> None:
    swapped = {**families, 2: [replace(case, gain=0.7 - case.gain, retention=0.5) for case in families[2]]}
    before, after = ({one.case.name: one for one in chosen_in_fold(some)[0]} for some in (families, swapped))
    of_second = [name for name in before if name.endswith("family 2")]
    assert len(of_second) == 64
    for name in of_second:
        one, other = before[name], after[name]
        told = ("chance", "gain", "retention", "word", "rate")
        assert [getattr(one, key) for key in told] == [getattr(other, key) for key in told]
    assert any(before[name].chance != after[name].chance for name in before if name not in of_second)


def test_a_case_without_a_gain_to_carry_or_to_be_had_has_no_outcome(families: Families) -> None:
    case = families[1][0]
    assert replace(case, known=0.09).succeeded is None
    assert replace(case, own=0.05).succeeded is None
    assert replace(case, known=0.6, own=0.2, gain=0.1).succeeded is True, "half of what there was to be had"
    assert replace(case, known=0.6, own=None, gain=0.1).succeeded is False
    assert judged({1: [replace(case, known=0.0), case]}) == {1: [case]}


def test_thresholds_call_nothing_likely_that_fails_too_often(families: Families) -> None:
    foreseen = [one for one in one_out(BY_NAME["constant"], families) if not one.case.gated]
    likely, unlikely = thresholds(foreseen)
    assert likely > 1 and unlikely < 0, "a constant cannot tell"


def test_a_choice_that_is_written_down_foresees_what_the_fit_did(families: Families) -> None:
    calibration = choose.calibration_of(families)
    again = parse_calibration(json.loads(json.dumps(calibration.record())))
    assert again == calibration and again.families == (1, 2, 3, 4) and again.gain.level == 0.8
    cases = [case for case in families[1] if not case.gated]
    for one in foresee(choose.as_fit(again), cases):
        said = again.foresee(one.case.figures)
        assert said.chance == pytest.approx(one.chance, abs=1e-9)
        assert said.gain[1] == pytest.approx(one.share, abs=1e-9) and said.gain[0] <= said.gain[1] <= said.gain[2]
        assert again.outside(one.case.figures, "llama") == []


def test_confirming_counts_words_on_families_that_had_no_part(families: Families) -> None:
    calibration = choose.calibration_of({family: families[family] for family in (1, 2, 3)})
    found = choose.confirmed(calibration, {4: families[4]})
    assert found.confirmed == (4,) and sum(of for _, of in found.counted.values()) == 56, "without those a gate stops"
    assert found.counted["likely"][0] >= 0.8 * found.counted["likely"][1]


def test_no_choice_is_made_once_a_family_for_confirming_has_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for family in (1, 2, 9):
        (tmp_path / f"family-{family}.json").write_text(json.dumps(record(family)))
    monkeypatch.setattr(choose, "families_in", lambda: pair_cases.families_in(tmp_path))
    monkeypatch.setattr(choose, "CHOICE", tmp_path / "choice.json")
    with pytest.raises(SystemExit):
        choose.main([])
    assert not (tmp_path / "choice.json").exists()
    (tmp_path / "family-9.json").unlink()
    assert choose.main([]) == 0 and choose.written_choice() is not None


def test_distance_in_tokens_goes_by_way_of_what_two_versions_share() -> None:
    assert steps_between("M1", "M5") == steps_between("M5", "M1") == 1000
    assert steps_between("M5", "more") == 250 and steps_between("M4", "more") == 450
    assert steps_between("domain", "more") == 200 + 250
    assert steps_between("M5", "foreign") > steps_between("M1", "domain")
    assert [places_between(*pair) for pair in (("M1", "M3"), ("M5", "more"), ("domain", "more"))] == [2, 1, 2]


def test_a_logistic_line_finds_the_line_that_made_the_outcomes() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 2))
    chance = fitting.chance(np.array([0.5, 2.0, -1.0]), features)
    found = fitting.logistic(features, (rng.random(4000) < chance).astype(float), np.ones(4000))
    assert found == pytest.approx([0.5, 2.0, -1.0], abs=0.15)
    line = fitting.straight(features, 0.5 + features @ np.array([2.0, -1.0]), np.ones(4000))
    assert line == pytest.approx([0.5, 2.0, -1.0], abs=0.01)


def test_every_predictor_reads_every_case(families: Families) -> None:
    for predictor in PREDICTORS:
        rows = predictor.of(families[1])
        assert rows.shape[0] == len(families[1]) and np.isfinite(rows).all(), predictor.name
        assert np.isfinite(fit(predictor, families).gain).all()


def test_predictors_from_prompts_stand_beside_where_all_pairs_were_asked(families: Families) -> None:
    cases = families[1]
    asked = [replace(case, figures={**case.figures, "probe": {"alike": 0.5, "loss_left": 0.1}}) for case in cases]
    assert measured_in(cases) == PREDICTORS
    assert measured_in(asked) == (*PREDICTORS, *FROM_PROMPTS)
    assert measured_in([*asked, cases[0]]) == PREDICTORS


def test_the_figures_of_a_probe_are_those_that_predictors_read() -> None:
    loss = {name: {"value": value} for name, value in (("source", 0.2), ("target", 2.0), ("carried", 0.5))}
    alike = {"target": {"value": 0.1}, "carried": {"value": 0.7}}
    found = figures_of({"prompts": {"loss": loss, "alike": alike}})
    assert found == {"loss_left": 0.3, "loss_closed": 1.5, "alike": 0.7, "alike_before": 0.1}
    assert figures_of(None) == dict.fromkeys(found)


def test_the_page_says_that_nothing_is_calibrated_where_nothing_was_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for family in (1, 2, 3):
        (tmp_path / f"family-{family}.json").write_text(json.dumps(record(family)))
    monkeypatch.setattr(run_families, "RECORDS", tmp_path)
    monkeypatch.setattr(verdict_page, "families_in", lambda: pair_cases.families_in(tmp_path))
    monkeypatch.setattr(choose, "CHOICE", tmp_path / "choice.json")
    page = verdict_page.render()
    assert "No calibration is in the package" in page and "Reliability" in page and "75%" in page
    assert all(isinstance(case, Case) for case in cases_of(record(1)))
