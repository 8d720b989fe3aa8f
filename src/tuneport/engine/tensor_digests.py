"""Digests of tensors as they lie on disk: of inputs that a manifest names, and of an output that is verified.

In come tensors with their readers, out come their digests in the same order. Leaves are hashed side by side, each in
pieces, within the budget of the run.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from blake3 import blake3

from tuneport.checkpoint.reading import TensorReader, Workspace
from tuneport.checkpoint.weights import StoredTensor
from tuneport.engine.budget import Budget
from tuneport.engine.stream import Progress, run_leaves
from tuneport.files.lazy_sequences import LazySequence
from tuneport.output.digest import LEAF_BYTES, leaf_count, root_of


@dataclass(frozen=True)
class _Hashing:
    """One tensor to be hashed."""

    tensor: StoredTensor
    reader: TensorReader

    @property
    def leaves(self) -> int:
        return leaf_count(self.tensor.nbytes)

    @property
    def leaf_bytes(self) -> int:
        return min(LEAF_BYTES, self.tensor.nbytes)


def tensor_digests(tensors: Sequence[tuple[StoredTensor, TensorReader]], pool: Budget, what: str) -> Sequence[str]:
    """The digest of each tensor; ``what`` is said to a terminal meanwhile."""
    first, total = array("q", [0]), 0
    for tensor, _ in tensors:
        first.append(first[-1] + leaf_count(tensor.nbytes))
        total += tensor.nbytes
    found = np.zeros((first[-1], 32), np.uint8)

    def do(number: int, task: _Hashing, leaf: int, space: Workspace) -> bool:
        hasher, start = blake3(), leaf * LEAF_BYTES
        end = min(start + LEAF_BYTES, task.tensor.nbytes)
        for position in range(start, end, 2 * pool.piece):
            view = space.buffer("hashed", min(2 * pool.piece, end - position))
            task.reader.read_into(task.tensor, position, view)
            hasher.update(view)
        found[first[number] + leaf] = np.frombuffer(hasher.digest(), np.uint8)
        return True

    tasks = LazySequence(len(tensors), lambda number: _Hashing(*tensors[number]))
    run_leaves(tasks, do, pool.workers, Progress(what, total))
    return LazySequence(len(tensors), lambda n: root_of([leaf.tobytes() for leaf in found[first[n] : first[n + 1]]]))
