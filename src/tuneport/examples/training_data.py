"""Read and check training data before anything is trained.

Sources are files, data sets on the Hub or tables; their rows all have one form that the recipe can use. All problems of
a source are reported together, each with its lines.
"""

from __future__ import annotations

import random
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from tuneport.errors import ABSENT, DataError, Fault, UsageError, listing
from tuneport.examples.data_rows import RowReading, in_groups, rows_digest
from tuneport.examples.forms import FORMS, FORMS_OF, Numbered, Row, form_of
from tuneport.examples.naming import NamedData, check_fields, find_data, label_of, stem_of
from tuneport.files.opening import opened


@dataclass(frozen=True)
class DataSource:
    """One file, data set or table: its rows in order, all of one form. ``digest`` is of the file's bytes (None: no file).

    ``name`` is for people; ``stem`` is the same for the same data in another format. ``numbers`` are the rows' places, counted
    from 1 by ``where``: by lines, or by rows. ``notes`` say which columns are not used.
    """

    name: str
    form: str
    rows: Sequence[Row]
    numbers: Sequence[int]
    stem: str = ""
    digest: str | None = None
    revision: str | None = None
    available: int = 0
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    where: str = "line"

    def place(self, row: int) -> str:
        """Where one of the rows stands, for a person."""
        return f"{self.where} {self.numbers[row]}"

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are trained on."""
        return FORMS[self.form]

    def record(self) -> dict[str, Any]:
        """What makes this source the same data: which rows, whatever file they are in."""
        used = (row if self.form == "prompt" else {field: row[field] for field in self.fields} for row in self.rows)
        return {
            "name": self.stem or self.name,
            "revision": self.revision,
            "form": self.form,
            "rows": len(self.rows),
            "of": self.available,
            "rows_digest": rows_digest(used),
        }

    def origin(self) -> dict[str, Any]:
        """Where the rows were read: the name as it was given, without folders, the digest of a file, columns without a use."""
        return {"name": self.name, "digest": self.digest, "ignored_columns": list(self.ignored)}


@dataclass(frozen=True)
class Share:
    """How much of one source is used: a fraction of its rows, or a count."""

    name: str
    amount: float | int

    def of(self, available: int) -> int:
        """The number of rows."""
        if isinstance(self.amount, int):
            if self.amount > available:
                raise UsageError(
                    Fault("mix", f"{self.name}={self.amount}", f"there are {available} rows", "Give a smaller count")
                )
            return self.amount
        return max(1, round(self.amount * available))


def parse_share(text: str) -> Share:
    """``NAME=FRACTION`` (with a point, up to 1.0) or ``NAME=COUNT``. Raises `UsageError`."""
    name, _, amount = text.rpartition("=")
    if name and re.fullmatch(r"\d+", amount) and int(amount) > 0:
        return Share(name, int(amount))
    if name and re.fullmatch(r"\d*\.\d*", amount) and amount != "." and 0 < float(amount) <= 1:
        return Share(name, float(amount))
    told = "must be written as NAME=COUNT (a whole number of rows) or NAME=FRACTION (such as 0.065, up to 1.0)"
    raise UsageError(Fault("mix", text, told))


def read_sources(
    names: Sequence[Any], recipe: str, mix: Sequence[Share], seed: int, columns: Mapping[str, str] | None = None
) -> list[DataSource]:
    """Every source, checked; of those that ``mix`` names, a seeded choice of rows, in their own order.

    ``columns`` say which column holds a field, where a name does not. Raises `DataError` with all faults of a file and their
    lines, `UsageError` for a mix that names no source.
    """
    if not names:
        raise UsageError(Fault("data", ABSENT, "is missing", "Give training data"))
    found = find_data(names, columns)
    given = [data.given for data in found]
    need_names_apart(given)
    shares = shares_of(given, mix)
    return [_read(data, recipe, shares.get(place), seed) for place, data in enumerate(found)]


def need_names_apart(names: Sequence[str]) -> None:
    """Raise `UsageError` where two sources would have one name in the record."""
    twice = [label for label, count in Counter(map(label_of, names)).items() if count > 1]
    if twice:
        told = f"{', '.join(twice)} is given twice, or two files have the same name"
        raise UsageError(Fault("data", ABSENT, told, "Rename one of them"))


def shares_of(names: Sequence[str], mix: Sequence[Share]) -> dict[int, Share]:
    """The share of each source that has one, by its place. Raises `UsageError` for a mix that names none, or one twice."""
    labels = [label_of(name) for name in names]
    shares: dict[int, Share] = {}
    for share in mix:
        matching = [
            place for place, name in enumerate(names) if share.name in (labels[place], name, stem_of(labels[place]))
        ]
        if len(matching) != 1:
            raise UsageError(Fault("mix", share.name, f"must be one of the data: {', '.join(labels)}"))
        if matching[0] in shares:
            raise UsageError(Fault("mix", labels[matching[0]], "it already has a share", "Give one"))
        shares[matching[0]] = share
    return shares


def _places(share: Share | None, available: int, label: str, seed: int) -> Sequence[int]:
    """Which rows are used, in their order."""
    if share is None or not available:
        return range(available)
    return sorted(random.Random(f"{seed} {label}").sample(range(available), share.of(available)))


def _read(data: NamedData, recipe: str, share: Share | None, seed: int) -> DataSource:
    """One source. Of a table that is not in memory only the rows of a share are kept, and they alone are checked."""
    if recipe != "grpo":  # where any field may be for a reward
        check_fields(data, sorted({field for form in FORMS_OF[recipe] for field in FORMS[form]}))
    reading = RowReading(data)
    available = None if share is None else reading.choose(lambda count: _places(share, count, data.stem, seed))
    rows = list(reading.rows())
    form = _checked(rows, reading, recipe)
    if available is None:
        available = len(rows)
        rows = [rows[place] for place in _places(share, available, data.stem, seed)]
    used = tuple(reading.columns) if form == "prompt" else FORMS[form]
    return DataSource(
        name=data.label if data.path is not None else data.given,
        form=form,
        rows=[row for _, row in rows],
        numbers=array("q", [number for number, _ in rows]),
        stem=data.stem,
        digest=None if data.path is None else f"blake3:{_digest(data.path)}",
        revision=reading.revision,
        available=available,
        ignored=reading.ignored(used),
        notes=tuple(reading.ignored_in_words(used)),
        where=reading.where,
    )


def _digest(path: Path) -> str:
    whole = blake3()
    with opened(path) as file:
        while piece := file.read(2**22):
            whole.update(piece)
    return whole.hexdigest()


def _checked(rows: Numbered, reading: RowReading, recipe: str) -> str:
    """The form of all rows. Raises `DataError` with all faults."""
    label, broken = reading.data.label, reading.broken
    if not rows and not broken:
        raise DataError(f"{label} is empty: there is nothing to train on.")
    form, faults = form_of(rows, recipe)
    if form is None and not broken:
        raise DataError(reading.needs(recipe, [FORMS[name] for name in FORMS_OF[recipe]]))
    told = in_groups(label, reading.where, [*broken, *faults])
    if len(told) == 1:
        raise DataError(f"{told[0]}.")
    if told:
        raise DataError(f"{label} cannot be trained on; {len(told)} problem(s) found:{listing(told)}")
    assert form is not None, "rows without a form are reported"
    return form
