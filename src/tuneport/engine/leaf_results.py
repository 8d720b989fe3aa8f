"""The results of every leaf of a run: its digest, its sums, and how many of its numbers are not finite.

Records of leaves arrive in any order and are returned tensor by tensor. They are stored as rows of numbers, about a
hundred bytes per leaf, and become objects only while they are used.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tuneport.checkpoint.weights import StoredTensor
from tuneport.comparison.model_roles import MatrixSums
from tuneport.engine.arithmetic import ROUNDING, SUMS
from tuneport.engine.pieces import Sum
from tuneport.engine.plan import OutputTask
from tuneport.files.lazy_sequences import IndexedSequence
from tuneport.output.digest import LEAF_BYTES, leaf_count, root_of
from tuneport.output.journal import LeafRecord
from tuneport.pairing.rows import matched

_JOURNALLED, _DONE = 1, 2


@dataclass(frozen=True, slots=True)
class TensorResult:
    """A finished tensor of the output and the records of its leaves."""

    task: OutputTask
    leaves: tuple[LeafRecord, ...]

    @property
    def digest(self) -> str:
        """The tensor's digest."""
        return root_of([leaf.digest for leaf in self.leaves])

    @property
    def nonfinite(self) -> int:
        """How many elements are NaN or infinite."""
        return sum(leaf.nonfinite for leaf in self.leaves)

    @property
    def sums(self) -> list[float]:
        """The sums of the tensor (see `arithmetic.SUMS`), added up in the order of its leaves."""
        totals = [0.0] * SUMS
        for leaf in self.leaves:
            totals = [total + value for total, value in zip(totals, leaf.sums, strict=True)]
        return totals

    @property
    def matrix(self) -> MatrixSums:
        """The sums as what they are, where the base was read.

        Rows that only the target has are in its square, and not in the base's: where there are some, neither says
        anything of the other.
        """
        diff, target, base, drift, along, _ = self.sums[: ROUNDING.start]
        if not self.all_matched:
            target = base = math.nan
        return MatrixSums(self.task.slot.elements, diff, drift, along, base=base, target=target)

    @property
    def has_diff(self) -> bool:
        """Whether a difference was added to it (or is what it holds)."""
        return not isinstance(self.task.recipe, Sum) or self.task.recipe.adds

    @property
    def has_rounded(self) -> bool:
        """Whether a difference was added to a target, and the sum rounded to what is stored."""
        return self.has_diff and isinstance(self.task.recipe, Sum)

    @property
    def reads_base(self) -> bool:
        """Whether the whole of the base's tensor was read and measured: for an adapter's change it is not."""
        recipe, pair = self.task.recipe, self.task.line.pair
        if not isinstance(recipe, Sum) or (pair is not None and pair.change is not None):
            return False
        return recipe.terms[0].minus is not None

    @property
    def met(self) -> int:
        """Elements of rows that have a partner in base, tuned and target."""
        assert isinstance(self.task.recipe, Sum)
        met: dict[str, int] = {}  # terms of one vector have different rows
        for term in self.task.recipe.terms:
            if term.scale != 0:
                met[term.vector] = met.get(term.vector, 0) + matched(term.runs, self.task.slot.elements)
        return min(met.values(), default=0)

    @property
    def all_matched(self) -> bool:
        """Whether every row has its partner in base, tuned and target."""
        return self.met == self.task.slot.elements


class LeafResults(IndexedSequence[TensorResult]):
    """The results of all tasks, in their order. Leaves may be noted by several threads at once."""

    def __init__(self, tasks: Sequence[OutputTask], slots: Sequence[StoredTensor]) -> None:
        """Nothing is known yet. ``slots`` are the places of the tasks' tensors, which are known before a task is made."""
        self._tasks, self.slots = tasks, slots
        self._first = array("q", [0])
        for slot in slots:
            self._first.append(self._first[-1] + leaf_count(slot.nbytes))
        leaves = self._first[-1]
        self._digests = np.zeros((leaves, 32), np.uint8)
        self._sums = np.zeros((leaves, SUMS))
        self._nonfinite = np.zeros(leaves, np.int64)
        self._state = bytearray(leaves)

    def take_up(self, journalled: Iterator[tuple[str, int, LeafRecord]]) -> None:
        """Note what an earlier run recorded: tensor, leaf and record. It counts when `put` again."""
        numbers: Mapping[str, int] = {}
        for name, leaf, record in journalled:
            numbers = numbers or {slot.name: number for number, slot in enumerate(self.slots)}
            number = numbers.get(name, -1)
            # A record of an earlier version may hold other sums.
            fits = len(record.sums) == SUMS and len(record.digest) == 32 and 0 <= record.nonfinite <= LEAF_BYTES
            if fits and number >= 0 and 0 <= leaf < self.leaves(number):
                self._note(number, leaf, record, _JOURNALLED)

    def put(self, number: int, leaf: int, record: LeafRecord) -> None:
        """Note a leaf of the task with this number."""
        self._note(number, leaf, record, _DONE)

    def journalled(self, number: int, leaf: int) -> LeafRecord | None:
        """What an earlier run journalled of a leaf."""
        place = self._first[number] + leaf
        return self._record(place) if self._state[place] else None

    def leaves(self, number: int) -> int:
        """How many leaves a task has."""
        return self._first[number + 1] - self._first[number]

    def nonfinite(self, number: int) -> int:
        """How many elements of those leaves of a task that are done are NaN or infinite."""
        places = range(self._first[number], self._first[number + 1])
        return sum(int(self._nonfinite[place]) for place in places if self._state[place] == _DONE)

    def __len__(self) -> int:
        """How many tasks there are."""
        return len(self._tasks)

    def at(self, number: int) -> TensorResult:
        """The result of a task, whose leaves are all done."""
        places = range(self._first[number], self._first[number + 1])
        return TensorResult(self._tasks[number], tuple(map(self._record, places)))

    def _record(self, place: int) -> LeafRecord:
        sums = tuple(self._sums[place].tolist())
        return LeafRecord(self._digests[place].tobytes(), sums, int(self._nonfinite[place]))

    def _note(self, number: int, leaf: int, record: LeafRecord, state: int) -> None:
        place = self._first[number] + leaf
        self._digests[place] = np.frombuffer(record.digest, np.uint8)
        self._sums[place] = record.sums
        self._nonfinite[place] = record.nonfinite
        self._state[place] = state
