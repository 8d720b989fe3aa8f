"""A model's result on each example of a task, kept so that models can be compared in pairs.

A task's value is Σ weight·score / Σ weight: the share of right answers (weights 1), a loss per token (weights are
tokens), or an average over subtasks. The input is the harness's own log of samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tuneport import statistics
from tuneport.statistics import Estimate

ASKED = 1000  # letters of a question that are kept; with shots before it, it is at the prompt's end


@dataclass(frozen=True)
class Outcome:
    """One example: its score, its weight in the task's value, what was asked, and what the model said to it."""

    id: str
    score: float
    weight: float = 1.0
    asked: str | None = None
    said: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class TaskResult:
    """One model on one task. ``summary`` replaces the value if the metric is not a mean over examples."""

    task: str
    metric: str
    higher_is_better: bool
    outcomes: tuple[Outcome, ...]
    others: Mapping[str, float] = field(default_factory=dict)
    summary: Mapping[str, Any] | None = None
    shots: int | None = None
    version: Any = None
    variant: str | None = None

    @property
    def right_or_wrong(self) -> bool:
        """Whether every outcome is 0 or 1 and counts the same: then exact tests apply."""
        return all(outcome.score in (0.0, 1.0) and outcome.weight == 1.0 for outcome in self.outcomes)

    @property
    def scores(self) -> list[float]:
        """The examples' scores, in order."""
        return [outcome.score for outcome in self.outcomes]

    @property
    def weights(self) -> list[float]:
        """The examples' weights, in order."""
        return [outcome.weight for outcome in self.outcomes]

    def estimate(self, seed: int) -> Estimate | None:
        """The task's value with interval and standard error; None where only the harness can form it."""
        if self.summary is not None:
            return None
        if self.right_or_wrong:
            return statistics.accuracy([outcome.score == 1.0 for outcome in self.outcomes])
        return statistics.weighted_mean(self.scores, self.weights, seed)

    def record(self, seed: int) -> dict[str, Any]:
        """What `--out` says of it."""
        found = self.estimate(seed)
        if found is not None:
            how = "Wilson" if self.right_or_wrong else "bootstrap over examples"
            told: dict[str, Any] = {"value": found.value, "stderr": found.stderr, "n": len(self.outcomes)}
            told |= {"interval": list(found.interval), "interval_method": how}
        else:
            told = {"n": len(self.outcomes), **(self.summary or {}), "interval": None, "interval_method": None}
        return {
            "metric": self.metric,
            **told,
            "higher_is_better": self.higher_is_better,
            **({} if self.shots is None else {"shots": self.shots}),
            **({} if self.version is None else {"version": self.version}),
            **({} if self.variant is None else {"variant": self.variant}),
            **({"others": dict(self.others)} if self.others else {}),
        }


def end_of(prompt: str) -> str | None:
    """What is kept of a prompt: its end, with a mark where it was cut; None of an empty one."""
    return (prompt if len(prompt) <= ASKED else f"…{prompt[-ASKED:]}") or None


def as_json(result: TaskResult) -> dict[str, Any]:
    """The whole result, for the journal."""
    return asdict(result)


def from_json(value: Mapping[str, Any]) -> TaskResult:
    """A result that `as_json` wrote."""
    return TaskResult(**{**value, "outcomes": tuple(Outcome(**outcome) for outcome in value["outcomes"])})


def paired(one: TaskResult, other: TaskResult) -> bool:
    """Whether the two were asked the very same examples in the same order, with the same weights."""
    return [(o.id, o.weight) for o in one.outcomes] == [(o.id, o.weight) for o in other.outcomes]
