"""Compute the fields that a config class derives from its own fields, without the class.

The rules are in config_defaults.json, written from transformers' classes by experiments/tables/make_config_defaults.py.
A rule is a step ``[name, expression]``; an expression is a number, true, false or null; ``"name"``, the field of that
name; ``"'text"``, that text; or ``[operation, argument, …]``. Steps are computed in order. One that cannot be computed
(a field of another type, an absurd layer count) leaves its field unchanged.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# No model has so many layers, and no list for them so many elements; a hostile length would take the memory with it.
_MOST = 2_000

_TYPES: dict[str, tuple[type, ...]] = {"list": (list,), "dict": (dict,), "text": (str,), "number": (int, float)}


class _DoesNotFitError(Exception):
    """A rule that does not fit the values it is asked of."""


def work_out(step: Sequence[Any], fields: dict[str, Any], given: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Do one step: set its field in ``fields``, or leave it.

    ``given`` is the config as the file has it, ``names`` the older names of kinds of layers.
    """
    name, expression = step
    try:
        fields[name] = _Work(fields, given, names).value(expression)
    except (_DoesNotFitError, TypeError, ValueError, ArithmeticError, LookupError):
        return


def renamed(layers: Any, names: Mapping[str, str]) -> Any:
    """A list of kinds of layers under their names of today."""
    if not isinstance(layers, list):
        return layers
    return [names.get(layer, layer) if isinstance(layer, str) else layer for layer in layers]


def inputs(steps: Sequence[Sequence[Any]], name: str) -> frozenset[str]:
    """The fields that a field is worked out from, through whatever lies between."""
    found: set[str] = {name}
    for step in reversed(steps):
        if len(step) == 2 and step[0] in found:
            found |= _names(step[1])
    return frozenset(found - {name})


def _names(expression: Any) -> set[str]:
    if isinstance(expression, str):
        return set() if expression.startswith(("'", "@")) else {expression}
    if isinstance(expression, list):
        return {name for argument in expression[1:] for name in _names(argument)}
    return set()


class _Work:
    def __init__(self, fields: Mapping[str, Any], given: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self.fields, self.given, self.names = fields, given, names

    def value(self, expression: Any) -> Any:
        if isinstance(expression, str):
            return expression[1:] if expression.startswith("'") else self.fields.get(expression)
        if not isinstance(expression, list):
            return expression
        operation, *arguments = expression
        match operation:
            case "if":
                return self.value(arguments[1 if self.value(arguments[0]) else 2])
            case "and" | "or":
                found: Any = None
                for argument in arguments:
                    found = self.value(argument)
                    if bool(found) is (operation == "or"):
                        break
                return found
            case "given":
                return arguments[0] in self.given
            case "renamed":
                return renamed(self.value(arguments[0]), self.names)
            case "each":
                variable, sequence, element, *tests = arguments
                return [inner.value(element) for inner in self._rounds(variable, None, sequence, tests)]
            case "entries":
                place, variable, sequence, key, value, *tests = arguments
                rounds = self._rounds(variable, place, sequence, tests)
                return {str(inner.value(key)): inner.value(value) for inner in rounds}
        return _OPERATIONS[operation](*map(self.value, arguments))

    def _rounds(self, variable: str, place: str | None, sequence: Any, tests: Sequence[Any]) -> Iterator[_Work]:
        """This work once for each element, where its tests hold; ``variable`` is the element, ``place`` its number or key."""
        inner = _Work(fields := dict(self.fields), self.given, self.names)
        values = self.value(sequence)
        pairs = values.items() if isinstance(values, dict) else enumerate(_bounded(values))
        for count, element in pairs:
            fields |= {variable: element} | ({place: count} if place else {})
            if all(inner.value(test) for test in tests):
                yield inner


def _bounded(sequence: Any, times: int = 1) -> list[Any]:
    if not isinstance(sequence, list | str) or len(sequence) * times > _MOST:
        raise _DoesNotFitError
    return list(sequence)


def _numeric(operation: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*numbers: Any) -> Any:
        # A text on the left of % is a format, which may ask for a gigabyte.
        if not all(isinstance(number, int | float) for number in numbers):
            raise _DoesNotFitError
        return operation(*numbers)

    return checked


def _plus(one: Any, other: Any) -> Any:
    if isinstance(one, list) and isinstance(other, list):
        return _bounded(one) + _bounded(other)
    return _numeric(operator.add)(one, other)


def _times(one: Any, other: Any) -> Any:
    if isinstance(one, list) and isinstance(other, int):
        return _bounded(one, other) * other
    return _numeric(operator.mul)(one, other)


def _range(*ends: int) -> list[int]:
    if len(range(*ends)) > _MOST:
        raise _DoesNotFitError
    return list(range(*ends))


def _put(sequence: Any, place: Any, value: Any) -> Any:
    changed = dict(sequence) if isinstance(sequence, dict) else _bounded(sequence)
    changed[place] = value
    return changed


def _at(sequence: Any, place: Any) -> Any:
    return sequence[str(place) if isinstance(sequence, dict) else place]


def _get(mapping: Any, key: Any, default: Any = None) -> Any:
    return mapping[key] if isinstance(mapping, dict) and key in mapping else default


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "not": operator.not_,
    "none": lambda one: one is None,
    "same": lambda one, other: one is other,
    "kind": lambda one, *kinds: any(isinstance(one, _TYPES[kind]) for kind in kinds),
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda one, many: one in (many if isinstance(many, dict) else _bounded(many)),
    "+": _plus,
    "-": _numeric(operator.sub),
    "*": _times,
    "/": _numeric(operator.truediv),
    "//": _numeric(operator.floordiv),
    "%": _numeric(operator.mod),
    "**": _numeric(operator.pow),
    "int": _numeric(int),
    "ceil": _numeric(math.ceil),
    "floor": _numeric(math.floor),
    "sqrt": _numeric(math.sqrt),
    "log2": _numeric(math.log2),
    "min": lambda *numbers: min(numbers[0] if len(numbers) == 1 else numbers),
    "max": lambda *numbers: max(numbers[0] if len(numbers) == 1 else numbers),
    "len": len,
    "sorted": lambda sequence: sorted(_bounded(sequence)),
    "range": _range,
    "list": lambda *items: list(items),
    "dict": lambda *parts: dict(zip(map(str, parts[::2]), parts[1::2], strict=True)),  # as JSON has it
    "at": _at,
    "get": _get,
    "slice": lambda sequence, start, end: sequence[start:end],
    "put": _put,
    "laid_over": lambda one, other: {**one, **other},
}
