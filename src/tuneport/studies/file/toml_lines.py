"""Find the lines of tables and keys in a TOML file; tomllib reads values without their lines.

Works on the text of a file that tomllib has read. Keys in inline tables have the line of the key that contains the
table.
"""

from __future__ import annotations

import re
from collections import Counter

Path = tuple[str | int, ...]

_KEY = r"(?:[A-Za-z0-9_-]+|\"(?:[^\"\\]|\\.)*\"|'[^']*')"
_DOTTED = rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*"
_HEADER = re.compile(rf"\[\[{_DOTTED}\]\]|\[{_DOTTED}\]")
_ASSIGNED = re.compile(rf"{_DOTTED}=")
_PART = re.compile(_KEY)
# What a value is made of, as far as it matters for where it ends.
_PIECE = re.compile(
    r'"""(?:[^\\]|\\.)*?"""|\'\'\'.*?\'\'\'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|#[^\n]*|[\[\]{}\n]', re.DOTALL
)


def lines_of(text: str) -> dict[Path, int]:
    """The line of every table and key, by its path; an array of tables has places counted from 0.

    >>> lines_of('a = 1\\n[[b]]\\nc = 2\\n[[b]]\\nc = 3\\n')[("b", 1, "c")]
    5
    """
    found: dict[Path, int] = {}
    counts: Counter[Path] = Counter()
    table: Path = ()
    for start, statement in _statements(text.replace("\r\n", "\n")):
        header = _HEADER.match(statement)
        if header is not None:
            names = _names(header[1] or header[2])
            table = _seated(names[:-1], counts)
            if header[1]:
                place = (*table, names[-1])
                found.setdefault(place, start)
                table = (*place, counts[place])
                counts[place] += 1
            else:
                table = _seated(names, counts)
            found.setdefault(table, start)
            continue
        assigned = _ASSIGNED.match(statement)
        if assigned is not None:
            names = _names(assigned[1])
            for length in range(1, len(names) + 1):
                found.setdefault((*table, *names[:length]), start)
    return found


def _statements(text: str) -> list[tuple[int, str]]:
    """Each header and each assignment with the line on which it begins, whatever lines its value takes."""
    found: list[tuple[int, str]] = []
    begin, depth = 0, 0
    is_header = False
    for piece in _PIECE.finditer(text):
        if not text[begin : piece.start()].strip() and piece[0] == "[" and depth == 0:
            is_header = True
        if piece[0] in "[{":
            depth += 1
        elif piece[0] in "]}":
            depth -= 1
        elif piece[0] == "\n" and (depth <= 0 or is_header):
            found.append((begin, text[begin : piece.start()]))
            begin, depth, is_header = piece.end(), 0, False
    found.append((begin, text[begin:]))
    told, line, at = [], 1, 0
    for offset, statement in found:
        line += text.count("\n", at, offset)
        at = offset
        if statement.strip():
            told.append((line, statement.lstrip()))
    return told


def _names(dotted: str) -> list[str]:
    return [_unquoted(part) for part in _PART.findall(dotted)]


def _unquoted(part: str) -> str:
    return part[1:-1] if part[:1] in ("'", '"') else part


def _seated(names: list[str], counts: Counter[Path]) -> Path:
    """A table's path: below an array of tables it belongs to the last of them."""
    path: Path = ()
    for name in names:
        path = (*path, name)
        if counts[path]:
            path = (*path, counts[path] - 1)
    return path


_POSITION = re.compile(r"at line (\d+), column \d+\)$")
# A key with a bare word behind it, which TOML does not allow: numbers, dates, booleans, lists and tables begin otherwise.
_BARE = re.compile(rf"{_DOTTED}=\s*(?!true\b|false\b|inf\b|nan\b)([A-Za-z_~./][^#\n]*)")


def unquoted(text: str, error: str) -> str:
    """A hint where the line that tomllib could not read has a string without quotes; empty elsewhere."""
    position = _POSITION.search(error)
    lines = text.splitlines()
    if position is None or int(position[1]) > len(lines):
        return ""
    found = _BARE.match(lines[int(position[1]) - 1])
    return "" if found is None else f' Strings need quotes: write {found[1].strip()} = "{found[2].strip()}".'
