"""Try regular expressions from others' files with names, before anything in this process matches them.

Returns nothing, or raises an `ExpressionError` that says what is wrong. They are matched in a child process with
limits: an expression that finishes there in time also finishes here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneport.files.limited_process import LimitError, ask
from tuneport.files.printable import quoted

SECONDS = 5.0  # of computing, for all expressions and names; those that people write take milliseconds
MEMORY = 2**29
MOST_MATCHES = 10**7
MOST_LETTERS = 2**16  # of one expression
_ANYWHERE, _REPLACED = "search", "sub"


@dataclass(frozen=True)
class Expression:
    """One expression of a field; ``how`` is the method of `re` that it is used by, ``shown`` what the file says."""

    field: str
    text: str
    how: str = _ANYWHERE
    replacement: str = ""
    shown: str = ""


class ExpressionError(ValueError):
    """An expression that is not valid, or that needs too much time or memory with these names."""


def try_expressions(expressions: Sequence[Expression], names: Iterable[str]) -> None:
    """Match every expression with every name. Replacements come first, in their order; the others are also matched with
    the new names.

    Raises `ExpressionError`.
    """
    found, tried = sorted(set(names)), list(expressions)
    if not tried:
        return
    fields = ", ".join(quoted(field) for field in dict.fromkeys(each.field for each in tried))
    if len(tried) * len(found) > MOST_MATCHES:
        raise ExpressionError(f"there are {len(tried):,} expressions ({fields}) to match with {len(found):,} names")
    for each in tried:
        if not isinstance(each.text, str) or not isinstance(each.replacement, str):
            raise ExpressionError(f"{quoted(each.field)} contains a value that is not a string")
        if len(each.text) > MOST_LETTERS:
            raise ExpressionError(f"{quoted(each.field)}: an expression has {len(each.text):,} characters")
    request = {"expressions": [vars(each) for each in tried], "names": found}
    try:
        fault = ask("tuneport.files.expressions:matcher", request, seconds=SECONDS, memory=MEMORY, stays=False)
    except LimitError as error:
        much = f"more than {MEMORY >> 20} MiB of memory" if error.memory else f"more than {SECONDS:g} seconds"
        raise ExpressionError(f"matching its expressions ({fields}) with {len(found):,} names takes {much}") from None
    if fault is not None:
        raise ExpressionError(fault)


def matcher() -> Callable[[Mapping[str, Any]], str | None]:
    """In the child: what matches."""
    return _match


def _match(request: Mapping[str, Any]) -> str | None:
    """Use every expression as it will be used; returns what is wrong, or None."""
    names: list[str] = request["names"]
    longest, every = 4 * max(map(len, names), default=0) + 4096, dict.fromkeys(names)
    ordered = sorted(request["expressions"], key=lambda each: each["how"] != _REPLACED)
    for each in ordered:
        try:
            compiled = re.compile(each["text"])
            if each["how"] == _REPLACED:
                names = [compiled.sub(each["replacement"], name) for name in names]
                if max(map(len, names), default=0) > longest:
                    return (
                        f"{quoted(each['field'])}: a replacement creates a name of {max(map(len, names)):,} characters"
                    )
                every |= dict.fromkeys(names)  # what follows is matched with these
                continue
        except (re.error, OverflowError, RecursionError, IndexError, TypeError) as error:
            shown = str(each["shown"] or each["text"])
            return f"{quoted(each['field'])}: {shown[:80]!r} is not a valid regular expression: {error}"
        method = getattr(compiled, each["how"])
        for name in every:
            method(name)
    return None
