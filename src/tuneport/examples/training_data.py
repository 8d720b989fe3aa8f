"""Training data, read and checked before anything is trained.

In come names of JSONL or Parquet files, or of data sets on the Hub; out come sources, each with its rows, all of one
form that the recipe can use. Whatever is wrong with a file is told at once, with its lines.
"""

from __future__ import annotations

import json
import os
import random
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from tuneport.errors import ABSENT, DataError, Fault, UsageError, listing, named
from tuneport.examples.forms import FORMS, Faults, Numbered, Row, form_of
from tuneport.files.json_text import read_json
from tuneport.files.opening import check_file, opened, read_lines

HUB = re.compile(  # ORG/NAME[@REVISION][:SPLIT][?COLUMN=VALUE&FIELD:COLUMN&…]
    r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w.+/-]+))?(?::(?P<split>[\w.+-]+))?"
    r"(?:\?(?P<choice>[\w.-]+[=:][^&?]+(?:&[\w.-]+[=:][^&?]+)*))?"
)
_AT_ONCE = 10_000  # rows of a data set that are looked at
_LINES, _PARQUET = (".jsonl", ".json", ".ndjson"), (".parquet",)


@dataclass(frozen=True)
class DataSource:
    """One file or data set: its rows in order, all of one form. ``digest`` is of the file's bytes (None: the Hub).

    ``numbers`` are the rows' places in it, counted from 1 by ``where``: by lines, or by rows.
    """

    name: str
    form: str
    rows: Sequence[Row]
    numbers: Sequence[int]
    digest: str | None = None
    revision: str | None = None
    available: int = 0
    ignored: tuple[str, ...] = ()
    where: str = "line"

    def place(self, row: int) -> str:
        """Where one of the rows stands in the file or data set, for a person."""
        return f"{self.where} {self.numbers[row]}"

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are trained on."""
        return FORMS[self.form]

    def record(self) -> dict[str, Any]:
        """What a record says of this source: which data, which rows of it."""
        rows = blake3()
        for row in self.rows:
            used = row if self.form == "prompt" else {field: row[field] for field in self.fields}
            rows.update(json.dumps(used, sort_keys=True, ensure_ascii=False, default=str).encode("utf-8", "replace"))
            rows.update(b"\n")
        return {
            "name": self.name,
            "revision": self.revision,
            "digest": self.digest,
            "form": self.form,
            "rows": len(self.rows),
            "of": self.available,
            "rows_digest": f"blake3:{rows.hexdigest()}",
            "ignored_fields": list(self.ignored),
        }


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
    names: Sequence[str | os.PathLike[str]], recipe: str, mix: Sequence[Share], seed: int
) -> list[DataSource]:
    """Every source, checked; of those that ``mix`` names, a seeded choice of rows, in their own order.

    Raises `DataError` with all faults of a file and their lines, `UsageError` for a mix that names no source.
    """
    if not names:
        raise UsageError(Fault("data", ABSENT, "is missing", "Give training data"))
    need_names_apart(names)
    shares = shares_of(names, mix)
    return [_read(os.fspath(name), recipe, shares.get(place), seed) for place, name in enumerate(names)]


def need_names_apart(names: Sequence[str | os.PathLike[str]]) -> None:
    """Raise `UsageError` where two sources would have one name in the record."""
    twice = [label for label, count in Counter(_label(os.fspath(name)) for name in names).items() if count > 1]
    if twice:
        told = f"{', '.join(twice)} is given twice, or two files have one name"
        raise UsageError(Fault("data", ABSENT, told, "Rename one of them"))


def shares_of(names: Sequence[str | os.PathLike[str]], mix: Sequence[Share]) -> dict[int, Share]:
    """The share of each source that has one, by its place. Raises `UsageError` for a mix that names none, or one twice."""
    labels = [_label(os.fspath(name)) for name in names]
    shares: dict[int, Share] = {}
    for share in mix:
        matching = [place for place, name in enumerate(names) if share.name in _called(labels[place], name)]
        if len(matching) != 1:
            raise UsageError(Fault("mix", share.name, f"must be one of the data: {', '.join(labels)}"))
        if matching[0] in shares:
            raise UsageError(Fault("mix", labels[matching[0]], "a share of it was given before", "Give one"))
        shares[matching[0]] = share
    return shares


def _label(name: str) -> str:
    path = Path(os.path.expanduser(name))
    return path.name if path.is_file() else name


def _called(label: str, given: str | os.PathLike[str]) -> set[str]:
    return {label, os.fspath(given), Path(label).stem}


def _places(share: Share | None, available: int, label: str, seed: int) -> Sequence[int]:
    """Which rows are used, in their order."""
    if share is None or not available:
        return range(available)
    return sorted(random.Random(f"{seed} {label}").sample(range(available), share.of(available)))


def _read(name: str, recipe: str, share: Share | None, seed: int) -> DataSource:
    if not name:
        raise DataError(f"{named('data')} is empty: give a file, or a data set id (org/name[@REVISION][:SPLIT][?…]).")
    path, label = Path(os.path.expanduser(name)), _label(name)
    if path.is_dir():
        raise DataError(f"{name} is a folder. Give the files in it, each with a {named('data')} of its own.")
    if not check_file(path):
        return _read_hub(name, recipe, share, seed)
    where = "line"
    if path.suffix in _LINES:
        rows, faults = _read_lines(path)
    elif path.suffix in _PARQUET:
        (rows, faults), where = _read_parquet(path), "row"
    else:
        raise DataError(f"{name}: give a file that ends in {', '.join((*_LINES, *_PARQUET))}.")
    digest = f"blake3:{_digest(path)}"
    form, ignored = _checked(rows, faults, recipe, label, where)
    chosen = [rows[place] for place in _places(share, len(rows), label, seed)]
    return DataSource(label, form, *_apart(chosen), digest, None, len(rows), ignored, where)


def _digest(path: Path) -> str:
    whole = blake3()
    with opened(path) as file:
        while piece := file.read(2**22):
            whole.update(piece)
    return whole.hexdigest()


def _read_hub(name: str, recipe: str, share: Share | None, seed: int) -> DataSource:
    """Of a data set on the Hub only the rows that are used come into memory, and they alone are checked."""
    found = HUB.fullmatch(name)
    if found is None or name.startswith((".", "/", "~")):
        raise DataError(f"{name}: no such file, and no data set id either (org/name[@REVISION][:SPLIT][?…]).")
    table = _load(found["id"], found["revision"], found["split"] or "train")
    commit = _commit_of(table)
    wanted, taken = _choice(found["choice"], table, name) if found["choice"] else ({}, {})
    table = _having(table, wanted)
    places = _places(share, len(table), name, seed)
    used = table.select(places).to_list()
    rows = [(place + 1, _under_their_fields(row, taken)) for place, row in zip(places, used, strict=True)]
    form, ignored = _checked(rows, [], recipe, name, "row")
    return DataSource(name, form, *_apart(rows), None, commit or found["revision"], len(table), ignored, "row")


def _apart(rows: Numbered) -> tuple[list[Row], array[int]]:
    return [row for _, row in rows], array("q", [number for number, _ in rows])


def _checked(rows: Numbered, faults: Faults, recipe: str, label: str, where: str) -> tuple[str, tuple[str, ...]]:
    """The form of all rows, and the fields that are not used. Raises `DataError` with all faults."""
    if not rows and not faults:
        raise DataError(f"{label} is empty: there is nothing to train on.")
    form, ignored, more = form_of(rows, recipe, where)
    if faults := [*faults, *more]:
        ordered = [text for _, text in sorted(faults, key=lambda fault: fault[0])]
        raise DataError(f"{label} cannot be trained on; {len(faults)} fault(s):{listing(ordered)}")
    return form, tuple(ignored)


def _read_lines(path: Path) -> tuple[Numbered, Faults]:
    rows: Numbered = []
    faults: Faults = []
    with closing(read_lines(path)) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = read_json(line)
            except UnicodeDecodeError:
                faults.append((number, f"line {number}: no UTF-8 text"))
                continue
            except ValueError as error:
                faults.append((number, f"line {number}: no JSON ({error})"))
                continue
            if isinstance(row, dict):
                rows.append((number, row))
            else:
                faults.append((number, f"line {number}: a JSON {type(row).__name__}, not an object with fields"))
    return rows, faults


def _read_parquet(path: Path) -> tuple[Numbered, Faults]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path.name} is no readable Parquet file: {str(error).splitlines()[0]}") from None
    return list(enumerate(table.to_pylist(), 1)), []


def _load(name: str, revision: str | None, split: str) -> Any:
    """A data set, on disk: its rows are not in memory yet."""
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name, revision=revision, split=split)
    except Exception as error:  # the library raises errors of a dozen families, its own, the Hub's and the system's
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"The data set {name} (split {split}) does not come from the Hub: {first}. Check the id, the split "
            "(org/name:SPLIT), your login and, offline, that it is in the cache."
        ) from None


def _commit_of(table: Any) -> str | None:
    """The commit that a data set was fetched at: the library keeps what it has fetched in a folder of that name."""
    folders = {Path(file["filename"]).parent.name for file in table.cache_files}
    return next((name for name in folders if re.fullmatch(r"[0-9a-f]{40}", name)), None)


def _choice(text: str, table: Any, name: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """What is chosen of a data set: the values that columns must have (COLUMN=VALUE), and columns by field (FIELD:COLUMN)."""
    parts = [[*re.split("[=:]", part, maxsplit=1), part] for part in text.split("&")]
    wanted = {column: value for column, value, part in parts if part[len(column)] == "="}
    taken = {field: column for field, column, part in parts if part[len(field)] == ":"}
    missing = sorted({*wanted, *taken.values()} - set(table.column_names))
    if missing:
        there = ", ".join(sorted(table.column_names))
        raise DataError(f"{name}: there is no column {', '.join(missing)}; there are {there}.")
    return wanted, taken


def _having(table: Any, wanted: Mapping[str, str]) -> Any:
    """The rows whose columns have the values wanted; only these columns are looked at, some thousand rows at a time."""
    if not wanted:
        return table
    kept: list[int] = []
    place = 0
    for batch in table.select_columns(list(wanted)).iter(batch_size=_AT_ONCE):
        for values in zip(*(batch[column] for column in wanted), strict=True):
            if tuple(map(str, values)) == tuple(wanted.values()):
                kept.append(place)
            place += 1
    return table.select(kept)


def _under_their_fields(row: Row, taken: Mapping[str, str]) -> Row:
    others = {column: value for column, value in row.items() if column not in taken.values()}
    return others | {field: row[column] for field, column in taken.items()}
