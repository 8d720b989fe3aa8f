"""How data are named: a file, a data set on the Hub or a table in Python, and which columns hold which fields.

`NAME[?FIELD:COLUMN&COLUMN=VALUE&…]` reads a field from a column of another name, and only the rows whose column has the
value. NAME is a file, or a data set on the Hub: `org/name[/CONFIG][@REVISION][:SPLIT]`. Nothing is opened here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tuneport.errors import DataError, Fault, UsageError

LINES, DOCUMENTS, CELLS, PARQUET = (".jsonl", ".ndjson"), (".json",), (".csv", ".tsv"), (".parquet",)
PACKED = ".gz"
ENDINGS = (*LINES, *DOCUMENTS, *CELLS, *PARQUET)
HUB_FORM = "org/name[/CONFIG][@REVISION][:SPLIT]"
_HUB = re.compile(
    r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/(?P<config>[\w.-]+))?"
    r"(?:@(?P<revision>[\w.+/-]+))?(?::(?P<split>[\w.+-]+))?"
)
_CHOICE = re.compile(r"(?P<name>[^:=]+)(?P<mark>[:=])(?P<value>.+)", re.DOTALL)
_TABLES = "must be a path, a name, a pandas DataFrame or a datasets.Dataset"


@dataclass(frozen=True)
class HubData:
    """A data set on the Hub, by its id, and which part of it at which revision."""

    id: str
    config: str | None = None
    revision: str | None = None
    split: str = "train"


@dataclass(frozen=True)
class NamedData:
    """Data as they were named: in a file, on the Hub, or as a table of pandas or datasets (one of the three).

    ``columns`` says for a field which column holds it, ``having`` for a column which value a row must have.
    """

    given: str
    path: Path | None = None
    hub: HubData | None = None
    table: Any = field(default=None, compare=False, repr=False)
    columns: Mapping[str, str] = field(default_factory=dict)
    having: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What messages call them: a file by its name, without its folder and without what is chosen of it."""
        return apart(self.given)[0] if self.path is None else self.path.name

    @property
    def stem(self) -> str:
        """The name without format and choices: the same for the same data in another format."""
        if self.path is not None:
            return stem_of(self.path.name)
        if self.hub is not None:
            return self.hub.id if self.hub.config is None else f"{self.hub.id}/{self.hub.config}"
        return self.given


def ending(path: str | os.PathLike[str]) -> str:
    """The ending that tells a file's format, in lower case; that of ``a.jsonl.gz`` is ``.jsonl``."""
    return Path(os.fspath(path).lower().removesuffix(PACKED)).suffix


def stem_of(name: str) -> str:
    """A file's name without its format."""
    return Path(name.removesuffix(PACKED)).stem


def parse_data(value: Any) -> tuple[Any, ...]:
    """What a call gives as data: one name or table, or several. Raises ValueError for anything else."""
    several = list(value) if isinstance(value, list | tuple) else [value]
    for each in several:
        if isinstance(each, str | os.PathLike):
            if not os.fspath(each):
                raise ValueError("must be a string or a path, not empty")
        elif type(each).__module__.partition(".")[0] not in ("pandas", "datasets"):
            raise ValueError(f"{_TABLES} (datasets.Dataset.from_list makes one from rows)")
    return tuple(several)


def parse_columns(value: Any) -> dict[str, str]:
    """What a call gives as columns: a mapping of fields to columns. Raises ValueError for anything else."""
    if not isinstance(value, Mapping) or not all(isinstance(part, str) and part for part in (*value, *value.values())):
        raise ValueError("must be a mapping from fields to column names, such as {'prompt': 'question'}")
    return dict(value)


def find_data(given: Sequence[Any], columns: Mapping[str, str] | None = None, option: str = "data") -> list[NamedData]:
    """What names and tables stand for. ``columns`` are those of a call, for names that choose none themselves.

    Raises `DataError` where there is nothing of a name, `UsageError` where one is not written as a name is.
    """
    found: list[NamedData] = []
    tables = 0
    for each in given:
        if isinstance(each, str | os.PathLike):
            data = _named(os.fspath(each), option)
        else:
            tables += 1
            data = _table(each, tables, option)
        found.append(replace(data, columns=dict(columns)) if columns and not data.columns else data)
    return found


def names_data(given: Any) -> bool:
    """Whether this names data of one's own, rather than a task of the harness."""
    if not isinstance(given, str | os.PathLike):
        return True
    text = os.fspath(given)
    name, _ = apart(text)
    return "/" in name or name.startswith("~") or ending(name) in ENDINGS or _is_file(text) or _is_file(name)


def _table(table: Any, number: int, option: str) -> NamedData:
    kind = type(table).__name__
    if isinstance(table, Mapping):  # a DatasetDict
        first = next(iter(table), "")
        told = f"has several splits ({', '.join(map(str, table))})"
        raise UsageError(Fault(option, kind, told, f"Give one of them, such as data[{str(first)!r}]"))
    if not hasattr(table, "column_names") and not hasattr(table, "iloc"):
        raise UsageError(Fault(option, kind, _TABLES))
    return NamedData("table" if number == 1 else f"table-{number}", table=table)


def _named(text: str, option: str) -> NamedData:
    if not text:
        raise DataError(f"The name of the data is empty: give a file, or a data set on the Hub ({HUB_FORM}).")
    if _is_file(text):
        return NamedData(text, path=_path(text))
    name, choice = apart(text)
    columns, having = _choices(choice, text, option)
    if _is_file(name):
        return NamedData(text, path=_path(name), columns=columns, having=having)
    if os.path.isdir(_path(name)):  # noqa: PTH112  (of a name that is too long for a file, Path raises)
        raise DataError(f"{name} is a folder. Name each file in it separately.")
    found = _HUB.fullmatch(name)
    if found is None or ending(name) in ENDINGS:
        remedy = " (without quotes, the shell expands patterns)" if "*" in name else ""
        raise DataError(
            f"{name}: there is no such file{remedy}, and it is not a valid data set id either ({HUB_FORM})."
        )
    hub = HubData(found["id"], found["config"], found["revision"], found["split"] or "train")
    return NamedData(text, hub=hub, columns=columns, having=having)


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))


def _is_file(text: str) -> bool:
    from tuneport.files.opening import check_file  # help, which only parses names, waits for nothing

    try:
        return check_file(_path(text))
    except ValueError:  # a NUL: the name of no file
        return False


def apart(text: str) -> tuple[str, str]:
    """A name, and what is chosen of it with its ``?``; nothing where nothing is chosen."""
    name, mark, choice = text.rpartition("?")
    return (name, mark + choice) if mark else (text, "")


def _choices(choice: str, text: str, option: str) -> tuple[dict[str, str], dict[str, str]]:
    columns: dict[str, str] = {}
    having: dict[str, str] = {}
    for part in choice[1:].split("&") if choice else []:
        found = _CHOICE.fullmatch(part)
        if found is None:
            told = f"{part!r} is not a valid choice; write FIELD:COLUMN or COLUMN=VALUE, for example test.csv?prompt:question"
            raise UsageError(Fault(option, text, told))
        into = columns if found["mark"] == ":" else having
        if found["name"] in into:
            raise UsageError(Fault(option, text, f"{found['name']} is given twice", "Give it once"))
        into[found["name"]] = found["value"]
    return columns, having


def file_of(given: str | os.PathLike[str]) -> Path:
    """The place that a name means if it is one of a file, whether there is one or not."""
    text = os.fspath(given)
    return _path(text if _is_file(text) else apart(text)[0])


def label_of(given: str) -> str:
    """What data of this name are called in a record: a file by its own name, anything else as it was given."""
    place = file_of(given)
    return place.name if place.is_file() else given


def check_fields(data: NamedData, fields: Sequence[str], option: str = "data") -> None:
    """Raise `UsageError` where a column is named for a field that is none of ``fields``."""
    unknown = [name for name in data.columns if name not in fields]
    if unknown:
        told = f"there is no field {', '.join(unknown)}"
        raise UsageError(Fault(option, data.given, told, f"The fields are {', '.join(fields)}"))
