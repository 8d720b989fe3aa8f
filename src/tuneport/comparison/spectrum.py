"""How a diff vector's matrix is spread over its directions, and whether it overlaps with target − base.

The full matrix is never in memory: `Sketch` reads its rows piece by piece, several times, and keeps a few columns
(Halko, Martinsson and Tropp 2011, randomised range finder with power iterations).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuneport.checkpoint.floats import Floats, square

# Singular values that are reported, and extra columns that make them exact enough.
LEADING, BEYOND = 8, 16
# Columns of their own, from which the rest of the spectrum is estimated.
PROBES = 24
# Times that the rows are taken: range, power iteration, range again, projection.
PASSES = 4


@dataclass(frozen=True)
class Spectrum:
    """The leading part of one matrix's singular value decomposition: ``left`` (rows, k), ``values`` (k), ``right`` (columns, k).

    ``square`` is ‖D‖², ``fourth`` the sum of the fourth powers of all singular values: those that were found, and an estimate of
    the others.
    """

    left: Floats
    values: Floats
    right: Floats
    square: float
    fourth: float

    @property
    def effective_rank(self) -> float | None:
        """(Σσ²)² / Σσ⁴: how many equal singular values would be as spread out as these."""
        if self.square <= 0 or self.fourth <= 0:
            return None
        most = min(len(self.left), len(self.right))
        return min(max(self.square / self.fourth * self.square, 1.0), float(most))

    @property
    def leading_share(self) -> float | None:
        """The share of ‖D‖² in the leading directions."""
        return min(float(self.values @ self.values) / self.square, 1.0) if self.square > 0 else None


class Sketch:
    """Takes the rows of one matrix `PASSES` times, in any order within a pass; `turn` ends a pass."""

    def __init__(self, rows: int, columns: int, seed: int) -> None:
        """Nothing is known yet of a matrix of this shape."""
        self._width = min(LEADING + BEYOND, rows, columns)
        drawn = np.random.default_rng(seed)
        self._right: Floats = drawn.standard_normal((columns, self._width), dtype=np.float32)
        self._left: Floats = np.zeros((rows, self._width), np.float32)
        self._probes: Floats = drawn.standard_normal((columns, PROBES), dtype=np.float32)
        self._probed: Floats = np.zeros((rows, PROBES), np.float32)
        self._square = 0.0
        self._pass = 0

    def take(self, first: int, rows: Floats) -> None:
        """Some rows, from ``first`` on."""
        if self._pass % 2 == 0:
            self._left[first : first + len(rows)] = rows @ self._right
            if self._pass == 0:
                self._probed[first : first + len(rows)] = rows @ self._probes
                self._square += square(rows.ravel())
        else:
            self._right += rows.T @ self._left[first : first + len(rows)]

    def turn(self) -> None:
        """All rows were taken; the next pass begins."""
        if self._pass % 2 == 0:
            self._left = np.linalg.qr(self._left)[0]
            self._right = np.zeros((len(self._right), self._width), np.float32)
        elif self._pass < PASSES - 1:
            self._right = np.linalg.qr(self._right)[0]
        self._pass += 1

    def spectrum(self) -> Spectrum:
        """What was found, after `PASSES` passes."""
        assert self._pass == PASSES
        right, values, turned = np.linalg.svd(self._right, full_matrices=False)
        count, values = min(LEADING, self._width), values.astype(np.float64)
        left = self._left @ turned.T
        fourth = float((values**4).sum()) + self._fourth_of_the_rest()
        return Spectrum(left[:, :count], values[:count], right[:, :count], self._square, fourth)

    def _fourth_of_the_rest(self) -> float:
        """An unbiased estimate of Σσ⁴ outside the subspace that was found: for Gaussian g and h the mean of (gᵀDᵀDh)² is that."""
        rest = self._probed - self._left @ (self._left.T @ self._probed)
        products = rest.T.astype(np.float64) @ rest
        others = products[~np.eye(PROBES, dtype=bool)]
        return float(others @ others / len(others))


def room_for(rows: int, columns: int) -> int:
    """Bytes that two sketches of a matrix of this shape take, with what is made meanwhile."""
    return 2 * 4 * (3 * (LEADING + BEYOND) + PROBES) * (rows + columns)


def overlap(one: Floats, other: Floats) -> float | None:
    """How much of one subspace lies in another, from orthonormal columns: 0 (at right angles) to 1 (the same)."""
    if not one.size or not other.size or one.shape != other.shape:
        return None
    return float(np.square(one.T @ other, dtype=np.float64).sum() / one.shape[1])


def record(diff: Spectrum, shift: Spectrum | None) -> dict[str, Any]:
    """The figures of one matrix as JSON; ``shift`` None where the base was not read.

    ``overlap_by_chance`` is what the larger of the two overlaps is for directions drawn at random.
    """
    found: dict[str, Any] = {
        "singular_values": diff.values.tolist(),
        "effective_rank": diff.effective_rank,
        "leading_share": diff.leading_share,
        "shift_effective_rank": None,
        "overlap_left": None,
        "overlap_right": None,
        "overlap_by_chance": None,
    }
    if shift is not None and diff.square > 0 and shift.square > 0:
        found |= {
            "shift_effective_rank": shift.effective_rank,
            "overlap_left": overlap(diff.left, shift.left),
            "overlap_right": overlap(diff.right, shift.right),
            "overlap_by_chance": len(diff.values) / min(len(diff.left), len(diff.right)),
        }
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in found.items()
    }
