"""The account of a transfer: every tensor of base, tuned and target with its fate, one line each.

Only names and the number of each line's kind are kept; a line becomes an object while it is used.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tuneport.checkpoint.adapter import AdapterChange
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.weights import StoredTensor
from tuneport.files.lazy_sequences import IndexedSequence
from tuneport.pairing.vocabulary_names import Ties

Fate = Literal["transferred", "resized", "copied", "dropped", "refused"]


@dataclass(frozen=True, slots=True)  # one for each tensor
class ParentPair:
    """A tensor of base and tuned: ``diff`` has a value wherever both are there. ``exact`` are integers and booleans.

    ``change`` says what an adapter did to it, where the tuned model is base and adapter.
    """

    name: str
    base: StoredTensor
    tuned: StoredTensor
    change: AdapterChange | None = None

    @property
    def exact(self) -> bool:
        """Integers and booleans have no difference: base must equal tuned."""
        return DTYPES[self.base.dtype].kind == "exact"

    @property
    def untrained(self) -> bool:
        """Whether an adapter leaves it as it is: there is no difference, and nothing is read to find that out."""
        return self.change is not None and self.change.is_none


@dataclass(frozen=True, slots=True)  # one for each tensor
class TensorPair:
    """One line of the account: a tensor of the output, or one that has no place in it."""

    name: str
    fate: Fate
    reason: str = ""
    pair: ParentPair | None = None
    target: StoredTensor | None = None
    by_token: bool = False


class Account(IndexedSequence[TensorPair]):
    """Lines of an account, each made when it is looked at: of a line only its name and its kind are kept."""

    def __init__(self, pairs: Mapping[str, ParentPair], ties: Ties, target: Mapping[str, StoredTensor]) -> None:
        """An account without lines, of the parents' ``pairs`` by weight and the tensors of a target."""
        self._pairs, self._ties, self._target = pairs, ties, target
        self.names: list[str] = []
        self._kind = array("I")
        self._kinds: dict[_Kind, int] = {}
        self._by_number: list[_Kind] = []
        self._places: dict[str, int] = {}  # made when a line is first asked for by name

    def append(self, line: TensorPair) -> None:
        """Add a line; its pair is the parents' of that name, and its target the target's tensor of that name."""
        kind = _Kind(line.fate, line.reason, line.pair is not None, line.target is not None, line.by_token)
        if kind not in self._kinds:
            self._kinds[kind] = len(self._kinds)
            self._by_number.append(kind)
        self.names.append(line.name)
        self._kind.append(self._kinds[kind])

    def of(self, *fates: Fate) -> Iterator[TensorPair]:
        """The lines with one of these fates."""
        return (self[place] for place in self.places(*fates))

    def places(self, *fates: Fate) -> Iterator[int]:
        """Where the lines with one of these fates stand."""
        wanted = {number for number, kind in enumerate(self._by_number) if kind.fate in fates}
        return (place for place, number in enumerate(self._kind) if number in wanted)

    def by_token(self) -> Iterator[TensorPair]:
        """The lines whose rows are matched by token."""
        wanted = {number for number, kind in enumerate(self._by_number) if kind.by_token}
        return (self[place] for place, number in enumerate(self._kind) if number in wanted)

    def find(self, name: str) -> TensorPair | None:
        """The line of this name."""
        if len(self._places) != len(self.names):
            self._places = {known: place for place, known in enumerate(self.names)}
        return self[self._places[name]] if name in self._places else None

    def __len__(self) -> int:
        """How many lines there are."""
        return len(self.names)

    def at(self, place: int) -> TensorPair:
        """A line, or some."""
        name, kind = self.names[place], self._by_number[self._kind[place]]
        pair = self._pairs[self._ties.weight(name)] if kind.has_pair else None
        target = self._target[name] if kind.has_target else None
        return TensorPair(name, kind.fate, kind.reason, pair, target, kind.by_token)


class _Kind(NamedTuple):
    """What many lines of an account have in common."""

    fate: Fate
    reason: str
    has_pair: bool
    has_target: bool
    by_token: bool
