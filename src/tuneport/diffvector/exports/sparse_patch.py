"""Make a sparse patch of a diff vector: for each tensor of the target that changes, positions and the new values.

Values are those that `apply` writes, bit for bit. Each tensor is computed once, in pieces; its positions and values are
kept in DIR.partial until all are known, then put together in safetensors files. A killed run goes on with the next
tensor. Layout: ``NAME.indices`` (flat positions, rising; int32, or int64 from 2³¹ elements) and ``NAME.values``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.reading import Workspace
from tuneport.checkpoint.weights import StoredTensor
from tuneport.diffvector.exports.export_files import write_tensors
from tuneport.diffvector.exports.peft_adapter import damaged
from tuneport.diffvector.exports.peft_contents import has_difference
from tuneport.diffvector.exports.tensor_by_tensor import for_each_tensor
from tuneport.engine import kernel
from tuneport.engine.budget import Budget
from tuneport.engine.pieces import Readers, Sum
from tuneport.engine.plan import OutputTask, Plan
from tuneport.engine.run import leaf_pieces
from tuneport.files.opening import opened, read_bytes
from tuneport.files.writing import create, write_whole
from tuneport.output.digest import leaf_count, root_of
from tuneport.output.shards import Layout, lay_out

PARTS = "parts"
STEM = "patch"
# Bytes that comparing an element takes beside the sum: the target's, positions, and the masks of one piece.
COMPARED = 40
_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_MOST_PIECE = 2**20


@dataclass(frozen=True)
class PatchedTensor:
    """What the patch has of a tensor: how many elements change, their index dtype, digests of the target and of the result."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    changed: int
    target_digest: str
    digest: str
    nonfinite: int

    @property
    def index_dtype(self) -> str:
        """int32 where it reaches every element."""
        return "I32" if int(np.prod(self.shape, dtype=np.int64)) <= 2**31 - 1 else "I64"

    @property
    def entries(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """The two tensors of the patch."""
        count = (self.changed,)
        return [(f"{self.name}.indices", self.index_dtype, count), (f"{self.name}.values", self.dtype, count)]

    def record(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "changed": self.changed,
            "target_digest": self.target_digest,
            "digest": self.digest,
        }


@dataclass(frozen=True)
class PatchWork:
    """The work on one patch in DIR.partial."""

    plan: Plan
    folder: Path
    readers: Readers
    pool: Budget

    @property
    def tasks(self) -> list[OutputTask]:
        """The tensors that have a difference."""
        return [task for task in self.plan.tasks if has_difference(task)]

    def compute(self) -> list[PatchedTensor]:
        """Positions and values of every tensor, in files of their own."""
        (self.folder / PARTS).mkdir(exist_ok=True)
        tasks = self.tasks

        def one(number: int, space: Workspace) -> None:
            if not self._file(number, "json").exists():
                self._compute(number, tasks[number], space)

        for_each_tensor([task.nbytes for task in tasks], one, self.pool.workers, "export")
        return [self._told(number) for number in range(len(tasks))]

    def write(self, found: Sequence[PatchedTensor], shard_bytes: int) -> tuple[Layout, dict[str, str]]:
        """The patch's files, and the digest of each of its tensors."""
        numbers = {
            name: (number, kind)
            for number, each in enumerate(found)
            for (name, _, _), kind in zip(each.entries, ("indices", "values"), strict=True)
            if each.changed
        }
        layout = lay_out((entry for each in found if each.changed for entry in each.entries), shard_bytes, STEM)

        def content(slot: StoredTensor) -> Iterator[bytes]:
            with opened(self._file(*numbers[slot.name]), self.folder) as file:
                while piece := file.read(_MOST_PIECE):
                    yield piece

        return layout, write_tensors(self.folder, layout, content)

    def _compute(self, number: int, task: OutputTask, space: Workspace) -> None:
        recipe, slot = task.recipe, task.slot
        assert isinstance(recipe, Sum)
        told = PatchedTensor(slot.name, slot.shape, slot.dtype, 0, "", "", 0)
        index = np.int32 if told.index_dtype == "I32" else np.int64
        changed = nonfinite = 0
        roots: tuple[list[bytes], list[bytes]] = ([], [])
        with create(self._file(number, "indices")) as indices, create(self._file(number, "values")) as values:
            for leaf in range(leaf_count(slot.nbytes)):
                hashers = blake3(), blake3()
                for start, where, output, target, bad in self._pieces(task, leaf, space):
                    hashers[0].update(memoryview(target).cast("B"))
                    hashers[1].update(memoryview(output).cast("B"))
                    indices.write((where + start).astype(index).data)
                    values.write(output[where].data)
                    changed += len(where)
                    nonfinite += bad
                for root, hasher in zip(roots, hashers, strict=True):
                    root.append(hasher.digest())
        record = {"changed": changed, "nonfinite": nonfinite, "target": root_of(roots[0]), "output": root_of(roots[1])}
        write_whole(self._file(number, "json"), json.dumps(record))

    def _pieces(self, task: OutputTask, leaf: int, space: Workspace) -> Iterator[tuple[int, Any, Any, Any, int]]:
        """The pieces of a leaf: first element, where output and target differ, the bits of both, and what is not finite."""
        recipe, itemsize = task.recipe, DTYPES[task.slot.dtype].itemsize
        assert isinstance(recipe, Sum)
        sums = kernel.no_sums()
        for start, stop, origin in leaf_pieces(task, leaf, self.pool.piece):
            content, bad = recipe.piece(start, stop, origin, self.readers, space, sums)
            view = space.buffer("compared", (stop - start) * itemsize)
            self.readers[recipe.target.role].read_into(recipe.target.tensor, start * itemsize, view)
            output, target = (np.frombuffer(each, _BITS[itemsize]) for each in (content, view))
            yield start, np.flatnonzero(output != target), output, target, bad

    def _told(self, number: int) -> PatchedTensor:
        slot = self.tasks[number].slot
        try:
            told = json.loads(read_bytes(self._file(number, "json"), self.folder))
            digests = told["target"], told["output"]
            return PatchedTensor(slot.name, slot.shape, slot.dtype, told["changed"], *digests, told["nonfinite"])
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(self._file(number, "json"), error) from None

    def _file(self, number: int, kind: str) -> Path:
        return self.folder / PARTS / f"{number:05d}.{kind}"
