"""Curves of fine-tuning, one figure for each target, with steps to match and peaks."""

from __future__ import annotations

from collections.abc import Sequence

from tuneport.reporting.render import figures
from tuneport.reporting.render.html_tables import Column, Value, download, table
from tuneport.reporting.render.markup import Markup, tag
from tuneport.reporting.render.sections.figure import figure
from tuneport.reporting.tables.findings import Findings
from tuneport.reporting.tables.scored_models import TUNED
from tuneport.reporting.tables.training_curves import Panel, steps_saved
from tuneport.reporting.tables.wording import DASH, PER_CENT, listed, minus, number


def curves(panels: Sequence[Panel], found: Findings) -> Markup | None:
    """A figure for each panel; None where nothing was followed."""
    if not panels:
        return None
    return tag(
        "div",
        tag("h3", "Accuracy against steps"),
        tag(
            "p",
            "On validation data. Dotted: where plain fine-tuning ends; steps to match count until a curve first reaches it.",
        ),
        tag("div", [_curve(panel, found) for panel in panels], class_="grid"),
    )


def _curve(panel: Panel, found: Findings) -> Markup:
    several = found.reading.several_tunings
    columns = [
        Column("start"), Column("steps to match", True), Column("steps saved", True), Column("peak", True), Column("at step", True),
        Column("end", True),
    ]  # fmt: skip
    rows = []
    for curve in panel.curves:
        saved = steps_saved(panel, curve)
        peak, end = curve.peak, curve.points[-1] if curve.points else None
        plain = curve.model.kind == TUNED
        rows.append(
            [
                Value(curve.model.name(several)),
                Value(
                    DASH if not panel.gains else "never" if curve.to_match is None else f"{curve.to_match:,}",
                    curve.to_match,
                ),
                Value(DASH if plain or not panel.gains else "none" if saved is None else minus(f"{saved:,}"), saved),
                Value(DASH if peak is None else number(peak.value, panel.share), None if peak is None else peak.value),
                Value(DASH if peak is None else f"{peak.step:,}", None if peak is None else peak.step),
                Value(DASH if end is None else number(end.value, panel.share), None if end is None else end.value),
            ]
        )
    reached = [
        f"{curve.model.delta} after {curve.to_match:,}"
        for curve in panel.curves
        if curve.model.kind != TUNED and curve.to_match is not None
    ]
    words = ""
    if panel.reference is not None:
        level = f"{number(panel.reference.value, panel.share)}{PER_CENT if panel.share else ''}"
        words = f"Plain fine-tuning ends at {level} after {panel.reference.step:,} steps. "
        if not panel.gains:
            words += "It gains nothing here, so there is nothing to match."
        else:
            words += f"Reached with {listed(reached)} steps." if reached else "No transferred start gets there."
    tuning = f", {panel.tuning}" if several and panel.tuning else ""
    lines = [
        [
            curve.model.name(several),
            panel.target,
            panel.task,
            p.step,
            p.value,
            *(p.interval or (None, None)),
            p.n,
            p.results,
        ]
        for curve in panel.curves
        for p in curve.points
    ]
    csv = download(
        f"curve-{panel.kinds}-{panel.target}-{panel.task}",
        ["start", "target", "task", "step", "value", "low", "high", "n", "results"],
        lines,
    )
    return figure(
        f"{panel.target}, {panel.task}{tuning}.",
        words,
        figures.curve_figure(panel, several, found.reading.versions),
        csv,
        table(f"Steps to match and peaks, {panel.target}, {panel.task}", columns, rows),
    )
