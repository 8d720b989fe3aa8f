"""The shape of a generated answer: its length, whether it ended, how much of it repeats."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tuneport.scoring.answers.answer_shapes import AnswerShape, shape_of


def test_what_follows_the_first_end_is_no_part_of_an_answer() -> None:
    assert shape_of([5, 6, 2, 0, 0, 2], [2, 9]) == AnswerShape(2, True, 0.0)
    assert shape_of([5, 6, 9], [2, 9]) == AnswerShape(2, True, 0.0)
    assert shape_of([5, 6, 7], [2]) == AnswerShape(3, False, 0.0)
    assert shape_of([2], [2]) == AnswerShape(0, True, 0.0)


def test_repeated_runs_of_four_are_counted() -> None:
    assert shape_of([1, 3, 4, 5] * 3, [2]).repeated == 5 / 9
    assert shape_of([1] * 10, [2]).repeated == 1 - 1 / 7


@given(st.lists(st.integers(0, 3), max_size=20))
def test_shares_are_shares(tokens: list[int]) -> None:
    shape = shape_of(tokens, [0])
    assert 0 <= shape.repeated < 1
    assert shape.ended == (0 in tokens)
