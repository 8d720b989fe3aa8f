"""Choose the matrices and elements of a plan that are sampled before anything is written.

The choice depends only on names and sizes, so every call draws the same sample, wherever the weights are.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from tuneport.comparison.model_roles import of_size
from tuneport.engine.plan import OutputTask
from tuneport.pairing.rows import Runs, matched, matched_rows

# Matrices that are looked at, spread over the model, and pieces of each, spread over the matrix.
MATRICES = 32
PIECES = 2
ELEMENTS = 16384
# Where rows are matched by token a piece ends with the neighbours that stay together: there are more of them, and shorter.
RUNS = 8

Span = tuple[int, int]  # elements from … to before …


@dataclass(frozen=True, eq=False)
class SampledMatrix:
    """A matrix that could be looked at. ``runs``: which of its rows meet, where they are matched by token."""

    task: OutputTask
    runs: Runs | None

    @property
    def elements(self) -> int:
        """How many it has."""
        return self.task.slot.elements

    @property
    def matched(self) -> int:
        """Elements of rows that all three have."""
        return matched(self.runs, self.elements)


M = TypeVar("M", bound=SampledMatrix)
T = TypeVar("T")


def draw(
    tasks: Sequence[OutputTask],
    seen: Callable[[OutputTask], M | None],
    pieces: int | None = None,
    size: int | None = None,
) -> tuple[int, list[tuple[M, list[Span]]]]:
    """Of the tasks that are ``seen`` as matrices and large enough to count: the elements that meet in all of them, and a few of
    these matrices, each with the elements to look at, in so many ``pieces`` of that ``size``."""
    pieces, size = pieces or PIECES, size or ELEMENTS
    numbers, elements, matched, names = array("Q"), array("Q"), array("Q"), list[str]()
    for number, task in enumerate(tasks):
        one = seen(task)
        if one is not None:
            numbers.append(number)
            elements.append(one.elements)
            matched.append(one.matched)
            names.append(task.slot.name)
    large = [place for place, counts in enumerate(of_size(elements)) if counts]
    drawn = random.Random(0)
    places = _spread(sorted(large, key=names.__getitem__), MATRICES, drawn)
    chosen = [one for place in places if (one := seen(tasks[numbers[place]])) is not None]
    return sum(matched[place] for place in large), [(one, list(_spans(one, pieces, size, drawn))) for one in chosen]


def _spans(one: SampledMatrix, pieces: int, size: int, drawn: random.Random) -> Iterator[Span]:
    """Which elements of a matrix are looked at: all of a small one, else pieces spread over it."""
    if one.runs is not None:
        yield from _matched_spans(one.runs, one.elements, pieces * size, drawn)
    else:
        yield from _pieces_of(one.elements, pieces, size, drawn)


def _matched_spans(runs: Runs, elements: int, most: int, drawn: random.Random) -> Iterator[Span]:
    """Pieces within runs of rows that all three have: all of them, or some that are drawn by their rows."""
    starts, rows = matched_rows(runs, elements)
    ends = np.cumsum(rows)
    if int(rows.sum()) * runs.columns <= most:
        for start, count in zip(starts.tolist(), rows.tolist(), strict=True):
            yield start * runs.columns, (start + count) * runs.columns
        return
    for _ in range(RUNS):
        row = drawn.randrange(int(ends[-1]))
        place = int(np.searchsorted(ends, row, side="right"))
        left = int(ends[place]) - row
        start = (int(starts[place]) + int(rows[place]) - left) * runs.columns
        yield start, min(start + most // RUNS, start + left * runs.columns)


def _pieces_of(elements: int, pieces: int, size: int, drawn: random.Random) -> list[tuple[int, int]]:
    """So many pieces of a matrix, one in each part of it; all of a small one."""
    if elements <= pieces * size:
        return [(0, elements)]
    edges = [round(number * elements / pieces) for number in range(pieces + 1)]
    starts = [drawn.randrange(edges[i], edges[i + 1] - size + 1) for i in range(pieces)]
    return [(start, start + size) for start in starts]


def _spread(ordered: Sequence[T], most: int, drawn: random.Random) -> list[T]:
    """At most so many, one of each of as many stretches: layers follow each other where the order is that of names."""
    if len(ordered) <= most:
        return list(ordered)
    edges = [round(number * len(ordered) / most) for number in range(most + 1)]
    return [ordered[drawn.randrange(edges[i], edges[i + 1])] for i in range(most)]
