"""Text of others made safe to print: on a terminal, in a card, on a page.

Names of tensors and files, tokens, settings and answers of models come from anywhere. A control character among them could move
the cursor, recolour or rewrite lines, or turn the direction of writing; it is shown as its escape instead, ``\\x1b``.
"""

from __future__ import annotations

import re

# C0 without tab and line feed, delete, C1; separators of lines and paragraphs; what turns the direction of writing; halves
# of surrogate pairs, as which bytes that are not UTF-8 reach Python.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, instead: str | None = None) -> str:
    """The text, of one line or several, with an escape in the place of each character that is not safe; or with ``instead``."""
    return _UNSAFE.sub(_escaped if instead is None else instead, text)


def printable_line(text: str) -> str:
    """Likewise for what must stay on one line: a name, a cell, a heading."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def printable_json(text: str) -> str:
    """A JSON document likewise; its value is the same, for what is escaped stands in strings only."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
