"""The sections of a page, in their order."""

from __future__ import annotations

from pathlib import Path

from tuneport.reporting.sections import evidence_sections, explanation_sections, matrix_sections
from tuneport.reporting.sections.parts import Section
from tuneport.reporting.tables.report_tables import Findings


def sections(found: Findings, place: Path) -> list[Section]:
    """What a study has something of; `place` is where the page will lie (links to records are relative to it)."""
    every = [
        matrix_sections.transfers(found),
        matrix_sections.tuned_on(found),
        matrix_sections.recycled(found),
        explanation_sections.predictors(found),
        explanation_sections.paths(found),
        explanation_sections.distances(found),
        evidence_sections.answers(found),
        evidence_sections.failures(found.reading),
        evidence_sections.published(found),
        evidence_sections.scores(found),
        evidence_sections.records(found.reading, place),
        evidence_sections.reading_it(found),
    ]
    return [section for section in every if section is not None]
