"""Claims are judged rightly on studies that were made up to hold them, or not to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.made_up_studies import STEPS, TASKS, UNSEEN, write_study

from experiments.claims.judging import FAILS, HOLDS, OPEN, Claim, Finding, Judging, adjusted
from experiments.claims.paper_claims import (
    EARLY,
    STAGES,
    VERSIONS,
    backporting_gains_more,
    claims_of_versions,
    languages_transfer,
    stages_transfer,
)
from experiments.claims.study_evidence import base, read_families
from tuneport.errors import StudyError
from tuneport.results.schema import LOSS, Model
from tuneport.statistics import Estimate


def as_the_paper_says(model: Model, steps: int, task: str, family: int) -> float:
    """Near versions help, far ones harm, later ones more; fine-tuning from there is higher."""
    if task in UNSEEN:
        far = model.kind == "transfer" and (str(model.source) in EARLY) != (model.target in EARLY)
        return 0.2 if far else 0.6
    place = VERSIONS.index(model.target)
    directly = 0.5 + 0.05 * place
    if model.kind == "base":
        return 0.02
    if model.kind == "tuned":
        return directly
    near = (model.source in EARLY) == (model.target in EARLY)
    if model.kind == "transfer":
        if model.source == "M3":
            return directly - 0.1
        return (0.1 * place + 0.1 if model.target in EARLY else directly - 0.05) if near else 0.02
    longer = model.kind == "recycle-direct" and steps > 2 * STEPS
    return directly + (0.2 if model.kind == "recycle-iterative" else 0.17 if longer else 0.15)


def nothing_carries_over(model: Model, steps: int, task: str, family: int) -> float:
    """Addition gains nothing, and what is fine-tuned from there is worse than what is fine-tuned plainly."""
    if task in UNSEEN:
        return 0.3 if model.kind == "transfer-then-tune" else 0.6
    return {"base": 0.05, "transfer": 0.05, "tuned": 0.6}.get(model.kind, 0.4)


def judged(folder: Path) -> dict[str, Claim]:
    families = read_families([folder])
    return {claim.number: claim for claim in adjusted(claims_of_versions(Judging(families, TASKS, UNSEEN)))}


def verdicts(claim: Claim) -> list[str | None]:
    return [finding.verdict for finding in claim.findings if finding.wanted is not None]


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Claim]:
    return judged(write_study(tmp_path_factory.mktemp("held"), as_the_paper_says))


@pytest.fixture(scope="module")
def refuted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Claim]:
    return judged(write_study(tmp_path_factory.mktemp("refuted"), nothing_carries_over, saved=0.0))


def test_a_study_made_as_the_paper_says_holds_every_claim(held: dict[str, Claim]) -> None:
    assert list(held) == ["1", "2", "3", "4", "5", "6", "7a", "7b"]
    for number in ("1", "3", "4", "5", "6"):
        found = verdicts(held[number])
        assert found and set(found) == {HOLDS}, held[number]


def test_a_study_where_nothing_carries_over_holds_none(refuted: dict[str, Claim]) -> None:
    assert HOLDS not in verdicts(refuted["1"]) + verdicts(refuted["3"])
    same, faster, *_ = refuted["4"].findings
    assert same.verdict == FAILS and faster.verdict == OPEN
    assert verdicts(refuted["5"]) == [FAILS]


def test_the_estimates_are_what_was_put_in(held: dict[str, Claim]) -> None:
    gain, *_ = held["1"].findings  # M5 + Δ(M4): 0.65 against 0.02
    assert gain.estimate.value == pytest.approx(0.63, abs=0.05)
    same, faster, _, totals = held["4"].findings
    assert same.estimate.value == pytest.approx(0.15, abs=0.02)
    assert totals.estimate.value == pytest.approx(0.15, abs=0.02)  # more steps change nothing here
    assert faster.estimate.value == pytest.approx(0.5)
    recycled = {finding.what: finding.estimate.value for finding in held["6"].findings}
    assert recycled["iterative − direct, the same steps for this version"] == pytest.approx(0.05, abs=0.02)
    assert recycled["iterative − direct, the same steps in all"] == pytest.approx(0.03, abs=0.02)
    assert recycled["steps saved by direct, as a share of FT(M_i)'s"] == pytest.approx(0.5)


def test_distances_predict_what_was_made_of_them_and_nothing_is_claimed_of_it(held: dict[str, Claim]) -> None:
    named = {finding.what: finding for finding in held["7b"].findings}
    assert set(named) >= {"same block", "−|i − j|", "−distance of the bases", "cosine of Δ_i and Δ_j"}
    assert named["same block"].estimate.value > 0.5
    assert named["−distance of the bases"].estimate == named["−|i − j|"].estimate  # they were made the same
    assert all(finding.verdict is None for finding in named.values())


def test_connection_alone_does_not_make_a_transfer(refuted: dict[str, Claim]) -> None:
    (less,) = refuted["7a"].findings
    assert "less" in less.what and less.estimate.value == 1.0


def test_a_verdict_needs_the_p_value_that_is_left_after_all_tests() -> None:
    clear = Finding("x", Estimate(0.1, (0.01, 0.2)), 0.03)
    (alone,) = adjusted([Claim("1", "", "", (clear,))])
    assert alone.findings[0].verdict == HOLDS
    (among,) = adjusted([Claim("1", "", "", (clear,) * 4)])
    assert {finding.verdict for finding in among.findings} == {OPEN}


def test_one_family_has_no_verdict_on_what_varies_between_families_alone(tmp_path: Path) -> None:
    claims = judged(write_study(tmp_path, as_the_paper_says, families=1, n=40))
    faster = claims["4"].findings[1]
    assert faster.estimate.value == pytest.approx(0.5) and faster.verdict is None
    assert all(finding.verdict is None for finding in claims["7b"].findings)


def test_no_harm_needs_a_narrow_interval() -> None:
    assert Finding("x", Estimate(0.0, (-0.02, 0.02)), wanted="no harm").verdict == HOLDS
    assert Finding("x", Estimate(0.0, (-0.2, 0.2)), wanted="no harm").verdict == OPEN
    assert Finding("x", Estimate(-0.1, (-0.2, -0.04)), wanted="no harm").verdict == FAILS


def test_a_control_gains_nothing_where_a_tenth_of_the_real_gain_is_out_of_reach() -> None:
    assert Finding("x", Estimate(0.0, (-0.02, 0.05)), wanted="nothing").verdict == HOLDS
    assert Finding("x", Estimate(0.1, (0.0, 0.2)), wanted="nothing").verdict == OPEN
    assert Finding("x", Estimate(0.3, (0.2, 0.4)), wanted="nothing").verdict == FAILS


def test_harm_shows_in_the_loss_of_answers_too_where_that_was_asked_for(tmp_path: Path, held: dict[str, Claim]) -> None:
    def worse_from_afar(model: Model, steps: int, task: str, family: int) -> float:
        if not task.endswith(LOSS):
            return as_the_paper_says(model, steps, task, family)
        far = model.source in VERSIONS[:2] and model.target in VERSIONS[3:]
        return 0.8 if far else 0.3

    tasks = (*TASKS, *UNSEEN, f"{UNSEEN[0]}{LOSS}")
    harm = judged(write_study(tmp_path, worse_from_afar, families=2, n=100, tasks=tasks))["3"].findings[-1]
    assert (harm.unit, harm.verdict) == ("nats", HOLDS)
    assert harm.estimate.value == pytest.approx(0.5, abs=0.1)
    assert all(finding.unit == "points" for finding in held["3"].findings), "it was not asked for there"


def test_of_several_budgets_the_shortest_is_meant_unless_one_is_named(tmp_path: Path) -> None:
    def longer_is_better(model: Model, steps: int, task: str, family: int) -> float:
        return 1.0 if steps >= 3 * STEPS else 0.0

    (family,) = read_families([write_study(tmp_path, longer_is_better, families=1, n=4)])
    tuned = Model("tuned", None, "M1", "sft")
    assert family.matrix([tuned, replace(tuned, steps=3 * STEPS)], TASKS).mean(axis=1).tolist() == [0.0, 1.0]
    assert family.plain_at_same_total(Model("recycle-iterative", "M4", "M5", "sft")) == Model(
        "tuned", None, "M5", "sft", steps=5 * STEPS
    )


def test_a_model_that_was_not_scored_ends_in_words(tmp_path: Path) -> None:
    folder = write_study(tmp_path, as_the_paper_says, families=1, n=4)
    document = json.loads((folder / "results.json").read_text())
    for row in document["results"]:
        row["status"] = "failed" if row["target"] == "M2" and row["kind"] == "base" else "done"
    (folder / "results.json").write_text(json.dumps(document))
    (family,) = read_families([folder])
    with pytest.raises(StudyError, match=r"M2.*was not scored"):
        family.matrix([base("M2")], TASKS)
    with pytest.raises(StudyError, match=r"no results\.json"):
        read_families([tmp_path / "nowhere"])


def test_stages_are_judged_with_a_control_that_must_gain_nothing(tmp_path: Path) -> None:
    targets = ("M0", "M3", "M4")
    scored = [(base(t), 0) for t in targets] + [(Model("transfer", "M5", t, s), 1) for t in targets for s in STAGES]

    def stronger_by_stage(model: Model, steps: int, task: str, family: int) -> float:
        return 0.05 if model.kind == "base" or model.target == "M0" else 0.3 + 0.2 * STAGES.index(str(model.tuning))

    folder = write_study(tmp_path, stronger_by_stage, families=2, scored=scored)
    claim = stages_transfer(Judging(read_families([folder]), TASKS))
    assert verdicts(claim) == [HOLDS] * 4
    control, *further = claim.findings[3:]
    assert control.estimate.value == pytest.approx(0.0, abs=0.02)
    assert [finding.estimate.value for finding in further] == pytest.approx([0.2, 0.2], abs=0.05)


def test_a_language_is_judged_on_its_own_questions_and_the_known_one_for_harm(tmp_path: Path) -> None:
    old, new, languages = "version 1 instruct", "version 2 instruct", ("malu", "taku")
    scored = [(base(new), 0), (Model("tuned", None, old, "taku"), 1)]
    scored += [(Model("transfer", old, new, language), 1) for language in languages]

    def gains_where_unknown(model: Model, steps: int, task: str, family: int) -> float:
        if task == "malu":
            return 0.6 if model == Model("transfer", old, new, "malu") else 0.1
        return 0.5 if model.kind == "tuned" else 0.8

    folder = write_study(tmp_path, gains_where_unknown, families=4, n=1500, scored=scored, tasks=languages)
    claim = languages_transfer(Judging(read_families([folder]), ()), languages, "taku")
    assert verdicts(claim) == [HOLDS, HOLDS]
    gain, harm, beaten = (finding.estimate.value for finding in claim.findings)
    assert (gain, harm, beaten) == pytest.approx((0.5, 0.0, 0.3), abs=0.05)


def test_backporting_is_compared_with_recycling_by_their_gains(tmp_path: Path) -> None:
    scored = [(base("old"), 0), (base("new"), 0), (Model("transfer", "new", "old", "sft"), 1)]
    scored.append((Model("transfer", "old", "new", "sft"), 1))

    def share(model: Model, steps: int, task: str, family: int) -> float:
        return {"base": 0.1, "transfer": 0.7 if model.target == "old" else 0.4}[model.kind]

    claim = backporting_gains_more(Judging(read_families([write_study(tmp_path, share, scored=scored)]), TASKS))
    assert verdicts(claim) == [HOLDS]
    assert [finding.estimate.value for finding in claim.findings] == pytest.approx([0.3, 0.6, 0.3], abs=0.05)
