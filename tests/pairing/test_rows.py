"""Runs of rows say, for every element, the same as the four arrays they were made of."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tuneport.pairing.rows import Runs, runs_of

rows = st.lists(st.tuples(*[st.integers(-1, 6)] * 4), min_size=1, max_size=12)
stretches = st.lists(
    st.tuples(st.integers(-1, 5), st.integers(-1, 5), st.integers(-1, 5), st.integers(-1, 5), st.integers(1, 5)),
    min_size=1,
    max_size=4,
)


def made(table: list[tuple[int, int, int, int]], columns: int) -> tuple[Runs, np.ndarray]:
    array = np.array(table, np.int64).reshape(-1, 4)
    return runs_of(array[:, 0], array[:, 1], array[:, 2], array[:, 3], columns), array


def stretched(parts: list[tuple[int, int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Rows in runs of neighbours, so that there is something to hold together."""
    found = []
    for *starts, count in parts:
        for step in range(count):
            found.append(tuple(start if start < 0 else start + step for start in starts))
    return found  # type: ignore[return-value]


@given(st.one_of(rows, stretches.map(stretched)), st.integers(1, 3))
def test_every_element_meets_the_partner_of_its_row(table: list[tuple[int, int, int, int]], columns: int) -> None:
    runs, array = made(table, columns)
    for element in range(len(table) * columns):
        row, column = divmod(element, columns)
        for place, look in enumerate((runs.target, runs.base, runs.tuned, runs.raw)):
            partner = int(array[row, place])
            assert look(element) == (-1 if partner < 0 else partner * columns + column)


@given(st.one_of(rows, stretches.map(stretched)), st.integers(1, 3), st.data())
def test_between_cuts_all_partners_lie_at_the_same_distance(
    table: list[tuple[int, int, int, int]], columns: int, data: st.DataObject
) -> None:
    runs, _ = made(table, columns)
    count = len(table) * columns
    start = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(start + 1, count))
    cuts = [start, *runs.cuts(start, stop), stop]
    assert cuts == sorted(set(cuts))
    for begin, end in itertools.pairwise(cuts):
        for look in (runs.target, runs.base, runs.tuned, runs.raw):
            first = look(begin)
            assert [look(element) for element in range(begin, end)] == [
                -1 if first < 0 else first + step for step in range(end - begin)
            ]


def test_an_unchanged_vocabulary_is_one_run() -> None:
    same = [(row, row, row, -1) for row in range(1000)]
    assert made(same, 4)[0].starts.tolist() == [0]


def test_a_vocabulary_with_tokens_put_in_front_is_two_runs() -> None:
    shifted = [(row, -1, -1, -1) for row in range(3)] + [(row, row - 3, row - 3, -1) for row in range(3, 50)]
    assert made(shifted, 4)[0].starts.tolist() == [0, 3]
