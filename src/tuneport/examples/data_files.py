"""Read rows of data files: JSON lines, a JSON document, CSV or TSV (these three also with gzip), and Parquet.

Files are opened with the checks of `files/opening.py` and read row by row, except a JSON document. They are not read by
`datasets`, which guesses types (007 becomes 7, NA nothing, 2024-01-01 a time), loses line numbers, and copies what it
reads into a cache in the user's home.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tuneport.errors import DataError, ForeignFileError, UsageError
from tuneport.examples.naming import CELLS, DOCUMENTS, ENDINGS, PACKED, PARQUET, ending
from tuneport.files.json_text import read_json
from tuneport.files.opening import MOST_BYTES, opened
from tuneport.files.printable import quoted
from tuneport.libraries import how_to_install, missing

_MOST_DOCUMENT = 512 * 2**20  # a document is parsed as a whole
_MOST_UNPACKED = 64 * 2**30  # what a packed file may become: it costs who made it nothing
_AT_ONCE = 1_000


@dataclass(frozen=True)
class Broken:
    """A line that holds no row, and why."""

    reason: str


Raw = dict[str, Any] | Broken


def read_file(path: Path, most: int | None = None) -> tuple[str, Iterator[tuple[int, Raw]]]:
    """What counts the rows of a file (``line`` or ``row``), and each row with its number, or what is wrong with it.

    ``most`` bounds the bytes of the file, unpacked. Raises `DataError` in words for a file of another format, and while rows are
    read for one that cannot be.
    """
    kind = ending(path)
    if kind not in ENDINGS or (kind in PARQUET and path.name.lower().endswith(PACKED)):
        raise DataError(f"{path.name} has an unknown format. Give a file that ends in {', '.join(ENDINGS)}.")
    if kind in PARQUET:
        return "row", _in_words(path, _parquet(path, most))
    if kind in CELLS:
        return "line", _in_words(path, _cells(path, most, "\t" if kind == ".tsv" else ","))
    if kind in DOCUMENTS and not _holds_lines(path):
        return "row", _in_words(path, _document(path, min(most or _MOST_DOCUMENT, _MOST_DOCUMENT)))
    return "line", _in_words(path, _lines(path, most))


def _in_words(path: Path, rows: Iterator[tuple[int, Raw]]) -> Iterator[tuple[int, Raw]]:
    """The rows; what is raised on the way, in words."""
    try:
        yield from rows
    except ForeignFileError as error:
        raise DataError(f"{path.name}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path.name} is not UTF-8 text. Save it as UTF-8 (in a spreadsheet: CSV UTF-8).") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(f"{path.name} cannot be unpacked: it is damaged, or not a gzip file.") from None
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror or error}.") from None


@contextmanager
def _unpacked(path: Path, most: int | None) -> Iterator[BinaryIO]:
    packed = path.name.lower().endswith(PACKED)
    with opened(path, most=None if packed else most) as file:
        if not packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as inside:
            yield io.BufferedReader(_Bounded(inside, path, min(most or _MOST_UNPACKED, _MOST_UNPACKED)))


class _Bounded(io.RawIOBase):
    """A packed file's content, up to a bound: some kilobytes may unpack to terabytes."""

    def __init__(self, inside: Any, path: Path, most: int) -> None:
        self._inside, self._path, self._left = inside, path, most
        self._most = most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._inside.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise DataError(
                f"{self._path.name} unpacks to more than {self._most:,} bytes. Unpack it, and give the file."
            )
        return count


def _lines(path: Path, most: int | None) -> Iterator[tuple[int, Raw]]:
    with _unpacked(path, most) as file:
        number = 0
        while line := file.readline(MOST_BYTES + 1):
            number += 1
            if len(line) > MOST_BYTES:
                raise DataError(
                    f"{path.name} has a line of more than {MOST_BYTES:,} bytes, the limit for a line (line {number})."
                )
            if line.strip():
                yield number, _row_of(line)


def _row_of(line: bytes) -> Raw:
    try:
        row = read_json(line)
    except UnicodeDecodeError:
        return Broken("is not UTF-8 text")
    except ValueError as error:
        return Broken(f"is not valid JSON ({error})")
    return row if isinstance(row, dict) else Broken(f"is a JSON {_kind(row)}, not an object with fields")


def _kind(value: Any) -> str:
    names = {list: "list", str: "string", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")


def _holds_lines(path: Path) -> bool:
    """Whether a JSON file holds an object a line: a whole one in its first line, and more behind it."""
    with _unpacked(path, None) as file:
        lines = (line for line in iter(lambda: file.readline(MOST_BYTES), b"") if line.strip())
        first = next(lines, b"")
        return isinstance(_row_of(first), dict) and next(lines, None) is not None


def _document(path: Path, most: int) -> Iterator[tuple[int, Raw]]:
    with _unpacked(path, most) as file:
        content = file.read()
    if not content.strip():
        return
    try:
        value = read_json(content)
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise DataError(
            f"{path.name} is not valid JSON ({error}). Write a list of objects, or an object a line."
        ) from None
    if isinstance(value, dict):
        value = _of_object(path, value)
    if not isinstance(value, list):
        raise DataError(f"{path.name} holds a JSON {_kind(value)}. Write a list of objects, or an object a line.")
    for number, row in enumerate(value, 1):
        yield number, row if isinstance(row, dict) else Broken(f"is a JSON {_kind(row)}, not an object with fields")


def _of_object(path: Path, value: dict[str, Any]) -> list[Any]:
    """Rows of columns: lists of equal length, or objects with the same keys, as pandas writes them; else the one row that it is."""
    columns = list(value.values())
    if columns and all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):
        columns = [list(column.values()) for column in columns]
    if not columns or not all(isinstance(column, list) and not _is_talk(column) for column in columns):
        return [value]
    lengths = {name: len(column) for name, column in zip(value, columns, strict=True)}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        raise DataError(
            f"{path.name} has columns of different lengths ({told}). Give each as many values as there are rows."
        )
    return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]


def _is_talk(column: list[Any]) -> bool:
    """Whether a list is one row's messages, not a column."""
    return bool(column) and all(isinstance(each, dict) and "role" in each for each in column)


def _cells(path: Path, most: int | None, separator: str) -> Iterator[tuple[int, Raw]]:
    """Rows of cells. Each cell is its text; an empty one is missing."""
    csv.field_size_limit(MOST_BYTES)
    with _unpacked(path, most) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        lines = _bounded_lines(text, path)
        first = next(lines, "")
        others = [mark for mark in (";", "\t") if mark in first] if separator == "," and "," not in first else []
        rows = csv.reader(itertools.chain([first], lines), delimiter=(others or [separator])[0], strict=True)
        number = 1
        try:
            names = _header(path, next(rows, []))
            while True:
                number = rows.line_num + 1
                cells = next(rows, None)
                if cells is None:
                    return
                if len(cells) == len(names):
                    yield number, {name: cell or None for name, cell in zip(names, cells, strict=True)}
                elif cells:
                    yield number, Broken(f"has {len(cells)} cells, and the header has {len(names)}")
        except csv.Error as error:
            raise DataError(
                f"{path.name}: line {number} is not valid CSV ({error}). Put cells that contain line breaks or quotes "
                f"in quotes."
            ) from None


def _bounded_lines(text: io.TextIOWrapper, path: Path) -> Iterator[str]:
    while line := text.readline(MOST_BYTES + 1):
        if len(line) > MOST_BYTES:
            raise DataError(f"{path.name} has a line of more than {MOST_BYTES:,} characters, the limit for a line.")
        yield line


def _header(path: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() or f"column {place}" for place, cell in enumerate(cells, 1)]
    _check_apart(path, names)
    return names


def _check_apart(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path.name} has two columns named {', '.join(map(quoted, twice))}. Rename one of them.")


def _parquet(path: Path, most: int | None) -> Iterator[tuple[int, Raw]]:
    if missing("pyarrow"):
        raise UsageError(f"{path.name} is a Parquet file; reading it needs pyarrow. {how_to_install('models')}")
    import pyarrow
    import pyarrow.parquet

    number = size = 0
    bound = most or _MOST_UNPACKED
    with opened(path, most=most) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            _check_apart(path, list(table.schema_arrow.names))
            for batch in table.iter_batches(batch_size=_AT_ONCE):
                size += batch.nbytes
                if size > bound:
                    raise DataError(f"{path.name} unpacks to more than {bound:,} bytes, the limit for a Parquet file.")
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except (pyarrow.ArrowException, OSError) as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{path.name} is not a readable Parquet file: {said}") from None
