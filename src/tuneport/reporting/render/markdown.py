"""The same findings as Markdown, for a model card or an issue: tables and sentences, no figures.

Names, errors and notes are escaped, so that what stands in a file cannot become markup, a mention or a table cell of
its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tuneport.reporting.render.markup import clean
from tuneport.reporting.tables import kept_precision
from tuneport.reporting.tables.estimates import Change, Shown
from tuneport.reporting.tables.findings import Findings
from tuneport.reporting.tables.further_tuning import Comparison, Recycled
from tuneport.reporting.tables.matrix import Cell, Matrix
from tuneport.reporting.tables.predictors import PREDICTORS
from tuneport.reporting.tables.scored_models import DONE, TUNED
from tuneport.reporting.tables.study_reading import Reading
from tuneport.reporting.tables.training_curves import Panel, steps_saved
from tuneport.reporting.tables.wording import DASH, FALLEN, minus, number, signed, span

_MARKS = {1: " ▲", -1: " ▼", 0: ""}
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~&@])")


def markdown(found: Findings, place: Path) -> str:
    """The whole text; `place` is where it will lie, which no link in it depends on."""
    reading = found.reading
    parts = [f"# {text(reading.name)}", text(" ".join(found.words))]
    parts += [f"> {text(doubt)}" for doubt in reading.doubts]
    for title, of_kind in (
        ("Transfer by addition", found.transfers),
        ("Transfer, then fine-tuning", found.tuned_on),
        ("Recycling, version after version", found.recycled),
    ):
        if of_kind:
            parts.append(f"## {title}")
            parts += [part for matrix in of_kind for part in _matrix(matrix)]
    if found.transfers or found.tuned_on or found.recycled:
        parts.append(
            "Brackets hold 95 % intervals, **bold** is the best of its row, ★ the best Δ for its target, ▼ clearly below the "
            "base (p below 0.05 after Holm's adjustment among the models of a kind)."
        )
    parts += _scaled(found)
    parts += _others(found)
    parts += _against_direct(found)
    parts += _compared(found.compared, reading)
    parts += _rounding(reading)
    parts += _curves(found.panels, reading)
    parts += _predictors(found)
    parts += _paths(found)
    parts += _distances(found)
    parts += _failures(reading)
    if reading.notes:
        parts.append("## Notes of the study\n\n" + "\n".join(f"- {text(note)}" for note in reading.notes))
    return "\n\n".join(parts) + "\n"


def text(words: str) -> str:
    """Words of a file as Markdown that shows them as they are, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(clean(words).split()))


def _matrix(matrix: Matrix) -> list[str]:
    basis = f"{text(matrix.metric)}, n = {matrix.n:,}" if matrix.metric else f"n = {matrix.n:,}"
    basis += f", {matrix.families} families" if matrix.families > 1 else ""
    basis += f", {matrix.seeds} seeds" if matrix.seeds > 1 else ""
    rows = [["", *map(text, matrix.targets)]]
    rows += [[text(row.label), *(_cell(cell, matrix.share) for cell in row.cells)] for row in matrix.rows]
    return [f"### {text(matrix.task)} ({basis})", _table(rows)]


def _cell(cell: Cell | None, share: bool) -> str:
    if cell is None:
        return ""
    if cell.shown is None:
        return f"*{text(cell.status if cell.status != DONE else 'no score')}*"
    value = number(cell.shown.value, share)
    told = [f"**{value}**" if cell.best_of_row else value]
    told += ["★"] if cell.best_of_target else []
    told += ["▼"] if cell.clearly < 0 else []
    told += [span(cell.shown.interval, share)] if cell.shown.interval else []
    told += [f"({signed(cell.gain.value, share)})"] if cell.gain and cell.over else []
    told += [f"*paper {minus(f'{cell.published:.1f}')}*"] if cell.published is not None else []
    return " ".join(told)


def _scaled(found: Findings) -> list[str]:
    """target + α·Δ beside target + Δ."""
    if not found.scaled:
        return []
    several = found.reading.several_tunings
    rows = [["transfer", "task", *(f"α = {scale:g}" for scale, _ in found.scaled[0].shown)]]
    for each in found.scaled:
        name = f"{each.target} + α·Δ({each.source}{f', {each.tuning}' if several else ''})"
        rows.append([text(name), text(each.task), *(_score(shown) for _, shown in each.shown)])
    return ["## At other scales", _table(rows)]


def _others(found: Findings) -> list[str]:
    """Scored models that stand in none of the tables before and after."""
    cells = [cell for of_kind in (found.transfers, found.tuned_on, found.recycled) for m in of_kind for cell in m.cells]
    told = {cell.model for cell in cells} | {row.model for row in found.compared}
    told |= {run.model for run in found.reading.runs if run.model.scale != 1}
    tasks = found.estimates.tasks
    rows = [["model", *map(text, tasks)]]
    for model in dict.fromkeys(run.model for run in found.reading.runs if run.step is None):
        shown = [found.estimates.value(model, task) for task in tasks]
        if model not in told and any(shown):
            rows.append([text(model.name(found.reading.several_tunings)), *map(_score, shown)])
    return ["## Other models", _table(rows)] if len(rows) > 1 else []


def _score(shown: Shown | None) -> str:
    """A score with its interval."""
    if shown is None:
        return DASH
    share = shown.score.is_share
    return f"{number(shown.value, share)} {span(shown.interval, share)}".rstrip()


def _against_direct(found: Findings) -> list[str]:
    if not found.against_direct:
        return []
    rows = [["version", "task", "at the same steps", "at the same total"]]
    for row in found.against_direct:
        name = row.model.target + (f", {row.model.tuning}" if found.reading.several_tunings else "")
        rows.append([text(name), text(row.task), *_twice(row)])
    words = "Iterative minus direct, at the same steps for this version and at the same total of steps. The first version of a "
    words += "chain is one model for both."
    words += "" if all(row.share for row in found.against_direct) else f" {FALLEN}"
    return ["## Iterative against direct", words, _table(rows)]


def _twice(row: Comparison | Recycled) -> list[str]:
    """Both differences."""
    changes = zip((row.same_steps, row.same_total), row.clearly, strict=True)
    return [_change(change, row.share, clearly) for change, clearly in changes]


def _change(change: Change | None, share: bool, clearly: int = 0) -> str:
    """A difference with its mark and interval."""
    if change is None:
        return DASH
    return f"{signed(change.value, share)}{_MARKS[clearly]} {span(change.interval, share, sign=True)}".rstrip()


def _compared(rows: Sequence[Comparison], reading: Reading) -> list[str]:
    if not rows:
        return []
    several = reading.several_tunings
    table = [["model", "task", "score", "over the base", "at the same steps", "at the same total"]]
    table += [
        [
            text(row.model.name(several)),
            text(row.task),
            number(row.shown.value, row.share),
            _change(row.over_base, row.share),
            *_twice(row),
        ]
        for row in rows
    ]
    words = "Score minus plain fine-tuning's; ▲ and ▼ are clear." + (
        "" if all(row.share for row in rows) else f" {FALLEN}"
    )
    return ["## Against plain fine-tuning", words, _table(table)]


def _rounding(reading: Reading) -> list[str]:
    rounded = kept_precision.rounded(reading.rounding)
    if not rounded:
        return []
    rows = [["Δ of", "family", "seed", "kept in", "share of ‖Δ‖ lost", "elements that vanish"]]
    for row in rounded:
        which = [DASH if each is None else str(each) for each in (row.family, row.seed)]
        shares = [DASH if each is None else kept_precision.per_cent(each) for each in (row.lost, row.vanished)]
        rows.append([text(row.tuned), *which, text(row.dtype), *shares])
    words = text(kept_precision.in_words(rounded, reading.carried))
    return ["## Rounding", words, _table([[text(name) for name in rows[0]], *rows[1:]])]


def _curves(panels: Sequence[Panel], reading: Reading) -> list[str]:
    rows = [["target", "start", "task", "steps to match", "steps saved", "peak"]]
    for panel in panels:
        for curve in panel.curves:
            if curve.model.kind == TUNED:
                continue
            saved = steps_saved(panel, curve)
            match = DASH if not panel.gains else "never" if curve.to_match is None else f"{curve.to_match:,}"
            peak = DASH if curve.peak is None else f"{number(curve.peak.value, panel.share)} at {curve.peak.step:,}"
            name = text(curve.model.name(reading.several_tunings))
            saved_words = DASH if saved is None else minus(f"{saved:,}")
            rows.append([text(panel.target), name, text(panel.task), match, saved_words, peak])
    if len(rows) == 1:
        return []
    return ["## Steps to match plain fine-tuning's end", "Read on validation data.", _table(rows)]


def _predictors(found: Findings) -> list[str]:
    if not found.scatters:
        return []
    rows = [["against recovered gain", "task", "pairs", "Spearman's ρ"]]
    for scatter in found.scatters:
        rho = scatter.rank_correlation
        named = PREDICTORS[scatter.predictor][0]
        rows.append([named, text(scatter.task), str(len(scatter.points)), DASH if rho is None else minus(f"{rho:.2f}")])
    return [
        "## When does it work?",
        "Of pairs whose target gains by its own fine-tuning; they share versions and are not independent, and no test is made.",
        _table(rows),
    ]


def _paths(found: Findings) -> list[str]:
    if not found.lines:
        return []
    rows = [["path", "family", "seed", "barrier", "connected"]]
    for line in found.lines:
        barrier = DASH if line.barrier is None else minus(f"{line.barrier:.3f} {span(line.interval, False)}".rstrip())
        which = [DASH if each is None else str(each) for each in (line.family, line.seed)]
        rows.append([text(line.name), *map(text, which), barrier, line.verdict])
    return ["## Barriers", "Nats a token, with 95 % intervals.", _table(rows)]


def _distances(found: Findings) -> list[str]:
    if not found.distances:
        return []
    rows = [["versions", "fine-tuning", "family", "seed", "‖M_i − M_j‖", "‖Δ_i‖", "‖Δ_j‖", "cos(Δ_i, Δ_j)"]]
    for row in found.distances:
        which = [DASH if each is None else str(each) for each in (row.tuning, row.family, row.seed)]
        lengths = [
            DASH if length is None else f"{length:.4g}" for length in (row.distance, row.diff_norm_a, row.diff_norm_b)
        ]
        cosine = DASH if row.cosine is None else minus(f"{row.cosine:.3f}")
        rows.append([text(f"{row.a} – {row.b}"), *map(text, which), *lengths, cosine])
    return ["## Distances", _table([[text(name) for name in rows[0]], *rows[1:]])]


def _failures(reading: Reading) -> list[str]:
    missing = [run for run in reading.runs if run.step is None and run.status != DONE]
    broken = [step for step in reading.steps if step.outcome == "failed"]
    if not missing and not broken:
        return []
    lines = [f"- {text(step.name)} failed: {text(step.error or 'the record says no more')}" for step in broken]
    for run in missing:
        name = text(run.model.name(reading.several_tunings))
        which = "".join(
            f", {word} {each}" for word, each in (("family", run.family), ("seed", run.seed)) if each is not None
        )
        lines.append(
            f"- {name}{which}: {text(run.status)}{', in part' if run.in_part else ''}{f' ({text(run.error)})' if run.error else ''}"
        )
    return ["## What failed, and why", "\n".join(lines)]


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---", *("---:" for _ in head[1:])], *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)
