"""Intervals and recovered gain against values worked out by hand or by brute force."""

import numpy as np
import pytest

from tuneport import statistics


def flags(right: int, n: int) -> list[bool]:
    return [index < right for index in range(n)]


def test_wilsons_interval_is_the_textbooks() -> None:
    # 8 of 10: the example of Wilson's interval in many textbooks
    assert statistics.accuracy(flags(8, 10)).interval == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert statistics.accuracy(flags(0, 20)).interval == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert statistics.accuracy(flags(20, 20)).interval[1] == 1.0


def test_a_difference_of_paired_answers_has_the_paired_error() -> None:
    rng = np.random.default_rng(0)
    before = rng.random(400) < 0.3
    after = before | (rng.random(400) < 0.2)
    found = statistics.difference(after.tolist(), before.tolist())
    changes = after.astype(float) - before.astype(float)
    half = 1.96 * changes.std() / 20
    assert found.value == pytest.approx(changes.mean())
    assert found.interval == pytest.approx((changes.mean() - half, changes.mean() + half), abs=0.005)


def test_recovered_gain_is_the_share_of_the_gain() -> None:
    found = statistics.recovered_gain(flags(0, 100), flags(60, 100), flags(80, 100))
    assert found is not None
    assert found.value == pytest.approx(0.75)
    assert found.interval[0] < 0.75 < found.interval[1] < 1.0


def test_recovered_gain_is_not_defined_where_the_gain_may_be_nothing() -> None:
    assert statistics.recovered_gain(flags(10, 100), flags(60, 100), flags(10, 100)) is None
    other = [not flag for flag in flags(49, 100)]
    assert statistics.recovered_gain(flags(50, 100), flags(60, 100), other) is None


def test_intervals_repeat_with_the_same_seed() -> None:
    arguments = flags(3, 50), flags(20, 50), flags(30, 50)
    assert statistics.recovered_gain(*arguments) == statistics.recovered_gain(*arguments)


def test_what_stayed_of_a_change_in_loss_is_its_share() -> None:
    found = statistics.share_of_change([4.0, 4.2], [3.8, 4.0], [3.6, 3.8])
    assert found.value == pytest.approx(0.5)
    assert found.interval == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("n", [1, 2, 3, 40, 1020])
def test_an_interval_of_nothing_or_everything_right_begins_or_ends_there(n: int) -> None:
    low, high = statistics.accuracy([False] * n).interval
    assert low == 0.0 < high < 1.0
    low, high = statistics.accuracy([True] * n).interval
    assert 0.0 < low < high == 1.0
