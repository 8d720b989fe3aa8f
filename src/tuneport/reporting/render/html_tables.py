"""Tables as HTML: sortable by a button in each heading, with their numbers as CSV to download.

A cell is what is shown and, where it is another thing, what it is sorted by.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tuneport.reporting.render.markup import Markup, clean, tag
from tuneport.reporting.tables.matrix import Cell, Matrix
from tuneport.reporting.tables.scored_models import DONE
from tuneport.reporting.tables.wording import DASH, minus, number, points, ratio, signed, span


@dataclass(frozen=True)
class Column:
    """A column: its heading, whether it holds numbers, and a word on what it means."""

    heading: str
    numbers: bool = False
    title: str | None = None


@dataclass(frozen=True)
class Value:
    """What stands in a cell, and what it is sorted by (its text, if nothing is given)."""

    shown: Any
    by: float | str | None = None
    class_: str | None = None


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Value]],
    class_: str = "",
    row_classes: Sequence[str] = (),
) -> Markup:
    """A table in a box of its own, which scrolls sideways where it is too wide. The first column names the row."""
    head = [
        tag(
            "th",
            tag(
                "button",
                column.heading,
                tag("span", class_="arrow", aria_hidden="true"),
                type="button",
                title=column.title,
            ),
            scope="col",
            class_="number" if column.numbers else None,
            aria_sort="none",
        )
        for column in columns
    ]
    body, roles = [], iter(row_classes)
    for row in rows:
        cells = []
        for place, (value, column) in enumerate(zip(row, columns, strict=True)):
            by = None if value.by is None else f"{value.by:.12g}" if isinstance(value.by, float) else str(value.by)
            classes = " ".join(filter(None, ("number" if column.numbers else "", value.class_)))
            name = "th" if place == 0 else "td"
            scope = "row" if place == 0 else None
            cells.append(tag(name, value.shown, scope=scope, class_=classes or None, data_by=by))
        body.append(tag("tr", cells, class_=next(roles, None)))
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption, class_="unseen"),
            tag("thead", tag("tr", head)),
            tag("tbody", body),
            class_=f"sortable {class_}".strip(),
        ),
        class_="scroller",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def download(name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], what: str = "CSV") -> Markup:
    """A link that saves these rows, which are held in the page itself."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([_safe(column) for column in columns])
    writer.writerows([_safe(value) for value in row] for row in rows)
    # A byte order mark: spreadsheets read Δ wrongly without it.
    href = "data:text/csv;charset=utf-8," + quote("\ufeff" + text.getvalue())
    return tag("a", what, href=href, download=f"{name}.csv", class_="download")


def matrix_table(matrix: Matrix, several_tunings: bool) -> Markup:
    """The paper's table, each number with its interval, what it gains, and the published one where there is one."""
    columns = [Column("model"), *(Column(target, True, f"target {target}") for target in matrix.targets)]
    rows = []
    for row in matrix.rows:
        cells = [Value(row.label)]
        cells += [_matrix_cell(cell, matrix, row.role) for cell in row.cells]
        rows.append(cells)
    caption = f"{matrix.task}: rows are base, + Δ and fine-tuned, columns are targets"
    return table(caption, columns, rows, "matrix", row_classes=[f"role-{row.role}" for row in matrix.rows])


def matrix_rows(matrix: Matrix, several_tunings: bool) -> tuple[list[str], list[list[Any]]]:
    """The same as lines of CSV: one model a line."""
    columns = ["model", "kind", "source", "target", "tuning", "task", "metric", "status", "value", "low", "high", "n"]
    columns += ["families", "seeds", "gain", "gain_low", "gain_high", "gain_over", "clear_against_base"]
    columns += ["recovered_gain", "recovered_low", "recovered_high", "published"]
    lines = []
    for row in matrix.rows:
        for cell in row.cells:
            if cell is None:
                continue
            model, shown, gain, recovered = cell.model, cell.shown, cell.gain, cell.recovered
            lines.append(
                [
                    *(model.name(several_tunings), model.kind, model.source, model.target, model.tuning),
                    *(matrix.task, matrix.metric, cell.status),
                    *(
                        (shown.value, *(shown.interval or (None, None)), shown.n, shown.families, shown.seeds)
                        if shown
                        else [None] * 6
                    ),
                    *((gain.value, *(gain.interval or (None, None))) if gain else [None] * 3),
                    cell.over.name(several_tunings) if cell.over else None,
                    {1: "better", -1: "worse", 0: "neither"}[cell.clearly] if row.role != "base" else None,
                    *((recovered.value, *recovered.interval) if recovered else [None] * 3),
                    cell.published,
                ]
            )
    return columns, lines


def _matrix_cell(cell: Cell | None, matrix: Matrix, role: str) -> Value:
    if cell is None:
        return Value(tag("span", "·", class_="nothing", aria_hidden="true"), class_="empty")
    published = (
        tag("span", f"paper {minus(f'{cell.published:.1f}')}", class_="published", title="published, in another setup")
        if cell.published is not None
        else None
    )
    if cell.shown is None:
        word = cell.status if cell.status != DONE else "no score"
        return Value([tag("a", word, href="#failures", class_="missing", title=cell.reason), published], class_="empty")
    share = matrix.share
    marks = []
    if cell.best_of_target:
        marks.append(_mark("★", f"best Δ for {cell.model.target}"))
    if cell.clearly < 0:
        marks.append(_mark("▼", "clearly below the base"))
    value = tag("b" if cell.best_of_row else "span", number(cell.shown.value, share), class_="value")
    best = tag("span", ", best in its row", class_="unseen") if cell.best_of_row else None
    gain = None
    if cell.gain is not None and role != "base":
        gain = tag("span", signed(cell.gain.value, share), class_="gain", title=points(cell.gain, share))
    low_high = cell.shown.interval
    interval = (
        tag("span", f"{number(low_high[0], share)}–{number(low_high[1], share)}", class_="interval")
        if low_high
        else None
    )
    part = None
    if cell.results[0] < cell.results[1]:
        done, asked = cell.results
        words = f"{asked - done} of {asked} results are missing"
        part = tag("a", f"{done} of {asked}", href="#failures", class_="missing", title=words)
    class_ = "worse" if cell.clearly < 0 else None
    return Value([value, best, marks, gain, interval, part, published], cell.shown.value, class_)


def _mark(sign: str, words: str) -> Markup:
    return tag(
        "span",
        tag("span", sign, aria_hidden="true"),
        tag("span", f", {words}", class_="unseen"),
        class_="mark",
        title=words,
    )


def change_value(change: Any, share: bool, clearly: int = 0) -> Value:
    """A difference with its interval, and a sign where it is clear."""
    if change is None:
        return Value(DASH, class_="empty")
    mark = _mark("▲", "clearly above") if clearly > 0 else _mark("▼", "clearly below") if clearly < 0 else None
    interval = tag("span", span(change.interval, share, sign=True), class_="interval")
    return Value([signed(change.value, share), mark, " ", interval], change.value, "worse" if clearly < 0 else None)


def shown_value(shown: Any) -> Value:
    """A score with its interval."""
    if shown is None:
        return Value(DASH, class_="empty")
    share = shown.score.is_share
    return Value(
        [number(shown.value, share), " ", tag("span", span(shown.interval, share), class_="interval")], shown.value
    )


def ratio_value(estimate: Any) -> Value:
    """A recovered gain."""
    return Value(ratio(estimate), None if estimate is None else estimate.value, "empty" if estimate is None else None)


def _safe(value: Any) -> Any:
    """What a spreadsheet would run as a formula is marked as text; numbers stay numbers."""
    if isinstance(value, str):
        value = clean(value)
        return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t") else value
    return "" if value is None else value
