"""Whether transformers' class for a kind of model has a tensor of a given name.

``class_tensors.json`` lists the modules with tensors of each kind, one kind per line;
experiments/tables/make_class_tensors.py makes it from transformers' classes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from importlib import resources

_OF_A_MODULE = ("weight", "bias")


def is_of_class(name: str, kinds: Iterable[str]) -> bool:
    """Whether a model of one of these kinds (``model_type``) has a tensor of this name, wherever in a larger model it stands."""
    module = module_of(name, _leads())
    return any(module in _modules(kind) for kind in kinds)


def module_of(name: str, leads: frozenset[str]) -> str:
    """The module that a tensor belongs to, numbers as ``#``, without the words in front that say where a part stands."""
    parts = ["#" if part.isdigit() else part for part in name.split(".")]
    begin = next((place for place, part in enumerate(parts[:-1]) if part not in leads), len(parts) - 1)
    end = len(parts) - 1 if parts[-1] in _OF_A_MODULE and len(parts) - 1 > begin else len(parts)
    return ".".join(parts[begin:end])


@functools.cache
def _leads() -> frozenset[str]:
    return frozenset(json.loads(_line("leads") or "[]"))


@functools.cache
def _modules(kind: str) -> frozenset[str]:
    line = _line(kind)
    text = "" if line is None else json.loads(line)
    if text and ":" not in text:  # another kind, with the same modules
        return _modules(text)
    groups = (group.split(":") for group in text.split())
    return frozenset(f"{parent}.{own}".removeprefix(".") for parent, names in groups for own in names.split(","))


def _line(key: str) -> str | None:
    """What stands behind a key of the table, as JSON: only the lines that are asked for are parsed."""
    start = (text := _text()).find(f"\n{json.dumps(key)}: ")
    if start < 0:
        return None
    return text[text.index(": ", start) + 2 : text.index("\n", start + 1)].rstrip(",")


@functools.cache
def _text() -> str:
    return resources.files("tuneport.pairing").joinpath("class_tensors.json").read_text(encoding="utf-8")
