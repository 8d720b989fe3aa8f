"""What a study's records contain, before it is written as a page: every table, curve, line and answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tuneport.reporting.tables.answers_side_by_side import SideBySide, side_by_side
from tuneport.reporting.tables.estimates import Estimates
from tuneport.reporting.tables.further_tuning import Comparison, against_direct, comparisons
from tuneport.reporting.tables.matrix import Matrix, Scaled, matrices, recycling, scaled
from tuneport.reporting.tables.predictors import Apart, Line, Scatter, distances, lines, scatters
from tuneport.reporting.tables.study_summary import asked_and_done, summary
from tuneport.reporting.tables.training_curves import Panel, panels
from tuneport.reporting.tables.verdict import Worth, worths
from tuneport.results.schema import ADAPTED, THEN_TUNED, TRANSFER
from tuneport.results.study_reading import Reading, read_study


@dataclass(frozen=True)
class Findings:
    """Everything on the page, in its order."""

    reading: Reading
    estimates: Estimates
    asked: tuple[str, ...]  # what was asked, and how much of it is there
    told: tuple[str, ...]  # what was gained
    worths: tuple[Worth, ...]
    transfers: tuple[Matrix, ...]
    adapted: tuple[Matrix, ...]
    tuned_on: tuple[Matrix, ...]
    recycled: tuple[Matrix, ...]
    against_direct: tuple[Comparison, ...]
    scaled: tuple[Scaled, ...]
    compared: tuple[Comparison, ...]
    panels: tuple[Panel, ...]
    scatters: tuple[Scatter, ...]
    lines: tuple[Line, ...]
    distances: tuple[Apart, ...]
    answers: SideBySide | None


def findings(study: str | Path, url: str | None = None) -> Findings:
    """What a study's records say, before it is put into a form; `url` is where they lie, if `study` is a copy of that."""
    reading = read_study(study, url)
    estimates = Estimates(reading.runs, reading.root)
    transfers = matrices(reading, estimates, TRANSFER)
    compared, curves = comparisons(reading, estimates), panels(reading)
    return Findings(
        reading=reading,
        estimates=estimates,
        asked=tuple(asked_and_done(reading, estimates)),
        told=tuple(summary(reading, transfers, compared, curves)),
        worths=tuple(worths(estimates, transfers)),
        transfers=tuple(transfers),
        adapted=tuple(matrices(reading, estimates, ADAPTED)),
        tuned_on=tuple(matrices(reading, estimates, THEN_TUNED)),
        recycled=tuple(recycling(reading, estimates)),
        against_direct=tuple(against_direct(reading, estimates)),
        scaled=tuple(scaled(reading, estimates)),
        compared=tuple(compared),
        panels=tuple(curves),
        scatters=tuple(scatters(reading, estimates)),
        lines=tuple(lines(reading)),
        distances=tuple(distances(reading)),
        answers=side_by_side(reading, transfers),
    )
