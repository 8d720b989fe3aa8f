"""The three-way merge of one value, as git merges a line.

From base's, tuned's and target's value of a field to the side that decides, with the reason, or to a conflict that only
the user can resolve. The callers know the fields and their spellings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

from tuneport.errors import in_short, named

Side = Literal["base", "tuned", "target"]
SIDES: tuple[Side, Side, Side] = ("base", "tuned", "target")


class Three(NamedTuple):
    """One thing as each of the three models has it."""

    base: Any
    tuned: Any
    target: Any

    def of(self, side: str) -> Any:
        """The thing as one of the three has it."""
        return self[SIDES.index(cast(Side, side))]

    def each(self, make: Callable[[Any], Any]) -> Three:
        """What ``make`` makes of the thing of each."""
        return Three(*map(make, self))

    @property
    def alike(self) -> bool:
        """Whether all three have the same, as `same` has it."""
        return same(self.base, self.tuned) and same(self.tuned, self.target)


@dataclass(frozen=True)
class Decision:
    """What was chosen for one subject (``config.rope_scaling``), and why."""

    subject: str
    choice: str
    reason: str


@dataclass(frozen=True)
class FieldDifference:
    """A field in which the three models do not agree, and what the output has there."""

    field: str
    base: Any
    tuned: Any
    target: Any
    output: Any


@dataclass
class MergeFindings:
    """The decisions and faults of a merge, collected so that all faults are reported together.

    ``contested_ends`` holds the end token of the three where both sides changed it, by what ``--config`` calls it.
    ``undecided`` are names of that kind which refusals ask to decide.
    """

    decisions: list[Decision] = field(default_factory=list)
    differences: list[FieldDifference] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    contested_ends: dict[str, Three] = field(default_factory=dict)
    undecided: set[str] = field(default_factory=set)

    def decided(self, subject: str, choice: str, reason: str) -> None:
        """Note one decision."""
        self.decisions.append(Decision(subject, choice, reason))

    def differ(self, subject: str, shown: Three, output: Any) -> None:
        """Note that the three models do not agree on ``subject``."""
        self.differences.append(FieldDifference(subject, *shown, output))

    def settled(self, subject: str, verdict: Sided, shown: Three, output: Any) -> None:
        """Note a decision on a subject on which the three models do not agree."""
        self.decided(subject, verdict.side, verdict.reason)
        self.differ(subject, shown, output)


@dataclass(frozen=True)
class Sided:
    """Which side a value comes from. A conflict keeps the target's value until a person decides.

    ``contested``: the fine-tuning and the new version changed it in two ways, and the tuned model's was taken.
    """

    side: Side
    reason: str
    conflict: bool = False
    contested: bool = False


def three_way(values: Three, *, behaviour: bool, choice: str | None = None) -> Sided:
    """Merge one value: what the fine-tuning changed comes along, what the new version changed stays.

    ``behaviour`` says that the value may come from the tuned model although the target has changed it too; without it
    (architecture) a change by the fine-tuning is a conflict, unless the target made the same one. ``choice`` is
    what a person said with ``--config`` or ``--sidecar``.
    """
    base, tuned, target = values
    if choice is not None:
        return Sided(cast(Side, choice), "asked for")
    if same(tuned, target):
        return Sided("target", "tuned = target")
    if same(tuned, base):
        return Sided("target", "tuned = base")
    if not behaviour:
        return Sided("target", "the fine-tuning changed the architecture", conflict=True)
    if same(target, base):
        return Sided("tuned", "only the fine-tuning changed it; target = base")
    return Sided("tuned", "all three differ; behaviour settings come from the tuned model", contested=True)


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: 10000 is 10000.0, NaN is NaN, true is not 1."""
    if one is other:
        return True
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    if isinstance(one, float) and isinstance(other, float) and one != one and other != other:
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def conflict(what: str, shown: Three, flag: str) -> str:
    """The refusal of one architecture field: its three values and the flag that decides."""
    values = ", ".join(f"{side} {in_short(value)}" for side, value in zip(SIDES, shown, strict=True))
    return (
        f"{what}: {values}. The fine-tuning changed how the model computes, but the target was not trained that way. "
        f"Choose with {named('config', f'{flag}=base|tuned|target')}."
    )


def says_null(what: str, target: Any, flag: str) -> str:
    """The warning of a value that the tuned model takes away by an explicit null."""
    return (
        f"{what}: the tuned model says null, so the output does too; the target has {in_short(target)}. "
        f"Keep that with {named('config', f'{flag}=target')}."
    )


def choices_under(prefixes: tuple[str, ...], choices: Mapping[str, str]) -> dict[str, str]:
    """The choices of one file, without the file's prefix: ``generation.top_p`` → ``top_p``."""
    return {
        name.removeprefix(prefix): side
        for prefix in prefixes
        for name, side in choices.items()
        if name.startswith(prefix)
    }


def render(value: Any) -> bytes:
    """JSON as transformers writes it: two spaces, text as it is, a newline at the end."""
    try:
        return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell and UTF-8 cannot
        return (json.dumps(value, indent=2) + "\n").encode()
