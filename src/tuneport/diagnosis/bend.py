"""Where the loss along a line rises, where to measure next, and how high the barrier is.

Pure functions of numbers. The rise at α is the loss there minus the straight line between the losses at 0 and 1. The
highest point is found on one half of the examples and measured on the other, so that noise is not mistaken for a
barrier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuneport import statistics
from tuneport.statistics import Interval, Matrix

FINEST = 1 / 64  # points are not set closer than this
FLAT = 1e-4  # nats per token by which a curve may bend between two points without being looked at


@dataclass(frozen=True)
class Barrier:
    """The rise at the point ``at``, with its 95 % interval over examples; ``at`` was chosen on other examples."""

    value: float
    interval: Interval
    at: float

    def connected(self, threshold: float | None) -> bool | None:
        """Whether the barrier is below a threshold set beforehand; None without one, or if it is unclear."""
        if threshold is None or self.interval[0] <= threshold <= self.interval[1]:
            return None
        return self.interval[1] < threshold


def verdict(connected: bool | None, threshold: float | None) -> str:
    """What a barrier means for two models, as a sentence; empty without a threshold."""
    if threshold is None:
        return ""
    words = {
        True: "The two are linearly connected: the whole interval is below",
        False: "The two are not linearly connected: the whole interval is above",
        None: "It is unclear whether the two are linearly connected (more examples may show it): the interval contains",
    }
    return f"{words[connected]} the threshold of {threshold:g}."


def rises(curve: Mapping[float, float]) -> dict[float, float]:
    """Loss minus the line between the ends, at each point from 0 to 1."""
    return {a: curve[a] - ((1 - a) * curve[0.0] + a * curve[1.0]) for a in sorted(curve) if 0 <= a <= 1}


def next_point(curve: Mapping[float, float], turn: int) -> float | None:
    """Where between 0 and 1 to measure next; None where the curve is straight, or points lie close enough.

    In turns: beside the highest rise, and where the curve bends most.
    """
    points = [a for a in sorted(curve) if 0 <= a <= 1]
    bends = _bends(points, [curve[a] for a in points])
    beside = _beside_highest(points, rises(curve))
    most = max(range(len(bends)), key=bends.__getitem__)
    for place in (beside, most) if turn % 2 == 0 else (most, beside):
        if place is None:
            continue
        low, high = points[place], points[place + 1]
        if high - low >= 2 * FINEST and max(bends) >= FLAT:
            return (low + high) / 2
    return None


def _beside_highest(points: Sequence[float], rise: Mapping[float, float]) -> int | None:
    """The wider of the two intervals at the highest point; None where nothing rises above the line."""
    top = max(range(len(points)), key=lambda place: rise[points[place]])
    if top in (0, len(points) - 1):
        return None
    return max((top - 1, top), key=lambda place: points[place + 1] - points[place])


def _bends(points: Sequence[float], losses: Sequence[float]) -> list[float]:
    """For each interval, how far the curve may stray from the straight line across it: |second derivative|·width²/8."""
    curvature = [0.0] * len(points)
    for i in range(1, len(points) - 1):
        left, right = points[i] - points[i - 1], points[i + 1] - points[i]
        slopes = (losses[i] - losses[i - 1]) / left, (losses[i + 1] - losses[i]) / right
        curvature[i] = abs(2 * (slopes[1] - slopes[0]) / (left + right))
    return [max(curvature[i], curvature[i + 1]) * (points[i + 1] - points[i]) ** 2 / 8 for i in range(len(points) - 1)]


def halves(tasks: Sequence[str], seed: int) -> NDArray[np.bool_]:
    """Which examples are for locating; the others are for measuring. Each task is cut in two, at random."""
    rng = np.random.default_rng(seed)
    names = np.array(tasks)
    order = [place for name in dict.fromkeys(tasks) for place in rng.permutation(np.flatnonzero(names == name))]
    locating = np.zeros(len(tasks), bool)
    locating[order[0::2]] = True
    return locating


def barrier(
    losses: Mapping[float, NDArray[Any]], weights: NDArray[Any], locating: NDArray[np.bool_], seed: int
) -> Barrier | None:
    """The barrier of per-example losses at points from 0 to 1; None where none lies strictly between.

    ``losses`` are means over an example's tokens, ``weights`` its tokens. The examples of the measuring half are
    resampled, the same for all three points that make a rise.
    """
    between = [a for a in sorted(losses) if 0 < a < 1]
    if not between:
        return None
    located = rises({a: token_mean(losses[a][locating], weights[locating]) for a in (0.0, *between, 1.0)})
    at = max(between, key=located.__getitem__)
    measured: Matrix = np.array([losses[a][~locating] for a in (0.0, at, 1.0)], np.float64)
    weight = weights[~locating].astype(np.float64)
    start, middle, end = (token_mean(row, weight) for row in measured)
    drawn = statistics.weighted_means(measured, weight, seed=seed)
    rise = drawn[:, 1] - ((1 - at) * drawn[:, 0] + at * drawn[:, 2])
    return Barrier(middle - ((1 - at) * start + at * end), statistics.central(rise), at)


def token_mean(losses: NDArray[Any], weights: NDArray[Any]) -> float:
    """Mean loss over all tokens of the examples."""
    return float(losses @ weights / weights.sum())
