"""The sums of a tensor as the kernel adds them up (`arithmetic.SUMS`), as the figures of a comparison read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tuneport.comparison.measures import TensorColumns, TensorSums


def tensor_sums(sums: Sequence[float], met: int, *, has_base: bool, whole: bool = True) -> TensorSums:
    """The sums by name, over ``met`` elements that have a partner; those that need a base only where it was read.

    ``whole`` False: the target's square holds elements without a partner too, so it says nothing beside the base's.
    """
    diff, target, base, shift, along, opposed, added, error, nonzero, unchanged = map(float, sums)
    known = {"diff": diff, "added": added, "error": error, "nonzero": nonzero, "unchanged": unchanged}
    known |= {"target": target} if whole else {}
    if has_base:
        known |= {"base": base, "shift": shift, "along": along, "opposed": opposed}
        known |= {"product": (base + target - shift) / 2} if whole else {}
    return TensorSums(
        float(met), **{name: value if math.isfinite(value) else math.nan for name, value in known.items()}
    )


class MeasuredKind(NamedTuple):
    """What was measured of a tensor: whether it is a matrix, one of the layers', and `tensor_sums`' two questions."""

    matrix: bool
    inner: bool
    has_base: bool
    whole: bool


class SumsByKind:
    """Sums of many tensors added up as they come, separated only by their kind: a few rows for any number of tensors."""

    def __init__(self) -> None:
        """None yet."""
        self._kinds: dict[MeasuredKind, list[float]] = {}
        self._columns = TensorColumns()

    def add(self, sums: Sequence[float], met: int, kind: MeasuredKind) -> None:
        """Note a tensor. One whose sums left float64's range stays by itself, so that the others count."""
        if not math.isfinite(sum(sums)):
            self._put(sums, met, kind)
            return
        before = self._kinds.get(kind)
        here = [*sums, float(met)]
        self._kinds[kind] = here if before is None else [one + other for one, other in zip(before, here, strict=True)]

    def columns(self) -> TensorColumns:
        """A row for each kind; to be asked once, when all are noted."""
        for kind, sums in self._kinds.items():
            self._put(sums[:-1], int(sums[-1]), kind)
        return self._columns

    def _put(self, sums: Sequence[float], met: int, kind: MeasuredKind) -> None:
        found = tensor_sums(sums, met, has_base=kind.has_base, whole=kind.whole)
        self._columns.put(found, matrix=kind.matrix, inner=kind.inner)
