"""What a diff vector remembers of its base: a few thousand of its values, so that `apply` can tell a stranger.

Taken when the vector is taken, kept in its manifest as the stored bytes, in base64. When the vector is added to a target, the
same elements of difference and target are read, and the three say of the roles what they say in a transfer.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import random
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from tuneport.checkpoint import floats
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.floats import Floats
from tuneport.checkpoint.weights import StoredTensor
from tuneport.comparison.model_roles import MatrixSums, is_matrix, of_size, sums_of, together
from tuneport.engine.pieces import DifferenceRecipe, Readers, Source, Sum
from tuneport.engine.plan import OutputTask, Plan
from tuneport.errors import CheckpointError
from tuneport.files.printable import quoted

# Matrices of which something is kept, spread over the model, and pieces of each, spread over the matrix: 128 KiB in float32.
MATRICES = 32
PIECES = 4
ELEMENTS = 256

T = TypeVar("T")


def keep_base(plan: Plan, readers: Readers) -> dict[str, list[dict[str, Any]]]:
    """Some of the base's values, by tensor, in pieces: from which element on, and their bytes."""
    numbers, sizes, names = array("Q"), array("Q"), list[str]()
    for number, task in enumerate(plan.tasks):
        base = _taken_whole(task)
        if base is not None:
            numbers.append(number)
            sizes.append(base.elements)
            names.append(base.name)
    large = [place for place, counts in enumerate(of_size(sizes)) if counts]
    drawn, kept = random.Random(0), {}
    places = spread(sorted(large, key=names.__getitem__), MATRICES, drawn)
    for base in filter(None, (_taken_whole(plan.tasks[numbers[place]]) for place in places)):
        pieces = []
        for start, stop in pieces_of(base.elements, PIECES, ELEMENTS, drawn):
            values = _read(Source("base", base), start, stop - start, readers)
            pieces.append({"start": start, "values": base64.b64encode(values).decode()})
        kept[base.name] = pieces
    return kept


def met_again(plan: Plan, role: str, readers: Readers) -> tuple[list[MatrixSums], bool]:
    """What the kept values say beside a diff vector and the target, for a plan of `apply`; and whether those are all values.

    Rows that are matched by token are left out.
    """
    kept = plan.base_samples[role]
    sizes, held = array("Q"), []
    for task in plan.tasks:
        recipe, pair = task.recipe, task.line.pair
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


def _taken_whole(task: OutputTask) -> StoredTensor | None:
    """The base's tensor, where a difference of whole matrices is taken."""
    pair = task.line.pair
    if pair is None or not isinstance(task.recipe, DifferenceRecipe) or any(term.runs for term in task.recipe.terms):
        return None
    return pair.base if is_matrix(pair.base.dtype, pair.base.shape) else None


def pieces_of(elements: int, pieces: int, size: int, drawn: random.Random) -> list[tuple[int, int]]:
    """So many pieces of a matrix, one in each part of it; all of a small one."""
    if elements <= pieces * size:
        return [(0, elements)]
    edges = [round(number * elements / pieces) for number in range(pieces + 1)]
    starts = [drawn.randrange(edges[i], edges[i + 1] - size + 1) for i in range(pieces)]
    return [(start, start + size) for start in starts]


def spread(ordered: Sequence[T], most: int, drawn: random.Random) -> list[T]:
    """At most so many, one of each of as many stretches: layers follow each other where the order is that of names."""
    if len(ordered) <= most:
        return list(ordered)
    edges = [round(number * len(ordered) / most) for number in range(most + 1)]
    return [ordered[drawn.randrange(edges[i], edges[i + 1])] for i in range(most)]


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
            f"The diff vector's sample of the base's {quoted(recipe.name)} is damaged. Make the vector again."
        )
    return _wide(content, dtype)


def _read(source: Source, start: int, count: int, readers: Readers) -> bytes:
    itemsize = DTYPES[source.tensor.dtype].itemsize
    content = bytearray(count * itemsize)
    readers[source.role].read_into(source.tensor, start * itemsize, memoryview(content))
    return bytes(content)


def _wide(content: bytes, dtype: str) -> Floats:
    return floats.widen(floats.as_bits(content, dtype), dtype, "F64")
