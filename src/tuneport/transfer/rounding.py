"""What rounding took from a diff vector: figures from the sums of pieces, and the words where it took too much.

Whoever stores weights in fewer bits than they were computed in measures it the same way (`arithmetic.measure_rounding`): a
transfer in its one pass, a fine-tuning in its last cast, a comparison of two models on disk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tuneport.checkpoint.dtypes import DTYPES

# Over this part of ‖Δ‖ a loss is told; docs/results.md says on which models it was looked at.
MOST = 0.1


@dataclass(frozen=True)
class Rounded:
    """``error`` is ‖(out − target) − Δ‖ / ‖Δ‖, ``unchanged`` the share of Δ's ``nonzero`` elements that changed nothing.

    None where Δ is zero, or where a sum left float64's range.
    """

    error: float | None
    unchanged: float | None
    nonzero: int

    def record(self) -> dict[str, Any]:
        """The figures as JSON."""
        return asdict(self)

    @property
    def too_much(self) -> bool:
        """Whether a person should be told."""
        return self.error is not None and self.error > MOST

    def in_words(self, out: str = "output", onto: str = "target") -> str:
        """The figures as a clause about these two."""
        assert self.error is not None and self.unchanged is not None
        return (
            f"‖({out} − {onto}) − Δ‖ is {self.error:.2g} of ‖Δ‖, and {self.unchanged:.0%} of the nonzero elements of Δ left the "
            f"{onto} unchanged"
        )


def rounded(sums: Iterable[Iterable[float]]) -> Rounded:
    """The figures of all these sums together, each as `arithmetic.measure_rounding` gives them."""
    added, error, nonzero, unchanged = [total(values) for values in zip(*sums, strict=True)] or [0.0] * 4
    known = added > 0 and math.isfinite(added) and math.isfinite(error)
    return Rounded(
        math.sqrt(error) / math.sqrt(added) if known else None,
        unchanged / nonzero if nonzero else None,
        int(nonzero),
    )


def total(values: Iterable[float]) -> float:
    """The exact sum, rounded once; NaN where the numbers, or what lies between them, leave float64's range."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        return math.nan


def loss_in_words(found: Rounded, dtype: str, work: str, castable: bool) -> str | None:
    """The warning of a transfer whose output lost too much by rounding to nearest; None where it did not.

    ``dtype`` is that of the tensors which lost most, computed in ``work``; ``castable``: ``--dtype`` would store these in
    another.
    """
    if not found.too_much:
        return None
    name = DTYPES[dtype].torch
    told = f"rounding to {name} takes much of the diff vector: {found.in_words()}."
    if DTYPES[dtype].itemsize >= DTYPES[work].itemsize:
        return (
            f"{told} The differences are too small for {name}, whatever the flags. Check --base, --tuned and --scale."
        )
    chance = "--rounding stochastic, which rounds each number up or down by chance and so keeps Δ on average"
    if not castable:
        return f"{told} Choose {chance}."
    wider = "float32" if DTYPES[dtype].itemsize < DTYPES["F32"].itemsize else "float64"
    return f"{told} Choose --dtype {wider}, which takes twice the space, or {chance}."
