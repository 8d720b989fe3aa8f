"""Read the tables of a TOML file value by value; each wrong value is noted with its line.

Returns values of the types that a study knows, or None if a fault was noted.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from tuneport.files.printable import quoted
from tuneport.options import checked, options_of
from tuneport.studies.file.toml_lines import Path as Place

Table = Mapping[str, Any]


class Tables:
    """Reads values and collects faults: the line, and a message."""

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
                what = "is not a section" if not path else "is not known"
                self.fault((*path, key), f"{what}{nearest(key, names)}; known names: {', '.join(names)}")

    def table(self, table: Table, key: str, path: Place, optional: bool = False) -> Table:
        """A table below a key; an empty one where a fault was noted."""
        value = table.get(key)
        if isinstance(value, dict):
            return value
        if value is not None:
            self.fault((*path, key), f"is {said(value)}; it must be a table")
        elif not optional:
            self.fault(path, f"[{key}] is missing; begin the file with it")
        return {}

    def text(self, table: Table, key: str, path: Place, required: bool = False) -> str | None:
        """A text of one line."""
        value = table.get(key)
        if value is None:
            if required and key not in table:
                self.fault(path, f"{quoted(key)} is missing")
            return None
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            self.fault((*path, key), f"is {said(value)}; it must be a string in quotes, on one line")
            return None
        return value

    def texts(self, table: Table, key: str, path: Place, required: bool = False) -> tuple[str, ...]:
        """A list of texts, all different."""
        value = table.get(key)
        if value is None:
            if required:
                self.fault(path, f"{quoted(key)} is missing")
            return ()
        if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() and v.isprintable() for v in value):
            self.fault((*path, key), f"is {said(value)}; it must be a list of strings, each in quotes on one line")
            return ()
        if required and not value:
            self.fault((*path, key), "is empty; name at least one")
        twice = sorted({text for text in value if value.count(text) > 1}) if key != "notes" else []
        if twice:
            self.fault((*path, key), f"{', '.join(map(repr, twice))} is listed twice; remove one")
        return tuple(value)

    def among(self, table: Table, key: str, path: Place, allowed: Sequence[str], required: bool = False) -> str | None:
        """A text that is one of those allowed."""
        value = self.text(table, key, path, required=required)
        if value is not None and value not in allowed:
            self.fault((*path, key), f"{value!r}: choose {', '.join(allowed) or 'none; there are no choices'}")
            return None
        return value

    def values(
        self, record: type[Any], table: Table, path: Place, *also: str, only: Sequence[str] = ()
    ) -> dict[str, Any]:
        """What a table gives of a record's options (or ``only`` these), by name; what is not valid is a fault.

        So is every other key but those of `also`. Where there are no others, the caller has looked at the keys.
        """
        keys = {one.name.replace("_", "-"): one for one in options_of(record) if not only or one.name in only}
        if also or not only:
            self.known(table, (*also, *keys), path)
        found = {}
        for key in [key for key in table if key in keys]:
            one, value = keys[key], table[key]
            try:
                found[one.name] = checked(one, value)
                if one.several and len(set(found[one.name])) < max(1, len(found[one.name])):
                    raise ValueError("must be a list of different numbers")
            except ValueError as error:
                self.fault((*path, key), f"is {said(value)}; it {error}")
                found.pop(one.name, None)
        return found


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
