"""Measure a plan instead of running it: every tensor of base, diff vector and target in one pass, without writing.

The arithmetic, and so every measure, is that of the planned run.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.floats import Array
from tuneport.checkpoint.reading import Workspace
from tuneport.comparison.measures import MeasuredTensors
from tuneport.engine import arithmetic
from tuneport.engine.budget import Budget
from tuneport.engine.measured.summed_tensor import tensor_sums
from tuneport.engine.pieces import Readers, Source, Sum, Term
from tuneport.engine.plan import OutputTask, Plan
from tuneport.engine.run import leaf_pieces
from tuneport.engine.stream import run_leaves
from tuneport.output.digest import leaf_count
from tuneport.progress import BYTES, Progress


class MeasuredRun:
    """The sums of each task's leaves, and how many elements met; leaves may be noted by several threads at once."""

    def __init__(self, plan: Plan) -> None:
        """Nothing is known yet."""
        self._plan = plan
        counts = [leaf_count(slot.nbytes) for slot in plan.slots]
        self._first = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        leaves = int(self._first[-1])
        self._sums = np.zeros((leaves, arithmetic.SUMS))
        self._met = np.zeros(leaves, np.int64)
        self._bad = np.zeros(leaves, np.int64)

    def put(self, number: int, leaf: int, sums: Array, met: int, bad: int) -> None:
        """Note a leaf of the task with this number."""
        place = int(self._first[number]) + leaf
        self._sums[place], self._met[place], self._bad[place] = sums, met, bad

    @property
    def nonfinite(self) -> int:
        """How many numbers of the output would be NaN or infinite."""
        return int(self._bad.sum())

    def measured(self) -> MeasuredTensors:
        """The sums of every tensor that base and target have, or the diff vector and the target."""
        found = MeasuredTensors()
        for number, (task, slot) in enumerate(zip(self._plan.tasks, self._plan.slots, strict=True)):
            recipe = recipe_to_measure(task, self._plan)
            if recipe is None:
                continue
            own = slice(int(self._first[number]), int(self._first[number + 1]))
            has_base = recipe.terms[0].minus is not None
            sums = tensor_sums(self._sums[own].sum(axis=0), int(self._met[own].sum()), has_base=has_base)
            found.append(slot.name, slot.dtype, slot.shape, sums)
        return found


def measure(plan: Plan, readers: Readers, pool: Budget) -> MeasuredRun:
    """Read everything that a plan would read, and compute what it would compute."""
    found = MeasuredRun(plan)

    def do(number: int, task: OutputTask, leaf: int, space: Workspace) -> bool:
        recipe = recipe_to_measure(task, plan)
        if recipe is not None:
            sums, met, bad = np.zeros(arithmetic.SUMS), 0, 0
            for start, stop, origin in leaf_pieces(task, leaf, pool.piece):
                here = recipe.measure(start, stop, origin, readers, space, sums)
                met, bad = met + here[0], bad + here[1]
            found.put(number, leaf, sums, met, bad)
        return True

    run_leaves(plan.tasks, do, pool.workers, Progress("compare", sum(slot.nbytes for slot in plan.slots), BYTES))
    return found


def recipe_to_measure(task: OutputTask, plan: Plan) -> Sum | None:
    """What to compute of a task; None where it has no partner, or holds integers.

    Where nothing is added (an adapter leaves a tensor as it is, or a rule does), base meets target with a difference of zero.
    An adapter's product alone does not read the base, so that is added to be measured.
    """
    recipe, pair = task.recipe, task.line.pair
    if not isinstance(recipe, Sum) or DTYPES[task.slot.dtype].kind != "float":
        return None
    live = tuple(term for term in recipe.terms if term.scale != 0)
    if pair is None or plan.operation == "apply":  # a stored diff vector has no base beside it
        return replace(recipe, terms=live) if live else None
    base = Source("base", pair.base)
    if not live:
        return None if task.line.by_token or pair.base.shape != task.slot.shape else _beside(recipe, base)
    return replace(recipe, terms=tuple(replace(term, minus=base) if term.minus is None else term for term in live))


def _beside(recipe: Sum, base: Source) -> Sum:
    return replace(recipe, terms=(Term(base, base, 1.0),))
