"""Read values of JSON that others may have written or damaged, with a default for what is not valid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Interval = tuple[float, float]


def mapping(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object of this name; an empty one where it is something else, or nothing."""
    found = record.get(name)
    return found if isinstance(found, dict) else {}


def mappings(results: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any], ...]:
    """The objects in the list of this name."""
    found = results.get(name)
    return tuple(row for row in found if isinstance(row, dict)) if isinstance(found, list) else ()


def number_or(value: Any, otherwise: Any) -> Any:
    """A finite number, or what stands for it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return otherwise
    try:
        return float(value) if math.isfinite(value) else otherwise
    except OverflowError:
        return otherwise  # a whole number that is too large for one


def whole(value: Any) -> int | None:
    """A whole number, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def is_folder(name: Any) -> bool:
    """Whether it names a step's folder, and nothing above or below."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)


def text_or(value: Any, otherwise: Any) -> Any:
    """A text that is not empty, or what stands for it."""
    return value if isinstance(value, str) and value else otherwise


def texts(value: Any) -> tuple[str, ...]:
    """The entries of a list, as texts."""
    return tuple(map(str, value)) if isinstance(value, list) else ()


def interval(value: Any) -> Interval | None:
    """The two finite ends of an interval, or None."""
    ends = [number_or(each, None) for each in value] if isinstance(value, list) else []
    return (ends[0], ends[1]) if len(ends) == 2 and None not in ends else None
