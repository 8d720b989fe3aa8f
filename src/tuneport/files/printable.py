"""Make others' text safe to print: on a terminal, in a card, on a page.

Names of tensors and files, tokens, settings and answers of models come from anywhere. A control character in them could
move the cursor, recolour or rewrite lines, or reverse the direction of writing; it is shown as its escape instead,
``\x1b``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tuneport.errors import listing

# C0 without tab and line feed, delete, C1; separators of lines and paragraphs; what turns the direction of writing; halves
# of surrogate pairs, as which bytes that are not UTF-8 reach Python.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


# Letters that are shown of a name, and of a line. (Names of tensors have under 150, but a header may hold one of 16 million.)
MOST_OF_A_NAME = 300
MOST_OF_A_LINE = 5000


def printable(text: str, instead: str | None = None) -> str:
    """The text, of one line or several, with an escape in the place of each character that is not safe; or with ``instead``."""
    return _UNSAFE.sub(_escaped if instead is None else instead, text)


def printable_line(text: str) -> str:
    """Likewise for what must stay on one line: a name, a cell, a heading."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def quoted(name: object) -> str:
    """A name of others between backticks, for a message: it stays on one line, and of a very long one the beginning is shown."""
    return f"`{_cut(printable_line(str(name)), MOST_OF_A_NAME)}`"


def expression_of(name: str) -> str:
    """A regular expression for a message that matches the name.

    It is part of a command that people copy, so control characters and single quotes are escaped.
    """
    return "".join(map(_matching, name))


def listed_names(names: Iterable[str], most: int | None = None) -> str:
    """Names of others, a line each; see `listing`."""
    return listing([_cut(printable_line(name), MOST_OF_A_NAME) for name in names], most)


def printable_lines(text: str) -> str:
    """A text of several lines for a terminal: safe, and of very long lines the beginning."""
    return "\n".join(_cut(line, MOST_OF_A_LINE) for line in printable(text).split("\n"))


def printable_json(text: str) -> str:
    """A JSON document likewise; its value is the same, because only strings contain escapes."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escaped(found: re.Match[str]) -> str:
    return _escape(found[0])


def _escape(letter: str) -> str:
    number = ord(letter)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most:,} more characters)"


def _matching(letter: str) -> str:
    if letter in "'\n\t" or _UNSAFE.match(letter):
        return _escape(letter)
    return re.escape(letter)
