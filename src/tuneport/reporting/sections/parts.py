"""The parts of a section: sentences, tables, figures and folds, independent of HTML and Markdown.

A paragraph is a plain text. Parts with `page_only` are left out of the Markdown, which is the short form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tuneport.reporting.tables.answers_side_by_side import SideBySide
from tuneport.reporting.tables.estimates import Change, ShownScore
from tuneport.reporting.tables.wording import DASH, number, ratio, signed, span
from tuneport.statistics import Estimate


@dataclass(frozen=True)
class Piece:
    """A piece of a cell and what it is: value, best, mark, interval, gain, missing, published or nothing.

    `title` says more; of a mark and of the best it is what the sign means.
    """

    text: str
    style: str
    title: str | None = None


@dataclass(frozen=True)
class Value:
    """The contents of a cell, and what it is sorted by (its text, if nothing is given)."""

    shown: str | tuple[Piece, ...]
    by: float | str | None = None
    style: str | None = None


@dataclass(frozen=True)
class TableColumn:
    """A column: its heading, whether it holds numbers, and a word on what it means."""

    heading: str
    numbers: bool = False
    title: str | None = None


@dataclass(frozen=True)
class Csv:
    """Rows that a reader can save, with unrounded values."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Table:
    """The first column names the row; `row_styles` are of the rows, where they differ. A column of dashes is left out."""

    caption: str
    columns: Sequence[TableColumn]
    rows: Sequence[Sequence[Value]]
    csv: Csv | None = None
    style: str = ""
    row_styles: Sequence[str] = ()
    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        """Leave out columns under which nothing stands."""
        kept = [
            place
            for place in range(len(self.columns))
            if place == 0 or not self.rows or any(row[place].shown not in ("", DASH) for row in self.rows)
        ]
        object.__setattr__(self, "columns", [self.columns[place] for place in kept])
        object.__setattr__(self, "rows", [[row[place] for place in kept] for row in self.rows])


@dataclass(frozen=True)
class Lead:
    """The answer in a word, and what it rests on in a sentence or two."""

    answer: str
    words: str
    kind: ClassVar[str] = "lead"


@dataclass(frozen=True)
class Fact:
    """A number with its unit, its interval, and a sentence on what it says."""

    label: str
    value: str
    interval: str
    words: str


@dataclass(frozen=True)
class Facts:
    """A few numbers side by side, and what they are of."""

    basis: str
    facts: Sequence[Fact]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Figure:
    """A drawing (as plotly takes it), what it says in a sentence, its numbers to save, and perhaps as a table."""

    title: str
    words: str
    drawing: dict[str, Any]
    csv: Csv
    table: Table | None = None
    table_page_only: bool = True
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    lines: Sequence[str]
    kind: ClassVar[str] = "bullets"


@dataclass(frozen=True)
class Pre:
    """A text as it stands, line by line."""

    text: str
    code: bool = False
    page_only: bool = False
    kind: ClassVar[str] = "pre"


@dataclass(frozen=True)
class Link:
    """The way to a record; without `href` its name alone."""

    text: str
    href: str | None
    kind: ClassVar[str] = "link"


@dataclass(frozen=True)
class Legend:
    """What the signs of a table mean."""

    text: str
    kind: ClassVar[str] = "legend"


@dataclass(frozen=True)
class Group:
    """Parts that stand together: style `pair` (a drawing beside its table), `beside`, `grid`, or plainly."""

    parts: Sequence[Part]
    style: str = ""
    kind: ClassVar[str] = "group"


@dataclass(frozen=True)
class Block:
    """A heading within a section, what its numbers are of, and what stands under it; folded where it is of less interest."""

    title: str
    parts: Sequence[Part]
    basis: str | None = None
    folded: bool = False
    kind: ClassVar[str] = "block"


@dataclass(frozen=True)
class Fold:
    """Parts behind a line that opens them; `notes` stand behind the title, each in its style."""

    title: str
    notes: Sequence[Piece]
    parts: Sequence[Part]
    style: str = ""
    open: bool = False
    anchor: str | None = None
    page_only: bool = False
    kind: ClassVar[str] = "fold"


@dataclass(frozen=True)
class Answers:
    """What models said to the same questions; which models, the reader of the page chooses."""

    found: SideBySide
    names: Sequence[str]
    page_only: bool = True
    kind: ClassVar[str] = "answers"


Part = str | Lead | Facts | Table | Figure | Bullets | Pre | Link | Legend | Group | Block | Fold | Answers


@dataclass(frozen=True)
class Section:
    """A section: its anchor, the question that is its title, and its parts in order; a long page folds it."""

    anchor: str
    title: str
    parts: Sequence[Part]
    page_only: bool = False
    folded: bool = False


def optional(value: Any, shown: Callable[[Any], str] = str) -> Value:
    """A value that may be missing, which a dash says."""
    return Value(DASH) if value is None else Value(shown(value), value)


def change_value(change: Change | None, share: bool, clearly: int = 0) -> Value:
    """A difference with its interval, and a sign where it is clear."""
    if change is None:
        return Value(DASH, style="empty")
    told = [Piece(signed(change.value, share), "value")]
    if clearly:
        told.append(
            Piece("▲", "mark", "significantly above") if clearly > 0 else Piece("▼", "mark", "significantly below")
        )
    told += [Piece(span(change.interval, share, sign=True), "interval")] if change.interval else []
    return Value(tuple(told), change.value, "worse" if clearly < 0 else None)


def shown_value(shown: ShownScore | None) -> Value:
    """A score with its interval."""
    if shown is None:
        return Value(DASH, style="empty")
    share = shown.score.is_share
    interval = [Piece(span(shown.interval, share), "interval")] if shown.interval else []
    return Value((Piece(number(shown.value, share), "value"), *interval), shown.value)


def ratio_value(estimate: Estimate | None) -> Value:
    """A recovered gain."""
    return Value(DASH, style="empty") if estimate is None else Value(ratio(estimate), estimate.value)


def ends(interval: tuple[float, float] | None) -> tuple[float | None, float | None]:
    """An interval in two columns of CSV."""
    return interval or (None, None)
