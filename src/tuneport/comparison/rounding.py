"""How much of a diff vector rounding loses, computed from the sums of pieces.

Every place that stores weights in fewer bits than it computed uses the same measure (`measure_rounding`): a transfer in
its single pass, a fine-tuning in its last cast, a comparison of two models on disk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tuneport.checkpoint.floats import Array, Floats, square


def measure_rounding(out: Floats, target: Floats, added: Floats, unmoved: Floats) -> Array:
    """What rounding did to a piece: ‖Δ‖², ‖(out − target) − Δ‖², how many elements of Δ are not zero, how many of these vanished.

    Δ is what was to be ``added``, in W: the difference times its scale, or the sum of several. ``out`` is what was stored,
    widened to W; where it is what would have been stored if Δ were zero (``unmoved``, widened likewise; the target's own
    number unless it is cast), that element of Δ has vanished. Both differences are rounded to W; sums are float64. Elements
    for which they give NaN or infinity are left out of all four.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        error = (out - target) - added
        measured = np.isfinite(error)
        moves, vanished = added != 0, out == unmoved
        if not measured.all():
            added, error = np.where(measured, added, 0), np.where(measured, error, 0)
            moves &= measured
    counts = np.count_nonzero(moves), np.count_nonzero(moves & vanished)
    return np.array([square(added), square(error), *counts], np.float64)


# A loss above this part of ‖Δ‖ is reported; docs/results.md says on which models that was tested.
MOST = 0.1


@dataclass(frozen=True)
class Rounded:
    """``error`` is ‖(out − target) − Δ‖ / ‖Δ‖, ``unchanged`` the share of Δ's ``nonzero`` elements that changed nothing.

    None where Δ is zero, or where a sum left float64's range.
    """

    error: float | None
    unchanged: float | None
    nonzero: int

    @property
    def too_much(self) -> bool:
        """Whether a person should be told."""
        return self.error is not None and self.error > MOST

    def in_words(self, out: str = "output", onto: str = "target") -> str:
        """The figures as a clause about these two."""
        assert self.error is not None and self.unchanged is not None
        return (
            f"‖({out} − {onto}) − Δ‖ is {self.error:.2g} of ‖Δ‖, and {self.unchanged:.0%} of the nonzero elements of "
            f"Δ did not change the {onto}"
        )


def rounded(sums: Iterable[Iterable[float]]) -> Rounded:
    """The figures of all these sums together, each as `measure_rounding` gives them."""
    return rounded_of_columns(list(zip(*sums, strict=True)) or [()] * 4)


def rounded_of_columns(columns: Iterable[Iterable[float]]) -> Rounded:
    """The same of sums that lie in columns: what was added, the errors, elements that are not zero, those unchanged."""
    added, error, nonzero, unchanged = map(total, columns)
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
