"""What transformers' config classes know that a config.json does not contain: one entry for each kind of model.

The entries are in config_defaults.json, made by experiments/tables/make_config_defaults.py from the classes themselves,
one per line: a run looks up two or three of eight hundred, so only their lines are parsed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any


def entry_of(kind: str | None) -> Mapping[str, Any]:
    """The table's entry of a ``model_type``; empty for one it does not know."""
    return _entry(kind) if isinstance(kind, str) else {}


def kind_of(config: Mapping[str, Any]) -> str | None:
    """The ``model_type`` of a config under the name that transformers has for it today (Falcon's was ``RefinedWeb``)."""
    kind = config.get("model_type")
    if not isinstance(kind, str):
        return None
    return str(entry_of(kind).get("now", kind))


def of_every_kind(part: str) -> Mapping[str, Any]:
    """What holds whatever the kind: the ``common`` fields' defaults, ``generation``'s, today's names of ``layers``, what is ``read``."""
    found: Mapping[str, Any] = _head()[part]
    return found


def number_of(value: Any) -> Any:
    """A value with the numbers that JSON cannot have, which transformers 5 writes as objects."""
    if isinstance(value, dict):
        if value.keys() == {"__float__"} and value["__float__"] in ("Infinity", "-Infinity", "NaN"):
            return float(value["__float__"])
        return {key: number_of(inner) for key, inner in value.items()}
    return [number_of(inner) for inner in value] if isinstance(value, list) else value


@functools.cache
def _entry(kind: str) -> Mapping[str, Any]:
    text = _text()
    start = text.find(f"\n{json.dumps(kind)}: ")
    if start < 0:
        return {}
    line = text[text.index(": ", start) + 2 : text.index("\n", start + 1)]
    entry: Mapping[str, Any] = number_of(json.loads(line.rstrip(",")))
    return entry


@functools.cache
def _head() -> Mapping[str, Any]:
    text = _text()
    head: Mapping[str, Any] = json.loads(text[: text.index('"kinds": {')].rstrip(" \n,") + "}")
    return head


@functools.cache
def _text() -> str:
    return resources.files("tuneport.sidecars").joinpath("config_defaults.json").read_text(encoding="utf-8")
