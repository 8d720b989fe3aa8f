"""Digests of stored tensors: of inputs for the manifest, and of an output that is verified.

Leaves are hashed in parallel, each in pieces, within the memory limit of the run.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping

import numpy as np
from blake3 import blake3

from tuneport.checkpoint.reading import TensorReader, Workspace
from tuneport.checkpoint.weights import StoredTensor
from tuneport.engine.budget import Budget
from tuneport.engine.stream import run_leaves
from tuneport.files.lazy_sequences import LazyMapping, LazySequence
from tuneport.output.digest import LEAF_BYTES, leaf_count, root_of
from tuneport.progress import BYTES, Progress


def tensor_digests(
    tensors: Mapping[str, StoredTensor], reader: TensorReader, pool: Budget, what: str
) -> Mapping[str, str]:
    """The digest of each tensor, in the order of names; ``what`` is said to a terminal meanwhile."""
    names = sorted(tensors)
    tasks = LazySequence(len(names), lambda place: tensors[names[place]])
    first, total = array("q", [0]), 0
    for tensor in tasks:
        first.append(first[-1] + leaf_count(tensor.nbytes))
        total += tensor.nbytes
    found = np.zeros((first[-1], 32), np.uint8)

    def do(number: int, tensor: StoredTensor, leaf: int, space: Workspace) -> bool:
        hasher, start = blake3(), leaf * LEAF_BYTES
        end = min(start + LEAF_BYTES, tensor.nbytes)
        for position in range(start, end, 2 * pool.piece):
            view = space.buffer("hashed", min(2 * pool.piece, end - position))
            reader.read_into(tensor, position, view)
            hasher.update(view)
        found[first[number] + leaf] = np.frombuffer(hasher.digest(), np.uint8)
        return True

    run_leaves(tasks, do, pool.workers, Progress(what, total, BYTES))
    begins = dict(zip(names, first, strict=False))

    def digest(name: str) -> str:
        begin = begins[name]
        return root_of([leaf.tobytes() for leaf in found[begin : begin + leaf_count(tensors[name].nbytes)]])

    return LazyMapping(begins, digest)
