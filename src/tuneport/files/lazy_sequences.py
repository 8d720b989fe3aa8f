"""Sequences and mappings whose entries are made when they are used, and not kept.

A plan has several objects per tensor; for a hundred thousand tensors they would need more memory than the run may use.
Only numbers and names are kept, with a function that makes the object again.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeVar, overload

T = TypeVar("T", covariant=True)


class IndexedSequence(Sequence[T]):
    """A sequence whose children say how many entries there are, and which one is `at` a place from 0 on."""

    @abstractmethod
    def at(self, place: int) -> T:
        """The entry at a place."""

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place: int | slice) -> T | list[T]:
        """The entry at a place, or the list of those at some."""
        if isinstance(place, slice):
            return [self.at(each) for each in range(*place.indices(len(self)))]
        return self.at(range(len(self))[place])

    def __iter__(self) -> Iterator[T]:
        """The entries in their order."""
        return map(self.at, range(len(self)))


class LazySequence(IndexedSequence[T]):
    """``count`` entries, each made by ``make`` from its place."""

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        """Nothing is made yet."""
        self._count, self._make = count, make

    def __len__(self) -> int:
        """How many entries there are."""
        return self._count

    def at(self, place: int) -> T:
        """The entry at a place, made for whoever looks."""
        return self._make(place)


class LazyMapping(Mapping[str, T]):
    """IndexedSequence under ``keys``, each made by ``make`` from its key."""

    def __init__(self, keys: Collection[str], make: Callable[[str], T]) -> None:
        """Nothing is made yet; a key must be found quickly in ``keys``."""
        self._keys, self._make = keys, make

    def __len__(self) -> int:
        """How many entries there are."""
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        """The keys in their order."""
        return iter(self._keys)

    def __contains__(self, key: object) -> bool:
        """Whether there is such an entry."""
        return key in self._keys

    def __getitem__(self, key: str) -> T:
        """The entry of a key."""
        if key not in self._keys:
            raise KeyError(key)
        return self._make(key)
