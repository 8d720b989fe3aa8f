"""Make a plain function public: its keywords are a record's options (`takes`).

The function gets the checked record. Callers see a real signature, and help for every option. A wrong call (an unknown
name, a missing option, a value of another type) raises `UsageError` with a message.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

from tuneport.errors import Fault, UsageError
from tuneport.options import Declared, Place, build, options_of

Result = TypeVar("Result")


def takes(record: type[Any]) -> Callable[[Callable[[Any], Result]], Callable[..., Result]]:
    """Make a function of one record a function of its options."""

    def decorate(body: Callable[[Any], Result]) -> Callable[..., Result]:
        name = body.__name__
        positional = [one.name for one in options_of(record) if one.spec.positional]

        @wraps(body)
        def call(*args: Any, **given: Any) -> Result:
            return body(build(record, {**_by_name(args, given, positional, name), **given}, name))

        call.__signature__ = signature_of(record, body)  # type: ignore[attr-defined]  # what inspect looks for
        call.__doc__ = f"{inspect.cleandoc(body.__doc__ or '')}\n\n{_options_in_words(record)}"
        call.record = record  # type: ignore[attr-defined]  # the command line and docs are made from it
        del call.__wrapped__  # its signature is not the one to call
        return call

    return decorate


def _by_name(args: Sequence[Any], given: Mapping[str, Any], names: Sequence[str], of: str) -> dict[str, Any]:
    if len(args) > len(names):
        raise UsageError(
            f"{of} takes {len(names)} positional arguments ({', '.join(names)}), but {len(args)} were given. Pass the "
            f"others by keyword; help(tuneport.{of}) lists them."
        )
    placed = dict(zip(names, args, strict=False))
    if twice := [
        Fault(name, given[name], "is given twice: by position and by keyword") for name in placed if name in given
    ]:
        raise UsageError(twice)
    return placed


def signature_of(record: type[Any], body: Callable[..., Any]) -> inspect.Signature:
    """The signature that a call sees: positional options first, then keywords."""
    parameters = [
        inspect.Parameter(
            one.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD if one.spec.positional else inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if one.required else one.default,
            annotation=annotation(one),
        )
        for one in sorted(options_of(record), key=lambda one: not one.spec.positional)
    ]
    return inspect.Signature(parameters, return_annotation=_Written(body.__annotations__.get("return", "Any")))


def written(function: Callable[..., Any]) -> str:
    """How the type of a function's result is written."""
    return repr(inspect.signature(function).return_annotation)


def result_names(function: Callable[..., Any]) -> list[str]:
    """The names of the classes that a function's result may be of."""
    return written(function).split(" | ")


class _Written:
    """A type as it is written: repr() without quotes, so that a signature reads like source."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def annotation(one: Declared) -> Any:
    """The type that a call may give, as it is written."""
    text = one.spec.accepts or _type_text(one.single)
    if one.several and one.spec.accepts is None:
        text = f"{text} | Sequence[{text}]"
    return _Written(f"{text} | None" if one.default is None and not text.endswith("None") else text)


def _type_text(kind: Any) -> str:
    if kind == Place:
        return "str | PathLike[str]"
    if typing.get_origin(kind) is typing.Literal:
        return f"Literal[{', '.join(repr(each) for each in typing.get_args(kind))}]"
    if isinstance(kind, type):
        return kind.__name__
    return str(kind).replace("typing.", "").replace("collections.abc.", "")


def _options_in_words(record: type[Any]) -> str:
    lines = ["Options:"]
    for one in options_of(record):
        lines.append(f"    {one.name}: {one.help}")
    return "\n".join(lines)
