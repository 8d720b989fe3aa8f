"""How a claim is judged: numbers over families with their intervals, and what they say of it.

Over families by the crossed bootstrap (`over_families`), p values adjusted by Holm's method for all tests of the page.
Three verdicts: *holds* (the interval is clear on the claimed side), *does not hold* (clear on the other side), *not shown*. "No
harm" is non-inferiority within 3 points, "nothing" a control's gain of less than a tenth of the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments.claims.over_families import does_no_harm, over_families
from experiments.claims.study_evidence import Family, base
from tuneport import statistics
from tuneport.results.schema import LOSS, Model
from tuneport.statistics import NO_HARM, Estimate, Matrix

CONTROL = 0.1
HOLDS, FAILS, OPEN = "holds", "does not hold", "not shown"


@dataclass(frozen=True)
class Finding:
    """One number beside a claim. `wanted` says which side of 0 was claimed; None where it only stands beside."""

    what: str
    estimate: Estimate
    p: float | None = None
    wanted: str | None = "above"  # "above", "below", "no harm", "nothing" or None
    unit: str = "points"
    p_adjusted: float | None = None

    @property
    def verdict(self) -> str | None:
        """Whether the claim holds, does not, or is not shown, by this number."""
        low, high = self.estimate.interval
        if self.wanted is None:
            return None
        if self.wanted == "no harm":
            return HOLDS if does_no_harm(self.estimate) else FAILS if high < -NO_HARM else OPEN
        if self.wanted == "nothing":
            return HOLDS if high < CONTROL else FAILS if low > CONTROL else OPEN
        if self.wanted == "below":
            low, high = -high, -low
        sure = self.p_adjusted is None or self.p_adjusted < 0.05
        return OPEN if not sure else HOLDS if low > 0 else FAILS if high < 0 else OPEN


@dataclass(frozen=True)
class Claim:
    """A claim of the paper with where it stands, and what was found."""

    number: str
    said: str
    source: str
    findings: tuple[Finding, ...]
    remark: str = ""


@dataclass(frozen=True)
class Judging:
    """The families of one study, and what they are judged on."""

    families: Sequence[Family]
    tasks: tuple[str, ...]  # what the fine-tuning teaches
    unseen: tuple[str, ...] = ()  # what no fine-tuning holds; bases score above zero here
    tuning: str = "sft"

    def moved(self, source: str, target: str) -> Model:
        """M_target + Δ_source."""
        return Model("transfer", source, target, self.tuning)

    def tuned(self, version: str) -> Model:
        """FT(M)."""
        return Model("tuned", None, version, self.tuning)

    def further(self, source: str, target: str) -> Model:
        """FT(M_target + Δ_source)."""
        return Model("transfer-then-tune", source, target, self.tuning)

    def finding(
        self,
        what: str,
        models: Sequence[Any],
        statistic: Callable[[Matrix], Matrix],
        wanted: str | None = "above",
        tasks: Sequence[str] | None = None,
        unit: str = "points",
    ) -> Finding:
        """A number over all families and examples. `statistic`: mean scores (draws × models) to one number a draw."""
        scores = [family.matrix(models, tasks or self.tasks) for family in self.families]
        estimate, p = over_families(scores, statistic)
        return Finding(what, estimate, p, wanted, unit)

    def change(
        self,
        what: str,
        after: Sequence[Any],
        before: Sequence[Any],
        wanted: str | None = "above",
        tasks: Sequence[str] | None = None,
        unit: str = "points",
    ) -> Finding:
        """The mean score of some models minus that of others."""
        first = len(after)
        return self.finding(
            what,
            [*after, *before],
            lambda m: m[:, :first].mean(axis=1) - m[:, first:].mean(axis=1),
            wanted,
            tasks,
            unit,
        )

    def losses(self) -> list[str]:
        """The tasks of what no fine-tuning holds, by the loss of their answers."""
        return [f"{task}{LOSS}" for task in self.unseen]

    def has(self, tasks: Iterable[str]) -> bool:
        """Whether every family was asked these."""
        return all(set(tasks) <= set(family.scores(base("M1"))) for family in self.families)


def adjusted(claims: Iterable[Claim]) -> list[Claim]:
    """The same claims, their p values adjusted for all tests together by Holm's method."""
    claims = list(claims)
    tested = [f.p for claim in claims for f in claim.findings if f.p is not None and f.wanted in ("above", "below")]
    values = iter(statistics.holm(tested))
    return [
        replace(
            claim,
            findings=tuple(
                replace(f, p_adjusted=next(values)) if f.p is not None and f.wanted in ("above", "below") else f
                for f in claim.findings
            ),
        )
        for claim in claims
    ]


def over_families_alone(what: str, j: Judging, measure: Callable[[Judging, Family], float]) -> Finding:
    """A share that each family gives one of, with a bootstrap over families alone."""
    return replace(estimate_over(what, np.array([measure(j, family) for family in j.families])), unit="share")


def estimate_over(what: str, values: Matrix) -> Finding:
    """A mean over families, with a bootstrap over families alone; of one family the number, without a verdict."""
    values = values[np.isfinite(values)]
    if len(values) < 2:
        value = float(values.mean()) if len(values) else float("nan")
        return Finding(what, Estimate(value, (value, value)), wanted=None)
    rng = np.random.default_rng(0)
    draws = values[rng.integers(len(values), size=(4000, len(values)))].mean(axis=1)
    return Finding(what, Estimate(float(values.mean()), statistics.central(draws)), statistics.bootstrap_p(draws))
