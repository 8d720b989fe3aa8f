"""The sample of the base that a diff vector stores: a few thousand values, so that `apply` can check the roles.

Taken when the vector is computed, and stored as base64 in its manifest. When the vector is added to a target, the same
elements of difference and target are read, and the roles are checked as in a transfer.
"""

from __future__ import annotations

import base64
import binascii
import itertools
from array import array
from collections.abc import Mapping
from typing import Any

from tuneport.checkpoint import floats
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.floats import Floats
from tuneport.comparison.model_roles import MatrixSums, is_matrix, of_size, sums_of, together
from tuneport.engine.checks.drawn_matrices import SampledMatrix, draw
from tuneport.engine.pieces import DifferenceRecipe, Readers, Source, Sum
from tuneport.engine.plan import Added, OutputTask, Plan
from tuneport.errors import CheckpointError
from tuneport.files.printable import quoted

# Pieces of each matrix that is drawn: 128 KiB of a model in float32.
PIECES = 4
ELEMENTS = 256


def keep_base(plan: Plan, readers: Readers) -> dict[str, list[dict[str, Any]]]:
    """Some of the base's values, by tensor, in pieces: from which element on, and their bytes."""
    kept: dict[str, list[dict[str, Any]]] = {}
    for one, spans in draw(plan.tasks, _taken_whole, PIECES, ELEMENTS)[1]:
        assert one.task.line.pair is not None, "such a matrix has a base"
        base, pieces = one.task.line.pair.base, []
        for start, stop in spans:
            values = _read(Source("base", base), start, stop - start, readers)
            pieces.append({"start": start, "values": base64.b64encode(values).decode()})
        kept[base.name] = pieces
    return kept


def met_again(plan: Plan, one: Added, readers: Readers) -> tuple[list[MatrixSums], bool]:
    """What the kept values say beside a diff vector and the target, for a plan of `apply`; and whether those are all values.

    Rows that are matched by token are left out.
    """
    kept, role = one.base_sample, one.role
    sizes, held = array("Q"), []
    for task in plan.tasks:
        recipe, line = task.recipe, plan.line_of(task, one)
        pair = None if line is None else line.pair
        if not isinstance(recipe, Sum) or pair is None or not is_matrix(task.slot.dtype, task.slot.shape):
            continue
        for term in recipe.terms:
            if term.plus is not None and term.plus.role == role and term.runs is None:
                if kept.get(pair.name):
                    held.append((len(sizes), recipe, term.plus, pair))
                sizes.append(recipe.target.tensor.elements)
    large = of_size(sizes)
    found = [
        together([_met(piece, pair.base.dtype, diff, recipe, readers) for piece in kept[pair.name]])
        for place, recipe, diff, pair in held
        if large[place]
    ]
    return found, sum(m.elements for m in found) == sum(itertools.compress(sizes, large))


def _taken_whole(task: OutputTask) -> SampledMatrix | None:
    """The task, where it takes a difference of whole matrices."""
    pair = task.line.pair
    if pair is None or not isinstance(task.recipe, DifferenceRecipe) or any(term.runs for term in task.recipe.terms):
        return None
    return SampledMatrix(task, None) if is_matrix(pair.base.dtype, pair.base.shape) else None


def _met(kept: Mapping[str, Any], dtype: str, diff: Source, recipe: Sum, readers: Readers) -> MatrixSums:
    base = _values(kept, dtype, recipe)
    sources = (diff, recipe.target)
    return sums_of(base, *(_wide(_read(one, kept["start"], base.size, readers), one.tensor.dtype) for one in sources))


def _values(kept: Mapping[str, Any], dtype: str, recipe: Sum) -> Floats:
    """The base's values, as far as they can be what a diff vector keeps of this tensor."""
    try:
        content = base64.b64decode(kept["values"], validate=True)
    except (binascii.Error, ValueError):
        content = b""
    count, rest = divmod(len(content), DTYPES[dtype].itemsize)
    if not count or rest or not 0 <= kept["start"] <= recipe.target.tensor.elements - count:
        raise CheckpointError(
            f"The diff vector's sample of the base's {quoted(recipe.name)} is damaged. Compute the vector again."
        )
    return _wide(content, dtype)


def _read(source: Source, start: int, count: int, readers: Readers) -> bytes:
    itemsize = DTYPES[source.tensor.dtype].itemsize
    content = bytearray(count * itemsize)
    readers[source.role].read_into(source.tensor, start * itemsize, memoryview(content))
    return bytes(content)


def _wide(content: bytes, dtype: str) -> Floats:
    return floats.widen(floats.as_bits(content, dtype), dtype, "F64")
