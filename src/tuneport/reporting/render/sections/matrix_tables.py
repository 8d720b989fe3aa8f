"""Sections with the paper's tables: transfer, transfer then fine-tuning, recycling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuneport.reporting.render import figures
from tuneport.reporting.render.html_tables import (
    Column,
    Value,
    change_value,
    download,
    matrix_rows,
    matrix_table,
    shown_value,
    table,
)
from tuneport.reporting.render.markup import Markup, tag
from tuneport.reporting.render.sections import Section
from tuneport.reporting.render.sections.curve_figures import curves
from tuneport.reporting.render.sections.figure import figure
from tuneport.reporting.render.sections.tasks import of_task
from tuneport.reporting.tables import kept_precision
from tuneport.reporting.tables.estimates import Change
from tuneport.reporting.tables.findings import Findings
from tuneport.reporting.tables.further_tuning import Comparison
from tuneport.reporting.tables.matrix import Matrix
from tuneport.reporting.tables.study_reading import Reading
from tuneport.reporting.tables.wording import DASH, FALLEN, counted, listed, with_unit


def transfers(found: Findings) -> Section | None:
    """M_i + Δ_j: Tables 1, 3, 7, 8 and 11."""
    if not found.transfers:
        return None
    intro = (
        "What the target scores with the diff vector of another version added, without any training. Rows: the base, the base "
        "with Δ of another version, and the version's own fine-tuning; columns: the version that Δ is added to."
    )
    return (
        "transfer",
        "Transfer by addition",
        [tag("p", intro), _matrices(found.transfers, found, "the base"), _scaled(found)],
    )


def _scaled(found: Findings) -> Markup | None:
    """target + α·Δ beside target + Δ."""
    if not found.scaled:
        return None
    scales = [scale for scale, _ in found.scaled[0].shown]
    columns = [Column("transfer"), Column("task"), *(Column(f"α = {scale:g}", True) for scale in scales)]
    rows, lines = [], []
    for each in found.scaled:
        name = f"{each.target} + α·Δ({each.source}{f', {each.tuning}' if found.reading.several_tunings else ''})"
        rows.append([Value(name), Value(each.task), *(shown_value(shown) for _, shown in each.shown)])
        lines += [
            [each.source, each.target, each.tuning, each.task, scale, shown.value, *(shown.interval or (None, None))]
            for scale, shown in each.shown
            if shown is not None
        ]
    csv = download("scales", ["source", "target", "tuning", "task", "scale", "value", "low", "high"], lines)
    return tag(
        "div", tag("h3", "At other scales"), table("target + α·Δ", columns, rows), tag("div", csv, class_="under")
    )


def tuned_on(found: Findings) -> Section | None:
    """M_i + Δ_j, fine-tuned: Tables 4, 5, 12 and 13, Figures 2 and 4."""
    panels = [panel for panel in found.panels if panel.kinds == "further fine-tuning"]
    if not found.tuned_on and not panels:
        return None
    intro = (
        "Fine-tuned again after the transfer, with the same data and schedule. Small numbers count what this adds to the "
        "transferred model (as Tables 4 and 12 of the paper do); gains over the base (Table 13) stand below, against plain "
        "fine-tuning."
    )
    compared = [row for row in found.compared if row.model.kind == "transfer-then-tune"]
    content = [
        tag("p", intro),
        _matrices(found.tuned_on, found, "the transferred model"),
        _compared(compared, found, "transfer-then-tune"),
        curves(panels, found),
    ]
    return "further", "Transfer, then fine-tuning", content


def recycled(found: Findings) -> Section | None:
    """Algorithm 1: Table 6 and Figure 3."""
    if not found.recycled:
        return None
    several = found.reading.several_tunings
    content: list[Any] = [
        tag(
            "p",
            "Algorithm 1 of the paper: Δ of the version before, which itself began with a Δ (iterative), against Δ of a version "
            "fine-tuned by itself (direct), against nothing recycled. Small numbers are gains over the base.",
        )
    ]
    tasks = [matrix.task for matrix in found.recycled]
    for matrix in found.recycled:
        words = "Score version by version; lines are iterative, direct and no recycling."
        csv = download(f"recycling-{matrix.task}", *matrix_rows(matrix, several))
        pair = tag(
            "div",
            figure("Iterative, direct, none.", words, figures.recycling_figure(matrix, several), csv),
            tag("div", matrix_table(matrix, several), _legend(matrix, "the base"), class_="beside"),
            class_="pair",
        )
        content.append(of_task(matrix.task, tasks, pair))
    compared = [row for row in found.compared if row.model.kind.startswith("recycle")]
    content += [
        _against_direct(found),
        _compared(compared, found, "recycling"),
        curves([p for p in found.panels if p.kinds == "recycling"], found),
    ]
    content.append(_rounding(found.reading))
    return "recycling", "Recycling, version after version", content


def _matrices(matrices: Sequence[Matrix], found: Findings, over: str) -> list[Markup]:
    tasks = [matrix.task for matrix in matrices]
    return [of_task(each.task, tasks, _matrix(each, found, over), _basis(each)) for each in matrices]


def _matrix(matrix: Matrix, found: Findings, over: str) -> Markup:
    several = found.reading.several_tunings
    csv = download(f"{matrix.kind}-{matrix.task}", *matrix_rows(matrix, several))
    drawn = figure("Heat map.", _matrix_words(matrix, several), figures.heat_map(matrix, several), csv)
    beside = tag("div", matrix_table(matrix, several), _legend(matrix, over), class_="beside")
    return tag("div", drawn, beside, class_="pair")


def _basis(matrix: Matrix) -> str:
    told = [f"{matrix.metric}, n = {matrix.n:,}" if matrix.metric else f"n = {matrix.n:,}"]
    told += [counted(matrix.families, "family", "families")] if matrix.families > 1 else []
    told += [counted(matrix.seeds, "seed")] if matrix.seeds > 1 else []
    return ", ".join(told)


def _matrix_words(matrix: Matrix, several: bool) -> str:
    """The figure in a sentence."""
    cells = [cell for cell in matrix.deltas if cell.shown is not None]
    if not cells:
        return "No model with a diff vector is scored yet."
    sign = 1 if matrix.share or cells[0].shown is None or cells[0].shown.score.higher_is_better else -1
    best = max(cells, key=lambda cell: sign * (cell.shown.value if cell.shown else 0))
    changed = [cell for cell in matrix.changed if cell.shown is not None]
    worse = [cell.model.name(several) for cell in changed if cell.clearly < 0]
    told = f"Highest with Δ: {best.model.name(several)}, {with_unit(best.shown)}." if best.shown and sign > 0 else ""
    if sign < 0 and best.shown:
        told = f"Lowest with Δ: {best.model.name(several)}, {with_unit(best.shown)}."
    if not worse:
        return f"{told} None is clearly worse than its base."
    named = listed(worse) if len(worse) <= 3 else f"{len(worse)} of {len(changed)}"
    return f"{told} Clearly worse than the base: {named}."


def _legend(matrix: Matrix, over: str) -> Markup:
    unit = "per cent" if matrix.share else f"{matrix.metric}, where lower is better and a gain is what it fell by"
    return tag(
        "p",
        f"In {unit}. Beside each number what it gains over {over}, below it the 95 % interval. Bold: best of its row. "
        "★ best Δ for its target. ▼ clearly worse than the base.",
        class_="legend",
    )


def _against_direct(found: Findings) -> Markup | None:
    if not found.against_direct:
        return None
    columns = [
        Column("version"), Column("task"),
        Column("at the same steps", True, "iterative minus direct, both fine-tuned for as many steps on this version"),
        Column("at the same total", True, "iterative minus direct, as many steps in both, those for versions before counted"),
        Column("steps in all, iterative", True), Column("direct", True),
    ]  # fmt: skip
    several = found.reading.several_tunings
    rows = [
        [
            Value(row.model.target + (f", {row.model.tuning}" if several else "")),
            Value(row.task),
            change_value(row.same_steps, row.share, row.clearly[0]),
            change_value(row.same_total, row.share, row.clearly[1]),
            *(Value(DASH if total is None else f"{total:,}", total) for total in row.totals),
        ]
        for row in found.against_direct
    ]
    csv = download(
        "iterative-against-direct",
        ["version", "tuning", "task", *_columns("same_steps", "same_total"), "steps_iterative", "steps_direct"],
        [
            [row.model.target, row.model.tuning, row.task, *_ends(row.same_steps, row.same_total), *row.totals]
            for row in found.against_direct
        ],
    )
    words = (
        "Iterative minus direct, twice: at the same steps for this version (the paper's comparison), where the iterative one "
        "stands on the steps of all versions before it too, and at the same total of steps. The first version of a chain is "
        "one model for both."
    ) + ("" if all(row.share for row in found.against_direct) else f" {FALLEN}")
    return tag(
        "div",
        tag("h3", "Iterative against direct"),
        tag("p", words),
        table("Iterative minus direct", columns, rows),
        tag("div", csv, class_="under"),
    )


def _columns(*differences: str) -> list[str]:
    """Headings of differences as CSV, each followed by the ends of its interval."""
    return [f"{name}{end}" for name in differences for end in ("", "_low", "_high")]


def _ends(*changes: Change | None) -> list[float | None]:
    """What stands under these headings."""
    told = [(None, None, None) if c is None else (c.value, *(c.interval or (None, None))) for c in changes]
    return [value for each in told for value in each]


def _compared(rows: Sequence[Comparison], found: Findings, name: str) -> Markup | None:
    if not rows:
        return None
    several = found.reading.several_tunings
    columns = [
        Column("model"), Column("score", True), Column("over the base", True),
        Column("at the same steps", True, "minus plain fine-tuning for as many steps as this version got"),
        Column("at the same total", True, "minus plain fine-tuning for as many steps as went into the model in all"),
        Column("steps in all", True),
    ]  # fmt: skip
    lines = [
        [
            *(row.model.name(several), row.task, row.shown.value),
            *_ends(row.over_base, row.same_steps, row.same_total),
            row.total,
        ]
        for row in rows
    ]
    tasks = list(dict.fromkeys(row.task for row in rows))
    names = ["model", "task", "value", *_columns("over_base", "same_steps", "same_total"), "steps_in_all"]
    return tag(
        "div",
        tag("h3", "Against plain fine-tuning"),
        tag(
            "p",
            "Each stands twice: against FT of its version at the same steps (the paper's comparison), and at the same total of "
            "steps; where no fine-tuning is known to have had as many, nothing stands."
            + ("" if all(row.share for row in rows) else f" {FALLEN}"),
        ),
        [_compared_on(task, [row for row in rows if row.task == task], columns, several) for task in tasks],
        tag("div", download(f"{name}-against-plain", names, lines), class_="under"),
    )


def _compared_on(task: str, rows: Sequence[Comparison], columns: Sequence[Column], several: bool) -> Markup:
    body = [
        [
            Value(row.model.name(several)),
            shown_value(row.shown),
            change_value(row.over_base, row.share),
            change_value(row.same_steps, row.share, row.clearly[0]),
            change_value(row.same_total, row.share, row.clearly[1]),
            Value(DASH if row.total is None else f"{row.total:,}", row.total),
        ]
        for row in rows
    ]
    told = []
    for which, words in ((0, "at the same steps"), (1, "at the same total")):
        known = [row for row in rows if (row.same_steps, row.same_total)[which] is not None]
        above, below = (sum(row.clearly[which] == sign for row in known) for sign in (1, -1))
        if known:
            told.append(f"{words} {above} of {len(known)} clearly above, {below} clearly below")
    few = len(rows) <= 8
    summary = tag("summary", tag("b", task), f": {'; '.join(told)}" if told else "")
    return tag("details", summary, table(f"Against plain fine-tuning, {task}", columns, body), open=few)


def _rounding(reading: Reading) -> Markup | None:
    if not reading.rounding:
        return None
    columns = [
        Column("Δ of"), Column("family", True), Column("seed", True), Column("kept in"),
        Column("share of ‖Δ‖ lost", True), Column("elements that vanish", True),
    ]  # fmt: skip
    rounded = kept_precision.rounded(reading.rounding)
    rows = [
        [
            Value(row.tuned),
            *(Value(DASH if each is None else str(each), each) for each in (row.family, row.seed)),
            Value(row.dtype),
            *(
                Value(DASH if each is None else kept_precision.per_cent(each), each)
                for each in (row.lost, row.vanished)
            ),
        ]
        for row in rounded
    ]
    words = kept_precision.in_words(rounded, reading.carried)
    return tag(
        "div", tag("h3", "Rounding"), tag("p", words), table("What another dtype would have lost", columns, rows)
    )
