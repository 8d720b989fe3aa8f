"""Curves of fine-tuning: one figure per target, with steps to match and peaks."""

from __future__ import annotations

from collections.abc import Sequence

from tuneport.reporting.render import figures
from tuneport.reporting.sections.parts import Block, Csv, Figure, Group, Part, Table, TableColumn, Value, ends
from tuneport.reporting.tables.report_tables import Findings
from tuneport.reporting.tables.training_curves import Panel, steps_saved
from tuneport.reporting.tables.wording import DASH, PER_CENT, listed, minus, number
from tuneport.results.schema import TUNED

_MOST_OPEN = 6  # figures that stand open


def curves(panels: Sequence[Panel], found: Findings) -> list[Part]:
    """A figure for each panel; nothing where nothing was followed."""
    if not panels:
        return []
    words = (
        "On validation data. Dotted: where plain fine-tuning ends. Steps to match: steps until a curve reaches that "
        "level and stays there."
    )
    grid = Group([_curve(panel, found) for panel in panels], "grid")
    return [Block("Accuracy against steps", [words, grid], folded=len(panels) > _MOST_OPEN)]


def _curve(panel: Panel, found: Findings) -> Figure:
    several = found.reading.several_tunings
    columns = [
        TableColumn("start"), TableColumn("steps to match", True), TableColumn("steps saved", True), TableColumn("peak", True), TableColumn("at step", True),
        TableColumn("end", True),
    ]  # fmt: skip
    rows = []
    for curve in panel.curves:
        saved = steps_saved(panel, curve)
        peak, end = curve.peak, curve.points[-1] if curve.points else None
        plain = curve.model.kind == TUNED
        match = DASH if not panel.gains else "never" if curve.to_match is None else f"{curve.to_match:,}"
        less = DASH if plain or not panel.gains else "none" if saved is None else minus(f"{saved:,}")
        rows.append(
            [
                Value(curve.model.name(several)),
                Value(match, curve.to_match),
                Value(less, saved),
                Value(DASH) if peak is None else Value(number(peak.value, panel.share), peak.value),
                Value(DASH) if peak is None else Value(f"{peak.step:,}", peak.step),
                Value(DASH) if end is None else Value(number(end.value, panel.share), end.value),
            ]
        )
    lines = [
        [curve.model.name(several), panel.target, panel.task, p.step, p.value, *ends(p.interval), p.n, p.results]
        for curve in panel.curves
        for p in curve.points
    ]
    names = ["start", "target", "task", "step", "value", "low", "high", "n", "results"]
    tuning = f", {panel.tuning}" if several and panel.tuning else ""
    return Figure(
        f"{panel.target}, {panel.task}{tuning}.",
        _words(panel),
        figures.curve_figure(panel, several, found.reading.versions),
        Csv(f"curve-{panel.kinds}-{panel.target}-{panel.task}", names, lines),
        Table(f"Steps to match and peaks, {panel.target}, {panel.task}", columns, rows),
        table_page_only=False,
    )


def _words(panel: Panel) -> str:
    if panel.reference is None:
        return ""
    reached = [
        f"{curve.model.delta} after {curve.to_match:,}"
        for curve in panel.curves
        if curve.model.kind != TUNED and curve.to_match is not None
    ]
    level = f"{number(panel.reference.value, panel.share)}{PER_CENT if panel.share else ''}"
    words = f"Plain fine-tuning ends at {level} after {panel.reference.step:,} steps. "
    if not panel.gains:
        return f"{words}It gains nothing here, so there is nothing to match."
    return words + (
        f"Reached and kept: {listed(reached)} steps."
        if reached
        else "No transferred start reaches this level and stays there."
    )
