"""Peaks and steps to match, read off curves that can be checked by eye."""

from __future__ import annotations

from tuneport.results.curves import gains, peak, steps_to_match

GROWN, LOSS = [(0, 0.1), (50, 0.75), (100, 0.7)], [(0, 3.0), (50, 0.9), (100, 1.2)]


def test_the_peak_is_the_first_best_value() -> None:
    assert peak(GROWN, True) == 1 and peak(LOSS, False) == 1 and peak([(0, 0.5), (5, 0.5)], True) == 0
    assert peak([], True) is None


def test_what_ends_no_better_than_it_began_gains_nothing() -> None:
    assert gains(GROWN, True) and gains(LOSS, False)
    assert not gains([(0, 0.2), (50, 0.9), (100, 0.2)], True) and not gains([], True)


def test_a_level_is_matched_at_the_first_point_from_which_on_all_are_as_good() -> None:
    assert steps_to_match(GROWN, 0.7, True) == 50 and steps_to_match(GROWN, 0.05, True) == 0
    assert steps_to_match(GROWN, 0.8, True) is None and steps_to_match(LOSS, 1.2, False) == 50


def test_a_curve_that_touches_a_level_and_falls_below_it_has_not_matched_it() -> None:
    assert steps_to_match([(0, 0.9), (50, 0.4), (100, 0.8)], 0.8, True) == 100
    assert steps_to_match([(0, 0.1), (50, 0.9), (100, 0.7)], 0.8, True) is None
    assert (
        steps_to_match([(0, 0.5), (50, 2.0), (100, 1.0)], 1.0, False) == 100 and steps_to_match([], 1.0, True) is None
    )
