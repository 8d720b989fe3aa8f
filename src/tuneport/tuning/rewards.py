"""Rewards that a program can verify, for GRPO.

Specifications such as ``exact``, ``0.5*format=REGEX`` or ``module:function`` become functions with weights. A user's
function is the only code that runs here, because the user named it; it is called as TRL calls its own:
``function(prompts=…, completions=…, **columns)``, and returns a number (or None) for each completion.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneport.errors import DataError, Fault, UsageError, named
from tuneport.examples.forms import Row

Reward = Callable[..., list[float | None]]
_WEIGHTED = re.compile(r"(?P<weight>\d+(?:\.\d+)?)\*(?P<rest>.+)", re.DOTALL)
_FUNCTION = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<function>[A-Za-z_]\w*)")


@dataclass(frozen=True)
class Weighted:
    """One reward: its function, its name in the log, its weight in the sum."""

    name: str
    function: Reward
    weight: float = 1.0
    needs_answer: bool = False


def parse_reward(text: str) -> Weighted:
    """A reward from its specification. Raises `UsageError`."""
    found = _WEIGHTED.fullmatch(text)
    weight, rest = (float(found["weight"]), found["rest"]) if found else (1.0, text)
    if rest == "exact":
        return Weighted("exact", exact, weight, needs_answer=True)
    if rest.startswith("format="):
        return Weighted("format", _format(rest.removeprefix("format=")), weight)
    named = _FUNCTION.fullmatch(rest)
    if named:
        return Weighted(named["function"], _function(named["module"], named["function"]), weight)
    told = "must be exact, format=REGEX or module:function, each with an optional WEIGHT*"
    raise UsageError(Fault("rewards", text, told))


def check_rewards(rewards: Sequence[Weighted], sources: Sequence[tuple[str, Sequence[Row]]]) -> None:
    """Raise `DataError` where a reward needs a field that rows lack."""
    if any(reward.needs_answer for reward in rewards):
        for name, rows in sources:
            lacking = [place for place, row in enumerate(rows, 1) if not isinstance(row.get("answer"), str)]
            if lacking:
                raise DataError(
                    f"{name}: {len(lacking)} row(s) have no text in `answer` (the first: row {lacking[0]}), which the "
                    f"reward `exact` needs. Add it, or choose another {named('rewards')}."
                )


def text_of(completion: Any) -> str:
    """The text of a completion, which TRL gives as a text or, for prompts of messages, as messages."""
    return completion if isinstance(completion, str) else "".join(message["content"] for message in completion)


def exact(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float | None]:
    """1 where the completion is the answer, but for white space around them; else 0."""
    return [float(text_of(said).strip() == right.strip()) for said, right in zip(completions, answer, strict=True)]


def _format(pattern: str) -> Reward:
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        told = f"is not a valid regular expression: {error}"
        raise UsageError(Fault("rewards", f"format={pattern}", told)) from None

    def format(completions: Sequence[Any], **_: Any) -> list[float | None]:
        """1 where the whole completion, stripped, matches; else 0."""
        return [float(compiled.fullmatch(text_of(said).strip()) is not None) for said in completions]

    return format


def _function(module: str, function: str) -> Reward:
    given = f"{module}:{function}"
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does: the user's module lies where the command is run
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        told = f"there is no module {error.name!r} here or among the installed packages"
        raise UsageError(Fault("rewards", given, told)) from None
    except Exception as error:  # whatever the user's own module raises when it is imported
        told = f"importing {module} failed with {type(error).__name__}: {error}"
        raise UsageError(Fault("rewards", given, told)) from error
    if not callable(found):
        raise UsageError(Fault("rewards", given, f"the module {module} has no function {function}"))
    return found  # type: ignore[no-any-return]  # what it gives is checked by TRL, answer by answer
