"""Where a curve is measured next, and its barrier, against the definitions written out in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from tuneport.diagnosis.bend import FINEST, Barrier, barrier, halves, next_point, rises, token_mean

CURVES = some.dictionaries(
    some.floats(0, 1, allow_subnormal=False).map(lambda x: round(x, 3)),
    some.floats(0, 20, allow_subnormal=False),
    min_size=1,
    max_size=8,
).map(lambda inner: {**inner, 0.0: inner.get(0.0, 1.0), 1.0: inner.get(1.0, 2.0), 0.5: inner.get(0.5, 3.0)})


@given(CURVES, some.integers(0, 5))
def test_a_new_point_lies_between_two_neighbours_and_close_to_neither(curve: dict[float, float], turn: int) -> None:
    point = next_point(curve, turn)
    if point is not None:
        assert 0 < point < 1
        assert min(abs(point - other) for other in curve) >= FINEST * 0.999


@given(some.floats(-5, 5), some.floats(-5, 5), some.lists(some.floats(0, 1), max_size=6))
def test_a_straight_curve_has_no_rise_and_is_not_looked_at_again(
    start: float, slope: float, inner: list[float]
) -> None:
    inner = [round(a, 2) for a in inner]
    curve = {a: start + a * slope for a in (0.0, *inner, 1.0)}
    assert all(abs(rise) < 1e-9 for rise in rises(curve).values())
    assert next_point(curve, 0) is None


def test_points_gather_at_a_sharp_peak() -> None:
    def loss(alpha: float) -> float:
        return math.exp(-(((alpha - 0.7) / 0.05) ** 2))

    curve = {place / 4: loss(place / 4) for place in range(5)}
    for turn in range(8):
        point = next_point(curve, turn)
        assert point is not None
        curve[point] = loss(point)
    assert max(rises(curve).values()) > 0.9
    assert sum(0.55 < point < 0.85 for point in curve) >= 6


@given(some.lists(some.sampled_from("abc"), min_size=4, max_size=40), some.integers(0, 3))
def test_halves_are_halves_of_every_task(tasks: list[str], seed: int) -> None:
    locating = halves(tasks, seed)
    assert 0 <= 2 * int(locating.sum()) - len(tasks) <= 1
    for name in set(tasks):
        here = [bool(half) for half, task in zip(locating, tasks, strict=True) if task == name]
        assert abs(2 * sum(here) - len(here)) <= 1
    assert (halves(tasks, seed) == locating).all()


def test_a_barrier_is_located_on_one_half_and_measured_on_the_other() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 9, 60).astype(float)
    losses = {alpha: rng.gamma(2, 1, 60) + 4 * alpha * (1 - alpha) for alpha in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)}
    locating = halves(["t"] * 60, 3)
    found = barrier(losses, tokens, locating, 0)
    assert found is not None

    def rise(alpha: float, part: list[int]) -> float:
        def mean(a: float) -> float:
            return sum(losses[a][i] * tokens[i] for i in part) / sum(tokens[i] for i in part)

        return mean(alpha) - (1 - alpha) * mean(0.0) - alpha * mean(1.0)

    ours, others = [i for i in range(60) if locating[i]], [i for i in range(60) if not locating[i]]
    assert found.at == max((0.25, 0.5, 0.75), key=lambda alpha: rise(alpha, ours))
    assert found.value == pytest.approx(rise(found.at, others))
    slow = sorted(rise(found.at, [others[i] for i in rng.integers(0, 30, 30)]) for _ in range(4000))
    assert found.interval == pytest.approx((slow[100], slow[3900]), abs=0.06)


def test_noise_alone_is_no_barrier() -> None:
    # The highest of nine noisy rises is well above zero; measured on other examples it is not.
    values = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        losses = {place / 10: rng.normal(3, 1, 40) for place in range(11)}
        found = barrier(losses, np.ones(40), halves(["t"] * 40, seed), seed)
        assert found is not None
        values.append(found.value)
    assert abs(sum(values) / len(values)) < 0.08
    highest = [max(rises({a: token_mean(losses[a], np.ones(40)) for a in losses}).values())]
    assert highest[0] > 0.1


def test_without_a_point_between_there_is_no_barrier() -> None:
    losses = {0.0: np.ones(6), 1.0: np.ones(6), 1.5: np.ones(6)}
    assert barrier(losses, np.ones(6), halves(["t"] * 6, 0), 0) is None


@pytest.mark.parametrize(
    ("interval", "threshold", "verdict"),
    [
        ((0.01, 0.04), 0.05, True),
        ((0.06, 0.2), 0.05, False),
        ((0.01, 0.2), 0.05, None),
        ((-0.2, -0.1), 0.0, True),
        ((0.01, 0.04), None, None),
    ],
)
def test_connected_is_said_only_where_the_whole_interval_says_so(
    interval: tuple[float, float], threshold: float | None, verdict: bool | None
) -> None:
    assert Barrier(sum(interval) / 2, interval, 0.5).connected(threshold) is verdict
