"""The spectra of every matrix of a plan, for the diff vector and for target − base, from rows read piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from blake3 import blake3

from tuneport.checkpoint.floats import Floats
from tuneport.checkpoint.reading import Workspace
from tuneport.comparison.model_roles import is_matrix
from tuneport.comparison.spectrum import PASSES, Sketch, record, room_for
from tuneport.engine.budget import Budget
from tuneport.engine.measured.measured_run import recipe_to_measure
from tuneport.engine.pieces import Readers, Sum, meet
from tuneport.engine.plan import OutputTask, Plan


def matrix_spectra(plan: Plan, readers: Readers, pool: Budget) -> dict[str, dict[str, Any]]:
    """The figures of each matrix by name (`comparison.spectrum.record`); of a tensor of three dimensions those of its first matrix."""

    def do(task: OutputTask) -> tuple[str, dict[str, Any]] | None:
        recipe = recipe_to_measure(task, plan)
        if recipe is None or not is_matrix(task.slot.dtype, task.slot.shape) or not recipe.adds:
            return None
        return task.slot.name, _of_matrix(recipe, *_shape(task), readers, pool.piece)

    with ThreadPoolExecutor(pool.workers) as threads:
        return dict(found for found in threads.map(do, plan.tasks) if found is not None)


def room_for_spectra(plan: Plan) -> int:
    """Bytes that a worker needs beside its pieces for the largest matrix."""
    shapes = [_shape(task) for task in plan.tasks if is_matrix(task.slot.dtype, task.slot.shape)]
    return max((room_for(*shape) for shape in shapes), default=0)


def _shape(task: OutputTask) -> tuple[int, int]:
    """Rows and columns of a tensor's (first) matrix; extents of 1 and what lies before the last two do not count."""
    shape = [extent for extent in task.slot.shape if extent > 1]
    return shape[-2], shape[-1]


def _of_matrix(recipe: Sum, rows: int, columns: int, readers: Readers, piece: int) -> dict[str, Any]:
    seed = int.from_bytes(blake3(recipe.name.encode()).digest(8), "little")
    sketches = [Sketch(rows, columns, seed)]
    if recipe.terms[0].minus is not None:
        sketches.append(Sketch(rows, columns, seed + 1))
    for _ in range(PASSES):
        for first, parts in _rows(recipe, rows, columns, readers, piece):
            for sketch, part in zip(sketches, parts, strict=False):
                sketch.take(first, part)
        for sketch in sketches:
            sketch.turn()
    found = [sketch.spectrum() for sketch in sketches]
    return record(found[0], found[1] if len(found) > 1 else None)


def _rows(recipe: Sum, rows: int, columns: int, readers: Readers, piece: int) -> Iterator[tuple[int, list[Floats]]]:
    """Rows of Δ, and of target − base where the base is read, that have their partners: the number of the first, and they."""
    space, at_once = Workspace(), max(piece // columns, 1) * columns
    for start in range(0, rows * columns, at_once):
        for begin, end in recipe.cuts(start, min(start + at_once, rows * columns)):
            met = meet(recipe, begin, end, readers, space)
            if met is None:
                continue
            parts = [met.diff]
            if met.base is not None and met.target is not None:
                parts.append(met.target - met.base)
            yield begin // columns, [np.asarray(part, np.float32).reshape(-1, columns) for part in parts]
