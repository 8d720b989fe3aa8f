"""Pieces of some matrices of base, tuned and target, read before the first byte is written.

A plan says which elements meet; here a few of them are read, from files or from the Hub by ranges, and summed as the whole
pass sums all of them. Which ones depends on names and sizes alone, so a sample is the same wherever the weights lie. Memory
and bytes are bounded by the numbers below, whatever the model's size: 8 MiB are read at most of each input, and from the Hub each byte once.
"""

from __future__ import annotations

import contextlib
import math
import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.reading import TensorReader, Workspace, reading
from tuneport.comparison.model_roles import Figures, MatrixSums, figures, is_matrix, margin, of_size, sums_of, together
from tuneport.engine.checks.kept_sample import met_again, pieces_of, spread
from tuneport.engine.pieces import DifferenceRecipe, Readers, Source, Sum, Term, meet
from tuneport.engine.plan import OutputTask, Plan
from tuneport.pairing.rows import Ids, Runs

# Matrices that are looked at, spread over the model, and pieces of each, spread over the matrix.
MATRICES = 32
PIECES = 2
ELEMENTS = 16384
# Where rows are matched by token a piece ends with the neighbours that stay together: there are more of them, and shorter.
RUNS = 8
# Requests to the Hub that are under way at a time.
REQUESTS = 8

Span = tuple[int, int]  # elements from … to before …


@dataclass(frozen=True)
class Sample:
    """What was looked at. ``complete``: all elements of all matrices that count, so nothing is uncertain."""

    matrices: tuple[MatrixSums, ...]
    complete: bool

    @property
    def figures(self) -> Figures:
        """What the sample says of the roles."""
        return figures(self.matrices)

    def error(self, name: str) -> float:
        """How far a figure of the sample may be from that of all elements."""
        return 0.0 if self.complete else margin(self.matrices, name)

    @property
    def unchanged(self) -> bool | None:
        """Whether tuned is the base, as far as was seen."""
        known = [m.diff for m in self.matrices if not math.isnan(m.diff)]
        return not any(known) if known else None

    @property
    def same(self) -> bool | None:
        """Whether the target is the base, as far as was seen."""
        known = [m.drift for m in self.matrices if not math.isnan(m.drift)]
        return not any(known) if known else None

    def record(self) -> dict[str, Any]:
        """The sample as it stands in a manifest and in a plan."""
        errors = {
            name: round(self.error(name), 4) for name, value in self.figures.cosines().items() if value is not None
        }
        return {**self.figures.record(), "complete": self.complete, "error": errors}


@dataclass(frozen=True)
class Opened:
    """Readers by role; ``workers``: how many may read at a time, several where each range is a request."""

    readers: Readers
    workers: int


def take_samples(plan: Plan, opened: Opened) -> dict[str, Sample]:
    """Samples of the matrices that a plan adds to, or whose difference it takes, by the role that brings the difference."""
    if plan.operation == "apply":
        found = {role: met_again(plan, role, opened.readers) for role in plan.base_samples}
        return {role: Sample(tuple(matrices), whole) for role, (matrices, whole) in found.items() if matrices}
    return {"tuned": _take(plan, opened)}


def _take(plan: Plan, opened: Opened) -> Sample:
    matched, chosen = draw(plan.tasks, _candidate)
    ranges = [(candidate, span) for candidate, spans in chosen for span in spans]

    def read(one: tuple[_Candidate, Span]) -> MatrixSums | None:
        return _sums(*one, opened.readers)

    with ThreadPoolExecutor(opened.workers) as pool:
        parts = list(zip(ranges, pool.map(read, ranges), strict=True))
    matrices = [together([part for (of, _), part in parts if of is one and part is not None]) for one, _ in chosen]
    kept = tuple(matrix for matrix in matrices if matrix.elements)
    return Sample(kept, sum(m.elements for m in kept) == matched)


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
        if self.runs is None:
            return self.elements
        return int(_matched(self.runs, self.elements)[1].sum()) * self.runs.columns


M = TypeVar("M", bound=SampledMatrix)


def draw(tasks: Sequence[OutputTask], seen: Callable[[OutputTask], M | None]) -> tuple[int, list[tuple[M, list[Span]]]]:
    """Of the tasks that are ``seen`` as matrices and large enough to count: the elements that meet in all of them, and a few of
    these matrices, each with the elements to look at, the same on every call."""
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
    places = spread(sorted(large, key=names.__getitem__), MATRICES, drawn)
    chosen = [one for place in places if (one := seen(tasks[numbers[place]])) is not None]
    return sum(matched[place] for place in large), [(one, list(_spans(one, drawn))) for one in chosen]


@dataclass(frozen=True, eq=False)
class _Candidate(SampledMatrix):
    """``recipe`` reads it; ``has_diff``: what it calls the difference is one."""

    recipe: Sum | DifferenceRecipe
    has_diff: bool = True


def _candidate(task: OutputTask) -> _Candidate | None:
    """The task as something to look at: its own recipe, or base beside target where an adapter makes the difference."""
    recipe, pair = task.recipe, task.line.pair
    if (
        pair is None
        or not is_matrix(task.slot.dtype, task.slot.shape)
        or not isinstance(recipe, Sum | DifferenceRecipe)
    ):
        return None
    if pair.change is not None:
        if not isinstance(recipe, Sum) or task.line.by_token or pair.change.rows is not None:
            return None
        base = Source("base", pair.base)
        return _Candidate(task, None, replace(recipe, terms=(Term(base, base, 1.0),)), has_diff=False)
    terms = [term for term in recipe.terms if term.scale and term.plus is not None and term.minus is not None]
    return _Candidate(task, terms[0].runs, recipe) if len(recipe.terms) == len(terms) == 1 else None


def _spans(one: SampledMatrix, drawn: random.Random) -> Iterator[Span]:
    """Which elements of a matrix are looked at: all of a small one, else pieces spread over it."""
    if one.runs is not None:
        yield from _matched_spans(one.runs, one.elements, drawn)
    else:
        yield from pieces_of(one.elements, PIECES, ELEMENTS, drawn)


def _matched_spans(runs: Runs, elements: int, drawn: random.Random) -> Iterator[Span]:
    """Pieces within runs of rows that all three have: all of them, or some that are drawn by their rows."""
    starts, rows = _matched(runs, elements)
    ends = np.cumsum(rows)
    if int(rows.sum()) * runs.columns <= PIECES * ELEMENTS:
        for start, count in zip(starts.tolist(), rows.tolist(), strict=True):
            yield start * runs.columns, (start + count) * runs.columns
        return
    for _ in range(RUNS):
        row = drawn.randrange(int(ends[-1]))
        place = int(np.searchsorted(ends, row, side="right"))
        left = int(ends[place]) - row
        start = (int(starts[place]) + int(rows[place]) - left) * runs.columns
        yield start, min(start + PIECES * ELEMENTS // RUNS, start + left * runs.columns)


def _matched(runs: Runs, elements: int) -> tuple[Ids, Ids]:
    """The runs of rows that all three have: the first row of each, and how many."""
    rows = np.diff(np.append(runs.starts, elements // runs.columns))
    matched = (runs.partners[:, :3] >= 0).all(axis=1)
    return runs.starts[matched], rows[matched]


def _sums(candidate: _Candidate, span: Span, readers: Readers) -> MatrixSums | None:
    met = meet(candidate.recipe, *span, readers, Workspace())
    if met is None or met.base is None:
        return None
    return sums_of(met.base, met.diff if candidate.has_diff else None, met.target)


@contextlib.contextmanager
def opened_for_samples(checkpoints: Sequence[Checkpoint]) -> Iterator[Opened]:
    """Readers of these, from disk or from the Hub by ranges."""
    afar = [checkpoint for checkpoint in checkpoints if checkpoint.to_fetch]
    with contextlib.ExitStack() as stack:
        readers: dict[str, TensorReader] = {}
        for checkpoint in checkpoints:
            if checkpoint in afar:
                from tuneport.checkpoint.hub import RangeReader

                readers[checkpoint.role] = RangeReader(checkpoint)
            else:
                readers[checkpoint.role] = stack.enter_context(reading(checkpoint))
        yield Opened(readers, REQUESTS if afar else 1)
