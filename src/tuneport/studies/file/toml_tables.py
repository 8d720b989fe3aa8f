"""The tables of a TOML file, read value by value; whatever is wrong with a value is noted with its line.

In come tables as tomllib gives them, out come values of the kinds that a study knows, or None where a fault was noted.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from tuneport.studies.file.toml_lines import Path as Place

MOST_SEED = 2**32 - 1
Table = Mapping[str, Any]


class Tables:
    """Reads values and collects faults: the line, and what is wrong in words."""

    def __init__(self, lines: Mapping[Place, int]) -> None:
        """``lines`` says where each table and key stands."""
        self.lines = lines
        self.faults: list[tuple[int, str]] = []

    def fault(self, path: Place, what: str) -> None:
        """Something is wrong at a place of the file."""
        where = spelled(path)
        self.faults.append((self.line(path), f"{where}: {what}" if where else what))

    def line(self, path: Place) -> int:
        """The line of a place, or of the nearest thing around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return 1

    def known(self, table: Table, known: Iterable[str], path: Place) -> None:
        """Note every key that is not among the known ones."""
        names = list(known)
        for key in table:
            if key not in names:
                what = "is no section" if not path else "is not known"
                self.fault((*path, key), f"{what}{nearest(key, names)}; known are {', '.join(names)}")

    def table(self, table: Table, key: str, path: Place, optional: bool = False) -> Table:
        """A table below a key; an empty one where a fault was noted."""
        value = table.get(key)
        if isinstance(value, dict):
            return value
        if value is not None:
            self.fault((*path, key), f"is {said(value)}; write it as a table")
        elif not optional:
            self.fault(path, f"[{key}] is missing; begin the file with it")
        return {}

    def text(self, table: Table, key: str, path: Place, required: bool = False) -> str | None:
        """A text of one line."""
        value = table.get(key)
        if value is None:
            if required and key not in table:
                self.fault(path, f"`{key}` is missing")
            return None
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            self.fault((*path, key), f"is {said(value)}; write a text in quotes, on one line")
            return None
        return value

    def texts(self, table: Table, key: str, path: Place, required: bool = False) -> tuple[str, ...]:
        """A list of texts, all different."""
        value = table.get(key)
        if value is None:
            if required:
                self.fault(path, f"`{key}` is missing")
            return ()
        if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() and v.isprintable() for v in value):
            self.fault((*path, key), f"is {said(value)}; write a list of texts, each in quotes on one line")
            return ()
        if required and not value:
            self.fault((*path, key), "is empty; name at least one")
        twice = sorted({text for text in value if value.count(text) > 1}) if key != "notes" else []
        if twice:
            self.fault((*path, key), f"{', '.join(map(repr, twice))} stands there twice; leave one out")
        return tuple(value)

    def flag(self, table: Table, key: str, path: Place) -> bool | None:
        """True or false."""
        value = table.get(key)
        if value is not None and not isinstance(value, bool):
            self.fault((*path, key), f"is {said(value)}; write true or false")
            return None
        return value

    def among(self, table: Table, key: str, path: Place, allowed: Sequence[str], required: bool = False) -> str | None:
        """A text that is one of those allowed."""
        value = self.text(table, key, path, required=required)
        if value is not None and value not in allowed:
            self.fault((*path, key), f"{value!r}: choose {', '.join(allowed) or 'nothing, there is none'}")
            return None
        return value

    def number(
        self,
        table: Table,
        key: str,
        path: Place,
        *,
        least: float | None = None,
        above: float | None = None,
    ) -> float | None:
        """A finite number, not below `least`, or above `above`."""
        value = table.get(key)
        if value is None:
            return None
        fine = is_number(value) and (least is None or value >= least) and (above is None or value > above)
        if not fine:
            bound = f" from {least} on" if least is not None else f" above {above}" if above is not None else ""
            self.fault((*path, key), f"is {said(value)}; give a number{bound}")
            return None
        return float(value)

    def whole(self, table: Table, key: str, path: Place, *, least: int) -> int | None:
        """A whole number, not below `least`."""
        value = table.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            self.fault((*path, key), f"is {said(value)}; give a whole number from {least} on")
            return None
        return value

    def numbers(self, table: Table, key: str, path: Place) -> tuple[float, ...]:
        """A list of different numbers."""
        value = table.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not value or not all(map(is_number, value)) or len(set(value)) < len(value):
            self.fault((*path, key), f"is {said(value)}; give a list of different numbers")
            return ()
        return tuple(map(float, value))

    def seeds(self, table: Table, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list of different whole numbers of [study]."""
        value = table.get(key)
        if value is None:
            return default
        fine = (
            isinstance(value, list)
            and value
            and all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= MOST_SEED for v in value)
        )
        if not fine or len(set(value)) < len(value):
            self.fault(
                ("study", key), f"is {said(value)}; give a list of different whole numbers from 0 on, below 2^32"
            )
            return default
        return tuple(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known; empty where none is near."""
    near = get_close_matches(name, list(known), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def spelled(path: tuple[str | int, ...]) -> str:
    """A path as the file spells it: [tune] steps, [[version]] model."""
    if not path:
        return ""
    head, rest = path[0], list(path[1:])
    if head in ("version", "expected"):
        rest = [part for part in rest if not isinstance(part, int)]
        return " ".join([f"[[{head}]]", ".".join(map(str, rest))]).strip()
    if len(rest) > 1 or not rest:
        return " ".join([f"[{'.'.join(map(str, [head, *rest[:-1]]))}]", *map(str, rest[-1:])])
    return f"[{head}] {rest[0]}"


def is_number(value: object) -> bool:
    """A finite number, and not so large that it is none in floating point."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 1e300


def said(value: object) -> str:
    """A value as a person would name it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime.date | datetime.time):
        return "a date or time"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, str) and not value.strip():
        return "empty"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
