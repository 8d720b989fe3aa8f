"""Where points of a line are set to begin with, and how many are too many."""

from __future__ import annotations

import pytest

from tuneport.diagnosis.points import MOST, POINTS, REFINE, Points, how_many, points_of
from tuneport.errors import UsageError


def test_points_stand_at_equal_distances_and_go_on_beyond_the_second_model() -> None:
    assert points_of(None, None, None, None) == Points((0, 0.25, 0.5, 0.75, 1), REFINE)
    assert points_of(3, 0, None, 1.75) == Points((0, 0.5, 1, 1.5, 1.75), 0)
    assert points_of(None, None, [0.5, 0.5, 2], None) == Points((0, 0.5, 1, 2), 0)


@pytest.mark.parametrize("points", [None, 3, 5, 7, 11])
@pytest.mark.parametrize("beyond", [None, 1.1, 1.25, 1.5, 2, 9.75])
def test_the_count_is_that_of_the_points(points: int | None, beyond: float | None) -> None:
    found = points_of(points, 2, None, beyond)
    assert how_many(points, 2, beyond) == len(found.alphas) + found.refine
    assert how_many(points, None, beyond) == len(found.alphas) + REFINE


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ((3, None, None, 1e9), r"points 3, refine 4, beyond 1e\+09: more than 1,000 points on one line"),
        ((None, None, None, 1e308), "more than 1,000 points"),
        ((10**400, None, None, 1.5), "more than 1,000 points"),
        ((MOST, 1, None, None), "points 1000, refine 1: more than"),
        ((None, MOST, None, None), f"points {POINTS}, refine 1000: more than"),
        ((None, None, [place / 2000 for place in range(MOST)], None), r"1,001 numbers, refine 0: more than"),
        ((None, MOST, [0.5], None), r"alphas with 0 and 1 3 numbers, refine 1000: more than"),
    ],
)
def test_more_points_than_anybody_measures_are_refused_in_words(choices: tuple[object, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        points_of(*choices)  # type: ignore[arg-type] # a row of the table above
    assert len(points_of(MOST, 0, None, None).alphas) == MOST
