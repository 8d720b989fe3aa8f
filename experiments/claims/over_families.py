"""Statistics over families: a crossed bootstrap, in which families and the examples they share are drawn anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tuneport.statistics import NO_HARM, Estimate, Matrix, bootstrap_p, central, families_drawn

_RESAMPLES = 4000


def over_families(
    scores: Sequence[Matrix],
    statistic: Callable[[Matrix], Matrix],
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
    drawn = _means_over_families(scores)
    value = statistic(np.mean([of_family.mean(axis=1) for of_family in scores], axis=0)[np.newaxis, :])
    draws = statistic(drawn)
    draws = draws[np.isfinite(draws)]
    return Estimate(float(value[0]), central(draws), float(draws.std(ddof=1))), bootstrap_p(draws)


def _means_over_families(scores: Sequence[Matrix]) -> Matrix:
    """Resampled mean scores, resamples × models."""
    rng, sizes = np.random.default_rng(0), {of_family.shape[1] for of_family in scores}
    weights = families_drawn(rng, len(scores), _RESAMPLES)
    shared = _times_drawn(rng, sizes.pop()) if len(sizes) == 1 else None
    means = np.zeros((_RESAMPLES, scores[0].shape[0]))
    for weight, of_family in zip(weights.T, scores, strict=True):
        n = of_family.shape[1]
        counts = _times_drawn(rng, n) if shared is None else shared
        means += weight[:, np.newaxis] * (counts @ of_family.T / n)
    return means


def does_no_harm(change: Estimate) -> bool:
    """Whether a difference (after − before) is clear of a loss of `NO_HARM`."""
    return change.interval[0] > -NO_HARM


def _times_drawn(rng: np.random.Generator, n: int) -> Matrix:
    """How often each example is drawn, in each resample."""
    return rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES).astype(np.float64)
