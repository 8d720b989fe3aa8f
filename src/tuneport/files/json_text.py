"""Read others' JSON within limits, and write JSON that every reader accepts.

Python's own reader raises RecursionError for deep nesting, accepts half a surrogate pair that no file can be written
with, and makes whole numbers that no float can hold. Here each of these is a ValueError with a message, like any other
damage.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Far more than a config, a tokenizer or a manifest needs, far less than the functions that walk over them can take.
MOST_DEPTH = 100
# Digits of a whole number that a float64 can still hold.
MOST_DIGITS = 308
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LONG_NUMBER = re.compile(rf"[0-9]{{{MOST_DIGITS + 1},}}")


def read_json(content: str | bytes, *, kept: bool = True) -> Any:
    """The value of a JSON document in UTF-8.

    ``kept``: its strings must be writable and its numbers computable; else the caller checks each. Raises only
    ValueError: if it is not JSON, is nested too deeply, or has values that cannot be kept.
    """
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    try:
        value = json.loads(text, parse_int=_whole) if kept and _LONG_NUMBER.search(text) else json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    if text.count("[") + text.count("{") > MOST_DEPTH:
        _check_depth(value)
    if kept and _SURROGATE.search(text):
        for found in _texts(value):
            check_text(found)
    return value


def takes_a_closer_look(text: str) -> bool:
    """Whether a JSON text may have something that `read_json` refuses and Python's own reader accepts."""
    return "\\u" in text or text.count("[") + text.count("{") > MOST_DEPTH or _LONG_NUMBER.search(text) is not None


def check_text(text: str) -> None:
    """Raise ValueError where a text holds what UTF-8 cannot: half a surrogate pair, or a byte of a name that is not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        shown = text.encode("ascii", "backslashreplace").decode()
        shown = shown if len(shown) <= 60 else f"{shown[:59]}…"
        raise ValueError(
            f"it contains half a character (of a surrogate pair), which UTF-8 cannot store: '{shown}'"
        ) from None


def finite(value: Any) -> Any:
    """The value with null for every number that JSON cannot write (NaN, infinity)."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_json(value: Any) -> Any:
    """The value as a reader of its JSON gets it: lists for tuples, null for numbers that are not finite."""
    return json.loads(json.dumps(finite(value)))


def chunks(value: Any, level: int = 0) -> Iterator[str]:
    """The JSON of a value bit by bit, as ``json.dumps(value, indent=1, ensure_ascii=False)`` writes it.

    Sequences and mappings of any class are written as lists and objects, so one that makes its entries when they are asked for
    is never held as a whole. Raises ValueError for a number that is not finite.
    """
    if isinstance(value, Mapping):
        entries: Iterator[tuple[str, Any]] = ((f"{_dumps(str(key))}: ", entry) for key, entry in value.items())
        begin, end = "{}"
    elif isinstance(value, Sequence) and not isinstance(value, str):
        entries = (("", entry) for entry in value)
        begin, end = "[]"
    else:
        yield _dumps(value)
        return
    line, between = "\n" + " " * (level + 1), ""
    for name, entry in entries:
        yield f"{between or begin}{line}{name}"
        between = ","
        if isinstance(entry, str | int | float | None):
            yield _dumps(entry)
        else:
            yield from chunks(entry, level + 1)
    yield f"{line[:-1]}{end}" if between else begin + end


def _dumps(value: str | float | None) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"it contains a whole number of {len(text)} digits, {text[:20]}…; the limit is {MOST_DIGITS}")
    return int(text)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MOST_DEPTH):
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"its lists and objects are nested more than {MOST_DEPTH} deep")


def _texts(value: Any) -> Iterator[str]:
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            left += [*each, *each.values()]
        elif isinstance(each, list):
            left += each
