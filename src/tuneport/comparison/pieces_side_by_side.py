"""Read the same tensor of several checkpoints side by side, one piece at a time.

Arrays of the same elements, widened to the working dtype. Memory does not grow with the model: one buffer per
checkpoint.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from tuneport.checkpoint import floats
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.floats import Floats
from tuneport.checkpoint.reading import TensorReader, Workspace
from tuneport.pairing.common_tensors import SharedTensor

PIECE = 2**16  # elements; the numbers of ten models stay in the second-level cache


def pieces(
    shared: SharedTensor, readers: Sequence[TensorReader], space: Workspace, work: str | None = None
) -> Iterator[tuple[int, list[Floats]]]:
    """Each piece's first element in the last checkpoint, and its numbers in each of them.

    They are in ``work``, or in the working dtype of the stored ones. The arrays lie on reused buffers: they hold until
    the next piece is asked for.
    """
    if work is None:
        work = floats.working_dtype(*(tensor.dtype for tensor in shared.tensors))
    for starts, count in _stretches(shared):
        found = []
        for place, (tensor, reader, start) in enumerate(zip(shared.tensors, readers, starts, strict=True)):
            itemsize = DTYPES[tensor.dtype].itemsize
            view = space.buffer(str(place), count * itemsize)
            reader.read_into(tensor, start * itemsize, view)
            found.append(floats.widen(floats.as_bits(view, tensor.dtype), tensor.dtype, work))
        yield starts[-1], found


def _stretches(shared: SharedTensor) -> Iterator[tuple[list[int], int]]:
    """First elements in each checkpoint, and how many lie one after another in all of them."""
    if shared.rows is None:
        for start in range(0, shared.tensors[-1].elements, PIECE):
            yield [start] * len(shared.tensors), min(PIECE, shared.tensors[-1].elements - start)
        return
    columns = shared.tensors[-1].elements // max(shared.tensors[-1].shape[0], 1)
    breaks = np.flatnonzero((np.diff(shared.rows, axis=0) != 1).any(axis=1)) + 1
    edges = [0, *breaks.tolist(), len(shared.rows)]
    for first, last in itertools.pairwise(edges):
        if first == last:
            continue
        begins = [row * columns for row in shared.rows[first].tolist()]
        for offset in range(0, (last - first) * columns, PIECE):
            yield [begin + offset for begin in begins], min(PIECE, (last - first) * columns - offset)
