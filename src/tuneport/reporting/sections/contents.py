"""The contents of a page, for a study, a file of scores, a comparison or an adaptation: its name, a line about the results, doubts, and sections."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tuneport.reporting.sections import (
    adaptation_sections,
    answer_section,
    comparison_sections,
    evaluation_sections,
    evidence_sections,
    explanation_sections,
    matrix_sections,
)
from tuneport.reporting.sections.parts import Section
from tuneport.reporting.tables.report_tables import Findings
from tuneport.results.adaptation_reading import AdaptationResult
from tuneport.results.comparison_reading import ComparisonResult
from tuneport.results.evaluation_reading import EvaluationResult

_MOST_TASKS = 3  # of a page whose sections all stand open
_OPEN = ("answer", "asked", "failures", "pending")  # on a long page


@dataclass(frozen=True)
class Contents:
    """Everything that HTML and Markdown print."""

    name: str
    summary: str
    doubts: tuple[str, ...]
    sections: list[Section]


def of_study(found: Findings, place: Path) -> Contents:
    """The page of a study; `place` is where it will lie."""
    reading = found.reading
    return Contents(reading.name, found.asked[-1], reading.doubts, sections(found, place))


def of_evaluation(found: EvaluationResult) -> Contents:
    """The page of a file of scores."""
    return Contents(found.name, evaluation_sections.summary(found), (), evaluation_sections.sections(found))


def of_comparison(found: ComparisonResult) -> Contents:
    """The page of what `tuneport compare` wrote."""
    return Contents(found.name, comparison_sections.summary(found), (), comparison_sections.sections(found))


def of_adaptation(found: AdaptationResult) -> Contents:
    """The page of what `tuneport adapt` wrote."""
    return Contents(found.name, adaptation_sections.summary(found), (), adaptation_sections.sections(found))


def sections(found: Findings, place: Path) -> list[Section]:
    """What a study has something of; `place` is where the page will lie (links to records are relative to it)."""
    every = [
        answer_section.answer(found),
        answer_section.worth(found),
        answer_section.asked(found),
        matrix_sections.transfers(found),
        matrix_sections.adapted(found),
        matrix_sections.tuned_on(found),
        matrix_sections.recycled(found),
        explanation_sections.predictors(found),
        explanation_sections.paths(found),
        explanation_sections.distances(found),
        evidence_sections.answers(found),
        evidence_sections.failures(found.reading),
        evidence_sections.pending(found.reading),
        evidence_sections.published(found),
        evidence_sections.scores(found),
        evidence_sections.records(found.reading, place),
        evidence_sections.reading_it(found),
    ]
    known = [section for section in every if section is not None]
    if len(found.estimates.tasks) <= _MOST_TASKS:
        return known
    return [section if section.anchor in _OPEN else replace(section, folded=True) for section in known]
