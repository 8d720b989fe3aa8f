"""The gate: a rung replaces the best so far only if it is better on the select part, and does not harm.

Better: the lower bound of the paired difference (95 %) is above 0. Harm: against plain addition it loses more than 0.1
nats per token of the target's texts, or 3 points of the answers that end by themselves, or repeats 3 points more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tuneport.adaptation.rung_measures import Retention, right
from tuneport.errors import named
from tuneport.results.example_outcomes import TaskResult
from tuneport.statistics import Estimate, difference

Status = Literal["kept", "not better", "harmed", "skipped"]
MOST_NATS = 0.1
MOST_POINTS = 0.03
_DECIDING = 1.959964 + 0.841621  # 95 % confidence, and found in 80 % of cases


@dataclass(frozen=True)
class GateDecision:
    """Whether a rung is kept, and why."""

    status: Status
    why: str
    difference: Estimate | None = None


def decide(
    new: TaskResult, best: TaskResult, kept: Retention, added: Retention, *, keep_harmed: bool = False
) -> GateDecision:
    """Compare a rung with the best so far on the select part; ``kept`` and ``added`` are what it and `add` retain."""
    after, before = right(new), right(best)
    change = difference(after, before)
    told = f"{_points(change.value)} on {len(after):,} prompts (95 % {_points(change.interval[0])} to {_points(change.interval[1])})"
    if change.interval[0] <= 0:
        return GateDecision("not better", f"{told}.{_needed(after, before)}", change)
    losses = _losses(kept, added)
    if losses and not keep_harmed:
        return GateDecision(
            "harmed", f"{told}, but {' and '.join(losses)}. {named('keep_harmed')} would keep it.", change
        )
    return GateDecision("kept", f"{told}{', although ' + ' and '.join(losses) if losses else ''}.", change)


def _losses(kept: Retention, added: Retention) -> list[str]:
    found = []
    if kept.loss is not None and added.loss is not None and kept.loss - added.loss > MOST_NATS:
        found.append(f"the loss of the texts to keep rises by {kept.loss - added.loss:.3f} nats per token")
    if added.ended - kept.ended > MOST_POINTS:
        found.append(f"{added.ended - kept.ended:.1%} fewer answers end by themselves")
    if kept.repeated - added.repeated > MOST_POINTS:
        found.append(f"answers repeat {kept.repeated - added.repeated:.1%} more of themselves")
    return found


def _needed(after: Sequence[bool], before: Sequence[bool]) -> str:
    """How many prompts would decide a difference as large as the one that was found; nothing where it is none."""
    n = len(after)
    gained = sum(a and not b for a, b in zip(after, before, strict=True))
    lost = sum(b and not a for a, b in zip(after, before, strict=True))
    change = (gained - lost) / n
    if change <= 0:
        return ""
    needed = max(n + 1, math.ceil(_DECIDING**2 * ((gained + lost) / n - change**2) / change**2))
    ten = 10 ** max(0, len(str(needed)) - 2)
    return (
        f" About {math.ceil(needed / ten) * ten:,} prompts in {named('select')} would decide a difference of this size."
    )


def _points(share: float) -> str:
    return f"{100 * share:+.1f} points"
