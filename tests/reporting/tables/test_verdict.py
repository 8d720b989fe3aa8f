"""Recycle or not: which transfer the question is about, what its tasks say together, and the old fine-tuned model beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.made_up_results import MadeUp

from tuneport.reporting.sections.answer_section import answer
from tuneport.reporting.sections.parts import Facts, Lead
from tuneport.reporting.tables.estimates import Change
from tuneport.reporting.tables.report_tables import Findings, findings
from tuneport.reporting.tables.verdict import BETTER, HARMLESS, MIXED, OPEN, WORSE, Worth, judged, newest
from tuneport.results.schema import BASE, NOT_RUN, TRANSFER, TUNED, Model
from tuneport.statistics import holm


def newest_of(found: Findings) -> list[Worth]:
    return newest(found.worths, found.reading)


def with_gain(worth: Worth, value: float, half: float, clearly: int = 0) -> Worth:
    change = Change(value, (value - half, value + half), 0.5, paired=True)
    return replace(worth, cell=replace(worth.cell, gain=change, clearly=clearly))


def test_the_question_is_about_the_newest_version_and_the_one_before_it_whatever_came_out(found: Findings) -> None:
    assert {(w.model.source, w.model.target) for w in newest_of(found)} == {("M4", "M5")}
    assert [w.matrix.task for w in newest_of(found)] == ["sums", "facts"]
    backports = [w for w in found.worths if (w.model.source, w.model.target) in {("M5", "M1"), ("M3", "M1")}]
    assert {w.model.source for w in newest(backports, found.reading)} == {"M3"}, "the nearest, where nothing is newer"


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([(0.4, 0.05, 1), (0.01, 0.05, 0)], BETTER),
        ([(-0.4, 0.05, -1), (0.01, 0.05, 0)], WORSE),
        ([(-0.4, 0.05, -1), (0.4, 0.05, 1)], MIXED),
        ([(0.01, 0.02, 0), (-0.005, 0.02, 0)], HARMLESS),
        ([(0.01, 0.02, 0), (-0.02, 0.02, 0)], OPEN),  # it may be worse by more than 3 points
    ],
)
def test_no_harm_is_non_inferiority_and_what_is_not_shown_stays_open(
    found: Findings, gains: list[tuple[float, float, int]], verdict: str
) -> None:
    told = [with_gain(w, *gain) for w, gain in zip(newest_of(found), gains, strict=True)]
    assert judged(told) == verdict


def test_the_old_fine_tuned_model_stands_beside_the_new_base(found: Findings) -> None:
    for worth in found.worths:
        task, old = worth.matrix.task, Model(TUNED, None, str(worth.model.source), worth.model.tuning)
        scores = [found.estimates.value(m, task) for m in (old, Model(BASE, None, worth.model.target))]
        assert [worth.old, worth.base] == scores and None not in scores
        assert worth.base_over_old is not None and worth.over_old is not None
    sums = [w for w in found.worths if w.matrix.task == "sums"]
    adjusted = holm([w.base_over_old.p for w in sums if w.base_over_old])
    assert [w.base_clearly != 0 for w in sums] == [p < 0.05 for p in adjusted]
    assert any(w.base_clearly == -1 for w in sums)


def test_the_first_screen_has_the_answer_and_three_numbers_with_their_intervals(found: Findings) -> None:
    lead, facts, *_ = answer(found).parts
    assert isinstance(lead, Lead) and lead.answer == "Yes." and "M5 + Δ(M4)" in lead.words
    assert isinstance(facts, Facts) and "n = 200" in facts.basis and len(facts.facts) == 3
    (first, *_) = newest_of(found)
    assert first.cell.gain is not None and first.cell.recovered is not None and first.over_old is not None
    values = [100 * first.cell.gain.value, first.cell.recovered.value, 100 * first.over_old.value]
    for fact, value, digits in zip(facts.facts, values, (1, 2, 1), strict=True):
        assert f"{abs(value):.{digits}f}" in fact.value and fact.interval.startswith("[") and fact.words.endswith(".")


def test_a_transfer_that_is_pending_or_failed_has_no_answer_yet(tmp_path: Path) -> None:
    found = findings(MadeUp(tmp_path / "study", families=(0,), failed=(0, 0, "M4", "M5")).write())
    (lead, *_) = answer(found).parts
    assert isinstance(lead, Lead) and lead.answer == "No answer yet." and "failed" in lead.words
    waiting = [
        replace(run, status=NOT_RUN, error=None, scores={}) if run.model.kind == TRANSFER else run
        for run in found.reading.runs
    ]
    assert all(run.pending for run in waiting if run.model.kind == TRANSFER)


def test_a_new_base_that_is_ahead_of_the_old_fine_tuned_model_is_said_to_be(found: Findings) -> None:
    ahead = tuple(replace(w, base_clearly=1) for w in found.worths)
    facts = answer(replace(found, worths=ahead)).parts[1]
    assert isinstance(facts, Facts) and "no advantage" in facts.facts[2].words and "section 3.2" in facts.facts[2].words
