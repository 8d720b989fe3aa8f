"""Scores, gains and recovered gain with 95 % intervals, and tests of differences, from the outcomes of examples.

Pure functions. An accuracy gets a Wilson interval, a mean a bootstrap interval. Differences and recovered gain use the
same examples, so their intervals come from one joint, seeded bootstrap over these. A difference of right and wrong
answers is tested by McNemar's exact test, any other by the paired bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Interval = tuple[float, float]
Matrix = npt.NDArray[np.float64]
_RESAMPLES = 4000
NO_HARM = 0.03  # "no harm" is non-inferiority within 3 points, not a test that found nothing
_Z = 1.959963984540054  # 95 %, both sides
_CELLS = 4_000_000  # resampled counts held at once: 32 MB
_KEPT_CELLS = 8_000_000  # resampled counts kept for the next models, in two bytes each: 16 MB


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval and, where it is a mean over examples, its standard error."""

    value: float
    interval: Interval
    stderr: float | None = None


def accuracy(right: Sequence[bool]) -> Estimate:
    """Share of right answers, with Wilson's interval."""
    n, k = len(right), sum(right)
    share, z2 = k / n, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    stderr = math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None
    # Where none or all are right, one end is 0 or 1, which rounding would miss.
    return Estimate(share, (middle - half if k else 0.0, middle + half if k < n else 1.0), stderr)


def difference(after: Sequence[bool], before: Sequence[bool], seed: int = 0) -> Estimate:
    """Accuracy of `after` minus that of `before` on the same examples, with a paired bootstrap's interval."""
    drawn = _resampled_means(np.array([after, before], dtype=np.float64), seed)
    return Estimate(sum(after) / len(after) - sum(before) / len(before), central(drawn[:, 0] - drawn[:, 1]))


def recovered_gain(
    target: Sequence[float],
    transferred: Sequence[float],
    tuned_target: Sequence[float],
    seed: int = 0,
    weights: Sequence[float] | None = None,
) -> Estimate | None:
    """(transferred − target) / (tuned target − target); None where the denominator's interval includes 0.

    Signs cancel, so scores of which lower is better (losses) are welcome too.
    """
    scores = np.array([target, transferred, tuned_target], dtype=np.float64)
    weight = np.ones(scores.shape[1]) if weights is None else np.array(weights, dtype=np.float64)
    base, moved, tuned = scores @ weight / weight.sum()
    return share_of_gain((base, moved, tuned), weighted_means(scores, weight, seed=seed))


def share_of_gain(values: tuple[float, float, float], drawn: Matrix) -> Estimate | None:
    """The recovered gain from the three values and their resamples (resamples × 3), drawn together."""
    gains = drawn[:, 2] - drawn[:, 0]
    low, high = central(gains)
    if low <= 0 <= high:
        return None
    usable = gains != 0
    shares = (drawn[usable, 1] - drawn[usable, 0]) / gains[usable]
    base, moved, tuned = values
    return Estimate(float((moved - base) / (tuned - base)), central(shares))


def mean(values: Sequence[float], seed: int = 0) -> Estimate:
    """A mean, with its interval from a bootstrap over the values."""
    drawn = _resampled_means(np.array([values], dtype=np.float64), seed)
    n, middle = len(values), sum(values) / len(values)
    stderr = math.sqrt(sum((value - middle) ** 2 for value in values) / (n - 1) / n) if n > 1 else None
    return Estimate(middle, central(drawn[:, 0]), stderr)


def share_of_change(start: Sequence[float], middle: Sequence[float], end: Sequence[float], seed: int = 0) -> Estimate:
    """(start − middle) / (start − end) of three models' mean losses on the same texts."""
    losses = np.array([start, middle, end], dtype=np.float64)
    drawn = _resampled_means(losses, seed)
    first, second, third = losses.mean(axis=1)
    shares = (drawn[:, 0] - drawn[:, 1]) / (drawn[:, 0] - drawn[:, 2])
    return Estimate(float((first - second) / (first - third)), central(shares))


def weighted_mean(scores: Sequence[float], weights: Sequence[float], seed: int = 0) -> Estimate:
    """Σ weight·score / Σ weight (a loss per token, say), examples resampled together with their weights."""
    if len(set(weights)) == 1:
        return mean(scores, seed)
    weighed, weight = np.array([scores], dtype=np.float64), np.array(weights, dtype=np.float64)
    drawn = weighted_means(weighed, weight, seed=seed)[:, 0]
    value = float(weighed[0] @ weight / weight.sum())
    return Estimate(value, central(drawn), float(drawn.std(ddof=1)) if len(scores) > 1 else None)


def weighted_means(scores: Matrix, weights: Matrix, *, seed: int = 0, resamples: int = _RESAMPLES) -> Matrix:
    """Resampled weighted means: resamples × models, from `scores` (models × examples) and one weight an example.

    All models share each draw of examples, so that columns may be compared in pairs.
    """
    together = np.vstack([scores * weights, weights])
    drawn = _resampled_means(together, seed, resamples)
    means: Matrix = drawn[:, :-1] / drawn[:, -1:]
    return means


def mcnemar(one: Sequence[bool], other: Sequence[bool]) -> float:
    """Exact two-sided p of McNemar's test: do two models differ, judged by the examples where just one is right?"""
    only_one = sum(a and not b for a, b in zip(one, other, strict=True))
    only_other = sum(b and not a for a, b in zip(one, other, strict=True))
    n, fewer = only_one + only_other, min(only_one, only_other)
    ways, tail = 1, 0  # exact integers: n may be thousands
    for k in range(fewer + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    return min(1.0, float(Fraction(2 * tail, 2**n)))


def bootstrap_p(differences: Matrix) -> float:
    """Two-sided p of "no difference" from resampled differences; never below what so many draws can show."""
    n = len(differences)
    below, above = int((differences <= 0).sum()), int((differences >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (n + 1))


def tested(one: Matrix, other: Matrix, changes: Matrix, *, right_or_wrong: bool) -> tuple[float, str]:
    """The p of "no difference" between two models' scores on the same examples, and by which test it was found.

    `changes` are resampled differences; McNemar's exact test needs none, and takes scores that are all 0 or 1.
    """
    if right_or_wrong:
        return mcnemar((one == 1.0).tolist(), (other == 1.0).tolist()), "exact McNemar"
    # Where n scores differ, even all of them the same way, chance alone does that in 2 of 2ⁿ cases.
    differing = int((one != other).sum())
    return max(bootstrap_p(changes), 2.0 ** (1 - differing)) if differing else 1.0, "paired bootstrap"


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's, with equals sharing their mean rank; None where one of the two does not vary."""
    x, y = _ranks(one), _ranks(other)
    if x.std() == 0 or y.std() == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: Sequence[float]) -> Matrix:
    given = np.array(values, dtype=np.float64)
    ranks = np.empty(len(given))
    ranks[np.argsort(given, kind="stable")] = np.arange(len(given), dtype=np.float64)
    for value in np.unique(given):
        same = given == value
        ranks[same] = ranks[same].mean()
    return ranks


def holm(probabilities: Sequence[float]) -> list[float]:
    """The p values adjusted for their number by Holm's method, in the order given."""
    order = sorted(range(len(probabilities)), key=probabilities.__getitem__)
    adjusted, highest = [0.0] * len(probabilities), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * probabilities[index]))
        adjusted[index] = highest
    return adjusted


def _resampled_means(scores: Matrix, seed: int, resamples: int = _RESAMPLES) -> Matrix:
    """Means of `scores` (models × examples) over examples drawn with replacement: resamples × models."""
    n = scores.shape[1]
    drawn = _kept_draws(seed, n, resamples) if n * resamples <= _KEPT_CELLS else _draws(seed, n, resamples)
    return np.concatenate([counts @ scores.T / n for counts in drawn])


@lru_cache(maxsize=4)
def _kept_draws(seed: int, n: int, resamples: int) -> tuple[npt.NDArray[np.uint16], ...]:
    """The same draws for every model that is asked the same number of questions: most of a bootstrap's time."""
    return tuple(counts.astype(np.uint16) for counts in _draws(seed, n, resamples))


def _draws(seed: int, n: int, resamples: int) -> Iterator[npt.NDArray[np.int64]]:
    """How often each of `n` examples is drawn: resamples × n, in parts."""
    rng = np.random.default_rng(seed)
    chances, at_once = np.full(n, 1 / n), max(1, _CELLS // n)
    for start in range(0, resamples, at_once):
        yield rng.multinomial(n, chances, size=min(at_once, resamples - start))


def central(values: Matrix) -> Interval:
    """The middle 95 % of resampled values."""
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def families_drawn(rng: np.random.Generator, number: int, resamples: int) -> Matrix:
    """What each of `number` families weighs in each resample (resamples × number, rows add up to 1)."""
    drawn: Matrix = rng.multinomial(number, np.full(number, 1 / number), size=resamples) / number
    return drawn
