"""Estimates over families, against formulas and a slow bootstrap that is written out."""

import numpy as np
import pytest

from experiments.claims.over_families import does_no_harm, over_families
from tuneport.statistics import Estimate, Matrix


def change(means: Matrix) -> Matrix:
    """The second model's mean score minus the first one's."""
    return means[:, 1] - means[:, 0]


def families(effects: list[float], n: int, seed: int = 0) -> list[Matrix]:
    """For each family a model before and a model after, right at 0.3 and 0.3 + effect."""
    rng = np.random.default_rng(seed)
    return [np.array([rng.random(n) < 0.3, rng.random(n) < 0.3 + effect], dtype=np.float64) for effect in effects]


def test_the_estimate_is_the_mean_over_families_whatever_their_number_of_examples() -> None:
    scores = [np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])]
    estimate, _ = over_families(scores, change)
    assert estimate.value == pytest.approx((1.0 + 0.5) / 2)


def test_families_that_differ_widen_the_interval_beyond_that_of_their_examples() -> None:
    alike, _ = over_families(families([0.3] * 8, 400), change)
    unlike, _ = over_families(families([0.0, 0.6] * 4, 400), change)
    width_alike = alike.interval[1] - alike.interval[0]
    assert unlike.interval[1] - unlike.interval[0] > 3 * width_alike
    assert unlike.interval[0] < 0.3 < unlike.interval[1]


def test_the_error_is_that_of_the_families_and_of_the_examples_they_share() -> None:
    rng = np.random.default_rng(1)
    hard = rng.normal(size=200)  # some examples are hard for all families
    good = rng.normal(size=12)
    scores = [(hard + of_family)[np.newaxis, :] for of_family in good]
    estimate, _ = over_families(scores, lambda means: means[:, 0])
    expected = np.sqrt(hard.var() / 200 + good.var() / 12)
    assert estimate.stderr == pytest.approx(expected, rel=0.05)


def test_a_slow_bootstrap_that_is_written_out_gives_the_same_interval() -> None:
    scores = families([0.1, 0.3, 0.5], 60, seed=4)
    rng = np.random.default_rng(9)
    draws = []
    for _ in range(3000):
        chosen, examples = rng.integers(3, size=3), rng.integers(60, size=60)
        draws.append(np.mean([scores[f][1, examples].mean() - scores[f][0, examples].mean() for f in chosen]))
    low, high = np.quantile(draws, (0.025, 0.975))
    estimate, _ = over_families(scores, change)
    assert estimate.interval == pytest.approx((low, high), abs=0.02)


def test_an_effect_in_every_family_is_told_from_none() -> None:
    _, clear = over_families(families([0.4] * 6, 200), change)
    _, nothing = over_families(families([0.0] * 6, 200), change)
    assert clear < 0.001 and nothing > 0.05


def test_one_family_is_judged_by_its_examples_alone() -> None:
    scores = families([0.4], 100)
    estimate, _ = over_families(scores, change)
    changes = scores[0][1] - scores[0][0]
    assert estimate.stderr == pytest.approx(changes.std() / 10, rel=0.05)


def test_the_same_seed_gives_the_same_estimate() -> None:
    scores = families([0.2, 0.3], 50)
    assert over_families(scores, change) == over_families(scores, change)


def test_no_harm_is_a_lower_limit_within_three_points_not_a_test_that_found_nothing() -> None:
    assert does_no_harm(Estimate(0.0, (-0.02, 0.02)))
    assert not does_no_harm(Estimate(0.0, (-0.10, 0.10)))


def test_families_without_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="example"):
        over_families([], change)
    with pytest.raises(ValueError, match="example"):
        over_families([np.zeros((2, 0))], change)
