"""Claims judged over model families: a crossed bootstrap over families and examples.

A family is one pretraining run. Its models share whatever that run happened to be, so a claim about transfer is a claim
over families, not over the examples of one of them. Pure functions: scores in, estimates out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tuneport.evaluate.measures import Estimate, Matrix, bootstrap_p, central

RESAMPLES = 4000
NO_HARM = 0.03  # "no harm" is non-inferiority within 3 points, not a test that found nothing


def over_families(
    scores: Sequence[Matrix], statistic: Callable[[Matrix], Matrix], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[Estimate, float]:
    """What `statistic` makes of the models' scores, with its 95 % interval and the p of "it is 0".

    `scores` holds for each family a matrix (models × examples) with models in one order. `statistic` takes mean scores
    (draws × models, a family counting as much as another) and gives a number a draw. Families are drawn with replacement,
    and so are examples: the same draw of examples for every family where all have as many (they are then taken to be the
    same examples in the same order), else one for each. With one family only its examples are drawn, and the estimate is
    about that family alone. Raises `ValueError` where there is no family, or one without examples.
    """
    if not scores or any(of_family.ndim != 2 or of_family.shape[1] == 0 for of_family in scores):
        raise ValueError("each family needs a matrix of scores, models by examples, with at least one example")
    drawn = resampled_means(scores, seed=seed, resamples=resamples)
    value = statistic(np.mean([of_family.mean(axis=1) for of_family in scores], axis=0)[np.newaxis, :])
    draws = statistic(drawn)
    draws = draws[np.isfinite(draws)]
    return Estimate(float(value[0]), central(draws), float(draws.std(ddof=1))), bootstrap_p(draws)


def resampled_means(scores: Sequence[Matrix], *, seed: int = 0, resamples: int = RESAMPLES) -> Matrix:
    """Resampled mean scores, resamples × models."""
    rng, sizes = np.random.default_rng(seed), {of_family.shape[1] for of_family in scores}
    weights = families_drawn(rng, len(scores), resamples)
    shared = _counts(rng, sizes.pop(), resamples) if len(sizes) == 1 else None
    means = np.zeros((resamples, scores[0].shape[0]))
    for weight, of_family in zip(weights.T, scores, strict=True):
        n = of_family.shape[1]
        counts = _counts(rng, n, resamples) if shared is None else shared
        means += weight[:, np.newaxis] * (counts @ of_family.T / n)
    return means


def families_drawn(rng: np.random.Generator, number: int, resamples: int) -> Matrix:
    """What each of `number` families weighs in each resample (resamples × number, rows add up to 1)."""
    drawn: Matrix = rng.multinomial(number, np.full(number, 1 / number), size=resamples) / number
    return drawn


def difference(after: int, before: int) -> Callable[[Matrix], Matrix]:
    """The statistic "mean score of one model minus that of another", by their places in the matrix."""
    return lambda means: means[:, after] - means[:, before]


def does_no_harm(change: Estimate, margin: float = NO_HARM) -> bool:
    """Whether a difference (after − before) is clear of a loss of `margin`."""
    return change.interval[0] > -margin


def _counts(rng: np.random.Generator, n: int, resamples: int) -> Matrix:
    """How often each example is drawn, in each resample."""
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
