"""Digests of tensors as they lie on disk: of inputs that a manifest names, and of an output that is verified.

In come tensors with their readers, out come their digests in the same order. Leaves are hashed side by side, each in
pieces, within the budget of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3

from tuneport.checkpoint.digest import LEAF_BYTES, leaf_count, root_of
from tuneport.checkpoint.reading import TensorReader
from tuneport.checkpoint.weights import StoredTensor
from tuneport.transfer.budget import Budget
from tuneport.transfer.stream import Progress, Workspace, run_leaves


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


def tensor_digests(tensors: Sequence[tuple[StoredTensor, TensorReader]], pool: Budget, what: str) -> list[str]:
    """The digest of each tensor; ``what`` is said to a terminal meanwhile."""
    tasks = [_Hashing(tensor, reader) for tensor, reader in tensors]
    found = [[b""] * task.leaves for task in tasks]

    def do(number: int, task: _Hashing, leaf: int, space: Workspace) -> bool:
        hasher, start = blake3(), leaf * LEAF_BYTES
        end = min(start + LEAF_BYTES, task.tensor.nbytes)
        for position in range(start, end, 2 * pool.piece):
            view = space.buffer("hashed", min(2 * pool.piece, end - position))
            task.reader.read_into(task.tensor, position, view)
            hasher.update(view)
        found[number][leaf] = hasher.digest()
        return True

    run_leaves(tasks, do, pool.workers, Progress(what, sum(task.tensor.nbytes for task in tasks)))
    return [root_of(leaves) for leaves in found]
