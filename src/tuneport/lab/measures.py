"""Accuracies, gains and recovered gain with 95 % intervals, from lists of right and wrong answers.

Pure functions. An accuracy gets a Wilson interval; differences and recovered gain are taken on the same
examples, so their intervals come from one joint, seeded bootstrap over these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Interval = tuple[float, float]
_RESAMPLES = 4000
_Z = 1.959963984540054  # 95 %, both sides


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    interval: Interval


def accuracy(right: Sequence[bool]) -> Estimate:
    """Share of right answers, with Wilson's interval."""
    n, k = len(right), sum(right)
    share, z2 = k / n, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Estimate(share, (max(0.0, middle - half), min(1.0, middle + half)))


def difference(after: Sequence[bool], before: Sequence[bool], seed: int = 0) -> Estimate:
    """Accuracy of `after` minus that of `before` on the same examples, with a paired bootstrap's interval."""
    drawn = _resampled_means(np.array([after, before], dtype=np.float64), seed)
    return Estimate(sum(after) / len(after) - sum(before) / len(before), _central(drawn[:, 0] - drawn[:, 1]))


def recovered_gain(
    target: Sequence[bool], transferred: Sequence[bool], tuned_target: Sequence[bool], seed: int = 0
) -> Estimate | None:
    """(transferred − target) / (tuned target − target); None where the denominator's interval includes 0."""
    low, high = difference(tuned_target, target, seed).interval
    if low <= 0 <= high:
        return None
    scores = np.array([target, transferred, tuned_target], dtype=np.float64)
    drawn = _resampled_means(scores, seed)
    gains = drawn[:, 2] - drawn[:, 0]
    usable = gains != 0
    shares = (drawn[usable, 1] - drawn[usable, 0]) / gains[usable]
    base, moved, tuned = scores.mean(axis=1)
    return Estimate(float((moved - base) / (tuned - base)), _central(shares))


def mean(values: Sequence[float], seed: int = 0) -> Estimate:
    """A mean, with its interval from a bootstrap over the values."""
    drawn = _resampled_means(np.array([values], dtype=np.float64), seed)
    return Estimate(sum(values) / len(values), _central(drawn[:, 0]))


def share_of_change(start: Sequence[float], middle: Sequence[float], end: Sequence[float], seed: int = 0) -> Estimate:
    """(start − middle) / (start − end) of three models' mean losses on the same texts."""
    losses = np.array([start, middle, end], dtype=np.float64)
    drawn = _resampled_means(losses, seed)
    first, second, third = losses.mean(axis=1)
    shares = (drawn[:, 0] - drawn[:, 1]) / (drawn[:, 0] - drawn[:, 2])
    return Estimate(float((first - second) / (first - third)), _central(shares))


def _resampled_means(scores: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    """Means of `scores` (models × examples) over examples drawn with replacement: resamples × models."""
    rng = np.random.default_rng(seed)
    n = scores.shape[1]
    counts = rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    means: npt.NDArray[np.float64] = counts @ scores.T / n
    return means


def _central(values: npt.NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
