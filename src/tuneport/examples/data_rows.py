"""Read rows of data one at a time from any source: JSON, CSV, Parquet, the Hub, or a table in Python.

Rows are returned under the fields that tuneport uses. The same examples give the same rows in every format. So nothing
is guessed from text: a cell of a CSV file stays the text that it is.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from blake3 import blake3

from tuneport.errors import MOST_SHOWN, DataError
from tuneport.examples.data_files import Broken, Raw, read_file
from tuneport.examples.data_sets import (
    can_select,
    column_names,
    commit_of,
    load,
    rows_having,
    rows_of_data_set,
    rows_of_frame,
    shown,
)
from tuneport.examples.naming import NamedData
from tuneport.files.json_text import read_json
from tuneport.files.printable import printable_line, quoted

Row = dict[str, Any]
_LISTS = ("messages", "choices")  # fields that hold lists: a text in them is their JSON
_SHOWN = 5
# How columns are called elsewhere, by the field that they may be.
_OTHERWISE: Mapping[str, tuple[str, ...]] = {
    "prompt": ("question", "instruction", "input", "inputs", "query", "problem", "source"),
    "answer": ("solution", "target", "targets", "output", "response", "completion", "label", "answers"),
    "completion": ("answer", "response", "output", "solution", "target", "targets"),
    "chosen": ("preferred", "accepted", "winner"),
    "rejected": ("dispreferred", "loser"),
    "messages": ("conversations", "conversation", "chat", "dialogue"),
    "text": ("content", "document", "sentence", "body"),
}


@dataclass
class RowReading:
    """Data that are read row by row; what was met on the way is known once `rows` is through.

    ``broken`` are lines that hold no row, with the reason; ``columns`` all columns that occur, as the data call them.
    """

    data: NamedData
    most: int | None = None
    where: str = "row"
    columns: dict[str, None] = field(default_factory=dict)
    broken: list[tuple[int, str]] = field(default_factory=list)
    revision: str | None = None

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Each row with its line (or its number), fields under their names, what is missing left out.

        Raises `DataError` for what cannot be read at all, and where a column that was named is not there.
        """
        chosen, having = self.data.columns, self.data.having
        hidden = {*chosen.values()} - {*chosen}
        for number, raw in self._raw():
            if isinstance(raw, Broken):
                self.broken.append((number, raw.reason))
                continue
            self.columns.update(dict.fromkeys(raw))
            if any(shown(raw.get(column)) != value for column, value in having.items()):
                continue
            row = {name: value for name, value in raw.items() if name not in hidden and name not in chosen}
            row |= {name: raw.get(column) for name, column in chosen.items()}
            yield number, {name: tidied for name, value in row.items() if (tidied := _tidy(name, value)) is not None}
        self._check_columns()

    def choose(self, places: Callable[[int], Sequence[int]]) -> int | None:
        """Read only the rows that ``places`` names out of so many, and say how many there are.

        None where that takes reading all of them: of a file, or of a table that is streamed.
        """
        if self.data.path is not None or not can_select(self.table):
            return None
        count = len(self.table)
        self.table = self.table.select(places(count))
        return count

    @cached_property
    def table(self) -> Any:
        """The table of pandas or datasets: the one that was given, or one from the Hub; of a data set the rows that are wanted."""
        table = self.data.table
        if self.data.hub is not None:
            table = load(self.data.hub, self.data.given)
            self.revision = commit_of(table) or self.data.hub.revision
        self.columns.update(dict.fromkeys(map(str, column_names(table))))
        self._check_columns()
        return rows_having(table, self.data.having) if can_select(table) else table

    def _raw(self) -> Iterator[tuple[int, Raw]]:
        if self.data.path is not None:
            self.where, rows = read_file(self.data.path, self.most)
            return rows
        return (
            rows_of_frame(self.table, self.data.label) if hasattr(self.table, "iloc") else rows_of_data_set(self.table)
        )

    def _check_columns(self) -> None:
        wanted = dict.fromkeys((*self.data.columns.values(), *self.data.having))
        missing = [column for column in wanted if column not in self.columns]
        if missing and self.columns:
            raise DataError(
                f"{self.data.label}: there is no column {_listed(missing)}; there are {_listed([*self.columns])}."
            )

    def ignored(self, used: Iterable[str]) -> tuple[str, ...]:
        """The columns that nothing is read from."""
        chosen = self.data.columns
        read = {*chosen.values(), *self.data.having, *(name for name in used if name not in chosen)}
        return tuple(column for column in self.columns if column not in read)

    def ignored_in_words(self, used: Sequence[str]) -> list[str]:
        """One line for all of these; none where there is none."""
        told = []
        for column in self.ignored(used):
            near = get_close_matches(column, [name for name in used if name not in self.columns], 1)
            told.append(f"{quoted(column)} (did you mean {quoted(near[0])}?)" if near else quoted(column))
        return [f"{self.data.label}: ignored columns: {_in_short(told)}."] if told else []

    def needs(self, who: str, forms: Sequence[Sequence[str]]) -> str:
        """What to say of data that have the fields of none of the ``forms``: what there is, what is needed, what to write."""
        there = list(self.columns)
        has = f"the column{'s' if len(there) > 1 else ''} {_listed(there)}" if there else "no columns"
        needed = ", or ".join(" and ".join(map(quoted, form)) for form in forms)
        guesses = [{name: _guess(name, there) for name in form} for form in forms]
        best = max(guesses, key=lambda guess: (all(guess.values()), sum(map(bool, guess.values()))))
        if len(there) < len(best) and not all(best.values()):
            return f"{self.data.label} has {has}; {who} needs {needed}. Give data with these fields (docs/formats.md)."
        choice = "&".join(f"{name}:{column or 'COLUMN'}" for name, column in best.items() if column != name)
        example = shlex.quote(printable_line(f"{self.data.label}?{choice}"))
        return f"{self.data.label} has {has}; {who} needs {needed}. Name its columns: {example}."


def _listed(columns: Sequence[str]) -> str:
    return _in_short(list(map(quoted, columns)))


def _in_short(told: Sequence[str]) -> str:
    more = f" and {len(told) - MOST_SHOWN:,} more" if len(told) > MOST_SHOWN else ""
    return ", ".join(told[:MOST_SHOWN]) + more


def _guess(name: str, there: Sequence[str]) -> str | None:
    lower = {column.casefold(): column for column in reversed(there)}
    return next((lower[word] for word in (name, *_OTHERWISE.get(name, ())) if word in lower), None)


def _tidy(name: str, value: Any) -> Any:
    """A value as every format gives it: None for what is missing, lists and dictionaries of Python's own."""
    if isinstance(value, str):
        return _tidy("", _list_in(value)) if name in _LISTS and value.lstrip().startswith("[") else value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {key: tidied for key, inner in value.items() if (tidied := _tidy("", inner)) is not None}
    if isinstance(value, list | tuple):
        return [_tidy("", inner) for inner in value]
    if hasattr(value, "tolist"):  # numpy's
        return _tidy(name, value.tolist())
    return value


def _list_in(text: str) -> Any:
    try:
        return read_json(text)
    except ValueError:
        return text


def in_groups(label: str, where: str, faults: Iterable[tuple[int, str]]) -> list[str]:
    """Faults of one reason as one line, in the order of the file: ``test.jsonl: lines 3, 5 and 9 more: …``."""
    by_reason: dict[str, list[int]] = {}
    for number, reason in sorted(faults, key=lambda fault: fault[0]):
        by_reason.setdefault(reason, []).append(number)
    return [f"{label}: {places(where, numbers)}: {reason}" for reason, numbers in by_reason.items()]


def places(where: str, numbers: Sequence[int]) -> str:
    """Lines or rows for a person: ``line 3``, ``lines 3, 5 and 9 more``."""
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    more = f" and {len(numbers) - _SHOWN:,} more" if len(numbers) > _SHOWN else ""
    return f"{where}{'s' if len(numbers) > 1 else ''} {shown}{more}"


def rows_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """The digest of rows, whatever held them."""
    whole = blake3()
    for row in rows:
        text = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
        whole.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return f"blake3:{whole.hexdigest()}"
