"""Sequences and mappings whose entries are made when they are looked at, and not kept.

A plan has several objects for each tensor; at a hundred thousand tensors they would take more memory than the whole of a run
may. What is kept are numbers and names, and a function that makes the object again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeVar, overload

T = TypeVar("T", covariant=True)


class LazySequence(Sequence[T]):
    """``count`` entries, each made by ``make`` from its place."""

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        """Nothing is made yet."""
        self._count, self._make = count, make

    def __len__(self) -> int:
        """How many entries there are."""
        return self._count

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place: int | slice) -> T | list[T]:
        """The entry at a place, or the list of those at some."""
        if isinstance(place, slice):
            return [self._make(each) for each in range(*place.indices(self._count))]
        return self._make(range(self._count)[place])

    def __iter__(self) -> Iterator[T]:
        """The entries in their order."""
        return map(self._make, range(self._count))


class LazyMapping(Mapping[str, T]):
    """Entries under ``keys``, each made by ``make`` from its key."""

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
