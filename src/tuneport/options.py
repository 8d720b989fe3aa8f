"""Declare options once, as fields of a frozen record: help, default, bounds, and whether the option is part of a run's
identity.

The public functions, the command line, study files and docs/commands.md are made from these records. `check` checks
every value of a new record and raises one `UsageError` with all faults. Nothing heavy is imported: `--help` shows
records.
"""

from __future__ import annotations

import math
import os
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from tuneport.errors import ABSENT, Fault, UsageError, named

Place: TypeAlias = str | os.PathLike[str]
Record = TypeVar("Record")
_SPEC, _NESTED, _VARIANTS = "option", "nested", "variants"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass(frozen=True)
class Bounds:
    """Which numbers an option takes; ``least`` and ``most`` are among them, ``above`` and ``below`` are not."""

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf

    def hold(self, number: float) -> bool:
        """Whether a number is inside."""
        return self.least <= number <= self.most and self.above < number < self.below

    def __str__(self) -> str:
        """As words that follow "a number"."""
        if math.isfinite(self.least) and math.isfinite(self.most):
            return f" from {self.least:g} to {self.most:g}"
        words = {"least": "of at least {:g}", "above": "above {:g}", "most": "at most {:g}", "below": "below {:g}"}
        told = [text.format(end) for name, text in words.items() if math.isfinite(end := getattr(self, name))]
        return f" {', '.join(told)}" if told else ""


@dataclass(frozen=True)
class Spec:
    """What is declared about an option, beside its name, type and default.

    ``positional``: Python takes it without its name; ``argument``: the command line takes it without a flag (``flag`` False: not at
    all). ``identity``: it is part of what makes two runs the same. ``parse`` makes the value from a text, or from what a Python
    call gave; it raises ValueError with a message that follows the option's name. ``accepts`` is how a signature writes
    the type of that.
    """

    help: str
    metavar: str | tuple[str, ...] | None = None
    bounds: Bounds | None = None
    choices: tuple[str, ...] = ()
    separator: str | None = None
    nargs: int | str | None = None
    repeatable: bool = False
    positional: bool = False
    argument: bool = False
    flag: bool = True
    identity: bool = True
    group: str | None = None
    parse: Callable[[Any], Any] | None = None
    accepts: str | None = None


def option(default: Any = MISSING, help: str = "", **declared: Any) -> Any:
    """A field of a record: its default (none: it must be given), its help, and what `Spec` names.

    Options that share some of this are declared by a `functools.partial` of it.
    """
    return field(default=default, metadata={_SPEC: Spec(help, **declared)})


def nested(record: type[Any], *only: str) -> Any:
    """A field that is a record, whose options (or ``only`` those) replace it; the others have their defaults."""
    return field(default_factory=record, metadata={_NESTED: (record, only)})


def variants(records: Callable[[], Mapping[str, type[Any]]]) -> Any:
    """A field for the options of several records, of which one is chosen by name; it holds those that were given."""
    return field(default_factory=dict, metadata={_VARIANTS: records})


class Options:
    """The parent of the records: making one checks it."""

    def __post_init__(self) -> None:
        """Check every value. Raises `UsageError`."""
        check(self)


@dataclass(frozen=True)
class Declared:
    """An option of a record, or of one inside it: everything that is known of it."""

    name: str
    kind: Any
    default: Any
    spec: Spec
    optional: bool = False

    @property
    def required(self) -> bool:
        """Whether Python must be given it."""
        return self.default is MISSING

    @property
    def help(self) -> str:
        """Its help, with the default if a reader could not guess it."""
        if self.default in (None, (), MISSING) or self.default is False or "default" in self.spec.help:
            return self.spec.help
        return f"{self.spec.help} (default: {shown_default(self.default)})"

    @property
    def several(self) -> bool:
        """Whether it holds several values."""
        return get_origin(self.kind) is tuple

    @property
    def single(self) -> Any:
        """The type of one value."""
        return get_args(self.kind)[0] if self.several else self.kind

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it takes, where it takes only some."""
        return get_args(self.single) if get_origin(self.single) is Literal else self.spec.choices


def _of_field(each: Field[Any], hints: Mapping[str, Any]) -> Declared:
    kind = hints[each.name]
    optional = each.default is None or type(None) in get_args(kind)
    return Declared(each.name, _without_none(kind), each.default, each.metadata[_SPEC], optional)


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, types.UnionType) or kind == Place:
        return kind
    left = [each for each in get_args(kind) if each is not type(None)]
    return left[0] if len(left) == 1 else Union[tuple(left)]  # noqa: UP007  (made from what is left)


_HINTS: dict[type[Any], dict[str, Any]] = {}


def _hints(record: type[Any]) -> dict[str, Any]:
    """The types of a record's fields; evaluated once, since that takes longer than all checks of an option."""
    return _HINTS.get(record) or _HINTS.setdefault(record, get_type_hints(record))


def options_of(record: type[Any]) -> tuple[Declared, ...]:
    """Every option of a record, those of the records inside it in their place."""
    found: dict[str, Declared] = {}
    hints = _hints(record)
    for each in fields(record):
        if _SPEC in each.metadata:
            found[each.name] = _of_field(each, hints)
        elif _NESTED in each.metadata:
            inner, only = each.metadata[_NESTED]
            found |= {one.name: one for one in options_of(inner) if not only or one.name in only}
        elif _VARIANTS in each.metadata:
            found |= _of_variants(each.metadata[_VARIANTS]())
    return tuple(found.values())


def _of_variants(records: Mapping[str, type[Any]]) -> dict[str, Declared]:
    """The options of all; the help of each says the default for each record, or which records have it."""
    found: dict[str, Declared] = {}
    for record in records.values():
        for one in options_of(record):
            if one.name in found:
                continue
            having = {name: options_of(kind) for name, kind in records.items()}
            defaults = {name: o.default for name, all_of in having.items() for o in all_of if o.name == one.name}
            spec = Spec(**{**vars(one.spec), "help": one.spec.help + _defaults(defaults, len(records))})
            found[one.name] = Declared(one.name, one.kind, None, spec)
    return found


def _defaults(by_record: Mapping[str, Any], of: int) -> str:
    shown = {
        name: shown_default(value)
        for name, value in by_record.items()
        if value not in (None, ()) and value is not False
    }
    if not shown:
        return "" if len(by_record) == of else f" ({', '.join(by_record)})"
    if len(shown) == of and len(set(shown.values())) == 1:
        return f" (default: {next(iter(shown.values()))})"
    return f" (default: {', '.join(f'{name} {value}' for name, value in shown.items())})"


def shown_default(value: Any) -> str:
    """A default as help shows it."""
    if isinstance(value, tuple):
        return ", ".join(map(shown_default, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def build(record: type[Record], given: Mapping[str, Any], of: str) -> Record:
    """A record from options by name, those of the records inside it too. Raises `UsageError` with every fault.

    ``of`` names what the options are of, for a name that is not known.
    """
    known, names = options_of(record), _names(record)
    faults = [Fault(name, ABSENT, *_unknown(name, names, of)) for name in given if name not in names]
    faults += [
        Fault(one.name, ABSENT, "is missing", _capital(one.spec.help))
        for one in known
        if one.required and one.name not in given
    ]
    values: dict[str, Any] = {}
    for each in fields(record):  # type: ignore[arg-type]  # a record is a dataclass
        if _NESTED in each.metadata:
            inner, only = each.metadata[_NESTED]
            own = {name: given[name] for name in (only or _names(inner)) if name in given}
            try:
                values[each.name] = build(inner, own, of)
            except UsageError as error:
                faults += _faults_of(error)
        elif _VARIANTS in each.metadata:
            names_of = _of_variants(each.metadata[_VARIANTS]())
            values[each.name] = {name: given[name] for name in names_of if given.get(name) is not None}
        elif each.name in given:
            values[each.name] = given[each.name]
    if any(isinstance(fault.value, type(ABSENT)) for fault in faults):
        raise UsageError(faults)
    try:
        made = record(**values)
    except UsageError as error:
        raise UsageError([*faults, *_faults_of(error)]) from None
    if faults:
        raise UsageError(faults)
    return made


def _names(record: type[Any]) -> list[str]:
    return [one.name for one in options_of(record)]


def _faults_of(error: UsageError) -> Sequence[Fault]:
    if not error.faults:
        raise error  # of no single option: raised unchanged
    return error.faults


def _unknown(name: str, names: Sequence[str], of: str) -> tuple[str, str]:
    near = get_close_matches(name, names, 1)
    problem = f"is not an option of {of}"
    return problem, f"Did you mean {named(near[0])}?" if near else f"It has {', '.join(map(named, names))}"


def _capital(text: str) -> str:
    return f"Give the {text.removeprefix('the ')}" if text else ""


def check(record: Any) -> None:
    """Check every option of a record, and put parsed values in their places. Raises one `UsageError` with all faults."""
    faults: list[Fault] = []
    hints = _hints(type(record))
    for each in fields(record):
        if _SPEC not in each.metadata:
            continue
        one, value = _of_field(each, hints), getattr(record, each.name)
        try:
            object.__setattr__(record, each.name, checked(one, value))
        except UsageError as error:
            faults += _faults_of(error)
        except ValueError as error:
            faults += _located(one, value) or [Fault(each.name, value, str(error))]
    if faults:
        raise UsageError(faults)


def _located(one: Declared, value: Any) -> list[Fault]:
    """Which of several values are not valid, each by itself."""
    if not isinstance(value, Mapping | list | tuple) or not (one.several or one.spec.repeatable):
        return []
    found = []
    for each in value.items() if isinstance(value, Mapping) else value:
        try:
            checked(one, [each])
        except ValueError as error:
            found.append(Fault(one.name, each, str(error)))
    return found


def checked(one: Declared, value: Any) -> Any:
    """A value of an option, of its type and within its bounds. Raises ValueError with a message that follows the
    option's name.
    """
    if value is None and one.optional:
        return None
    if one.spec.parse is not None:
        return one.spec.parse(value)
    if one.several:
        values = [value] if isinstance(value, str | os.PathLike) or not isinstance(value, Iterable) else list(value)
        return tuple(_single(one, each) for each in values)
    return _single(one, value)


def _single(one: Declared, value: Any) -> Any:
    kind, bounds = one.single, one.spec.bounds or Bounds()
    if one.choices:
        if value not in one.choices:
            raise ValueError(f"must be {_either(one.choices)}")
    elif kind is bool:
        if not isinstance(value, bool):
            raise ValueError("must be True or False")
    elif kind is int:
        if isinstance(value, bool) or not isinstance(value, Integral) or not bounds.hold(int(value)):
            raise ValueError(f"must be a whole number{bounds}")
        return int(value)
    elif kind is float:
        number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not bounds.hold(value):
            raise ValueError(f"must be a finite number{bounds}" if not one.spec.bounds else f"must be a number{bounds}")
        return value if isinstance(value, int | float) else float(value)
    elif kind is str:
        if not isinstance(value, str) or not value:
            raise ValueError("must be a string, not empty")
    elif kind == Place and (not isinstance(value, str | os.PathLike) or not os.fspath(value)):
        raise ValueError("must be a string or a path, not empty")
    return value


def _either(choices: Sequence[str]) -> str:
    return " or ".join([", ".join(choices[:-1]), choices[-1]] if len(choices) > 1 else choices)


def parse_size(text: str | int) -> int:
    """Bytes of a size such as ``128MiB``, ``5GB`` or ``1000000``. Raises ValueError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgGtT]?[iI]?)[bB]?\s*", str(text))
    if isinstance(text, bool) or not found or found[2].upper() not in _UNITS or float(found[1]) <= 0:
        raise ValueError("is not a valid size; write it like 128MiB or 5GB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def size_text(text: str | int) -> str:
    """A size as it was given, checked. Raises ValueError."""
    parse_size(text)
    return str(text)
