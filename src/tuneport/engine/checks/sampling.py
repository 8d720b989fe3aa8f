"""Read pieces of some matrices of base, tuned and target before anything is written.

The plan says which elements belong together; a few of them are read, from files or by range requests from the Hub, and
summed like all elements in the full pass. Memory and bytes are bounded by the numbers in `drawn_matrices` for any size
of model: at most 8 MiB of each input are read, and each byte is downloaded from the Hub once.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.reading import TensorReader, Workspace, reading
from tuneport.comparison.model_roles import Figures, MatrixSums, figures, is_matrix, margin, sums_of, together
from tuneport.engine.checks.drawn_matrices import SampledMatrix, Span, draw
from tuneport.engine.checks.kept_sample import met_again
from tuneport.engine.pieces import DifferenceRecipe, Readers, Source, Sum, Term, meet
from tuneport.engine.plan import Added, OutputTask, Plan

# Requests to the Hub that are under way at a time.
REQUESTS = 8


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
        """The sample as written in a manifest and a plan."""
        errors = {
            name: round(self.error(name), 4) for name, value in self.figures.cosines().items() if value is not None
        }
        return {**asdict(self.figures), "complete": self.complete, "error": errors}


@dataclass(frozen=True)
class Opened:
    """Readers by role; ``workers``: how many may read at a time, several where each range is a request."""

    readers: Readers
    workers: int


def take_samples(plan: Plan, opened: Opened) -> dict[str, Sample]:
    """Samples of the matrices that a plan adds to, or whose difference it takes, by the role that brings the difference."""
    found = {}
    for one in plan.added:
        if one.base is not None:
            found[one.role] = _take(plan, one, opened)
            continue
        matrices, whole = met_again(plan, one, opened.readers)
        if matrices:
            found[one.role] = Sample(tuple(matrices), whole)
    return found


def _take(plan: Plan, one: Added, opened: Opened) -> Sample:
    matched, chosen = draw(plan.tasks, functools.partial(_candidate, plan=plan, one=one))
    ranges = [(candidate, span) for candidate, spans in chosen for span in spans]

    def read(one: tuple[_Candidate, Span]) -> MatrixSums | None:
        return _sums(*one, opened.readers)

    with ThreadPoolExecutor(opened.workers) as pool:
        parts = list(zip(ranges, pool.map(read, ranges), strict=True))
    matrices = [together([part for (of, _), part in parts if of is one and part is not None]) for one, _ in chosen]
    kept = tuple(matrix for matrix in matrices if matrix.elements)
    return Sample(kept, sum(m.elements for m in kept) == matched)


@dataclass(frozen=True, eq=False)
class _Candidate(SampledMatrix):
    """``recipe`` reads it; ``has_diff``: what it calls the difference is one."""

    recipe: Sum | DifferenceRecipe
    has_diff: bool = True


def _candidate(task: OutputTask, plan: Plan, one: Added) -> _Candidate | None:
    """The task as something to look at: its own recipe, or base beside target where an adapter makes the difference."""
    recipe, line = task.recipe, plan.line_of(task, one)
    pair = None if line is None else line.pair
    if (
        line is None
        or pair is None
        or not is_matrix(task.slot.dtype, task.slot.shape)
        or not isinstance(recipe, Sum | DifferenceRecipe)
    ):
        return None
    if pair.change is not None:
        if not isinstance(recipe, Sum) or line.by_token or pair.change.rows is not None:
            return None
        if (
            pair.base.shape != task.slot.shape
        ):  # untrained rows that match by token: equal positions are not equal tokens
            return None
        assert one.base is not None, "an adapter is given with its base"
        base = Source(one.base, pair.base)
        return _Candidate(task, None, replace(recipe, terms=(Term(base, base, 1.0),)), has_diff=False)
    own = tuple(term for term in recipe.terms if term.plus is not None and term.plus.role == one.role)
    if len(own) != 1 or not own[0].scale or own[0].minus is None:
        return None
    return _Candidate(task, own[0].runs, replace(recipe, terms=own))


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
