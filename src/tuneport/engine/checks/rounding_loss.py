"""Whether rounding loses too much of a diff vector: predicted from a sample, measured in the full pass.

The sample computes pieces of some matrices as the run will, from any number of diff vectors or an adapter, and writes
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.reading import Workspace
from tuneport.comparison.measures import TensorSums
from tuneport.comparison.model_roles import is_matrix
from tuneport.comparison.rounding import MOST, Rounded, rounded, total
from tuneport.engine.arithmetic import ROUNDING, SUMS
from tuneport.engine.checks.drawn_matrices import SampledMatrix, Span, draw
from tuneport.engine.checks.sampling import Opened
from tuneport.engine.measured.summed_tensor import tensor_sums
from tuneport.engine.pieces import Readers, Sum
from tuneport.engine.plan import OutputTask, Plan
from tuneport.errors import named
from tuneport.pairing.tensors import main_dtype


@dataclass(frozen=True)
class RoundedPart:
    """What rounding did to a tensor or to part of it: sums as `measure_rounding` has them. ``every``: all sums of a sample."""

    task: OutputTask
    sums: tuple[float, ...]
    every: TensorSums | None = None


@dataclass(frozen=True)
class RoundingSample:
    """What rounding takes from pieces of some matrices. ``complete``: all elements of all matrices that count."""

    parts: tuple[RoundedPart, ...]
    complete: bool

    @property
    def found(self) -> Rounded:
        """The figures of all pieces together."""
        return rounded(part.sums for part in self.parts)

    @property
    def margin(self) -> float:
        """How far the error may be from that of all elements: three standard errors, by leaving out each matrix in turn."""
        if self.complete:
            return 0.0
        without = [
            rounded(part.sums for part in self.parts if part is not left_out).error or 0.0 for left_out in self.parts
        ]
        if len(without) < 2:
            return math.inf
        middle = total(without) / len(without)
        spread_out = total((error - middle) ** 2 for error in without)
        return 3 * math.sqrt(spread_out * (len(without) - 1) / len(without))

    def record(self) -> dict[str, Any]:
        """The sample as JSON."""
        margin = self.margin
        return {
            **asdict(self.found),
            "matrices": len(self.parts),
            "complete": self.complete,
            "margin": round(margin, 4) if math.isfinite(margin) else None,
        }


def sample_rounding(plan: Plan, opened: Opened) -> RoundingSample | None:
    """Compute pieces of some matrices of a plan; None where it adds to none, or rounds by chance."""
    if plan.choices.rounding != "nearest":
        return None
    matched, chosen = draw(plan.tasks, _matrix)

    def compute(one: tuple[SampledMatrix, list[Span]]) -> RoundedPart:
        return _compute(*one, opened.readers, several=len(plan.added) > 1)

    with ThreadPoolExecutor(opened.workers) as pool:
        parts = tuple(pool.map(compute, chosen))
    seen = sum(stop - start for _, spans in chosen for start, stop in spans)
    return RoundingSample(parts, seen == matched) if parts else None


def loss(plan: Plan, parts: Iterable[RoundedPart], found: Rounded | None, *, seen: str = "") -> tuple[str, ...]:
    """The warning, where rounding to nearest takes too much. Stochastic rounding was chosen for that case.

    ``seen`` is a text that says on what the figures were ``found``, if not on all of the ``parts``' tensors.
    """
    if found is None or not found.too_much or plan.choices.rounding != "nearest":
        return ()
    main = main_dtype(task.line.target for task in plan.tasks if task.line.target)
    errors: dict[tuple[str, str, bool], float] = {}
    for part in parts:
        target, recipe = part.task.line.target, part.task.recipe
        assert target is not None and isinstance(recipe, Sum)
        kind = (part.task.slot.dtype, recipe.work, target.dtype == main)
        errors[kind] = errors.get(kind, 0.0) + part.sums[1]
    return (seen + loss_in_words(found, *max(errors, key=errors.__getitem__)),)


def expected_loss(plan: Plan, sample: RoundingSample | None) -> tuple[str, ...]:
    """The warning beforehand, where what rounding takes is too much whatever the sample may have missed."""
    if sample is None or sample.found.error is None or sample.found.error - sample.margin <= MOST:
        return ()
    seen = "" if sample.complete else f"judging by a sample of {len(sample.parts)} matrices, "
    return loss(plan, sample.parts, sample.found, seen=seen)


def _matrix(task: OutputTask) -> SampledMatrix | None:
    """The task as something to look at: a sum of matrices, whose rows are matched in one way if at all."""
    if not isinstance(task.recipe, Sum) or not task.recipe.adds or not is_matrix(task.slot.dtype, task.slot.shape):
        return None
    first, *others = (term.runs for term in task.recipe.terms)
    return SampledMatrix(task, first) if all(other is first for other in others) else None


def _compute(matrix: SampledMatrix, spans: Sequence[Span], readers: Readers, *, several: bool) -> RoundedPart:
    """The sums of the spans, scaled up to the whole matrix, which so counts as much as it has elements."""
    sums, space = np.zeros(SUMS), Workspace()
    for start, stop in spans:
        matrix.task.recipe.piece(start, stop, start, readers, space, sums)
    seen = sum(stop - start for start, stop in spans)
    sums *= matrix.matched / seen if seen else 0
    recipe = matrix.task.recipe
    assert isinstance(recipe, Sum), "a difference is not rounded"
    has_base = not several and recipe.terms[0].minus is not None and recipe.terms[0].product is None
    return RoundedPart(
        matrix.task, tuple(sums[ROUNDING].tolist()), tensor_sums(sums.tolist(), matrix.matched, has_base=has_base)
    )


def loss_in_words(found: Rounded, dtype: str, work: str, castable: bool) -> str:
    """The warning of a transfer whose output lost too much by rounding to nearest.

    ``dtype`` is that of the tensors which lost most, computed in ``work``; ``castable``: ``--dtype`` would store these in
    another.
    """
    name = DTYPES[dtype].torch
    told = f"rounding to {name} loses much of the diff vector: {found.in_words()}."
    if DTYPES[dtype].itemsize >= DTYPES[work].itemsize:
        return f"{told} The differences are too small for {name}, whatever the options. Check {named('base')}, {named('tuned')} and {named('scale')}."
    chance = (
        f"{named('rounding', 'stochastic')}, which rounds each value up or down at random and so keeps Δ on average"
    )
    if not castable:
        return f"{told} Choose {chance}."
    wider = "float32" if DTYPES[dtype].itemsize < DTYPES["F32"].itemsize else "float64"
    return f"{told} Choose {named('dtype', wider)}, which needs twice the space, or {chance}."
