"""Factorise a matrix by its singular values: exactly if it is small, else by a randomised range finder.

The matrix is taken in strips of rows, several times. A large one is in memory as a whole only where so many directions
are wanted that the exact decomposition is cheaper. The random numbers depend on the seed alone, so bytes repeat on one
machine. Directions that are rounding noise of float32 are left out: a product of rank 8 gives 8 of them.
(Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from tuneport.checkpoint.floats import Floats

# The matrix's strips, from the first row on: where each begins, and its rows.
Strips = Callable[[], Iterator[tuple[int, Floats]]]
# Up to so many elements the exact decomposition is taken, in float64.
SMALL = 2**20
# From this part of all directions on it is taken of any matrix, in float32.
_PART = 3
# Columns beside those that are wanted, and times that the range is sharpened.
_BEYOND, _TURNS = 32, 3
_EPSILON = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class SingularFactors:
    """The leading part of D = left·diag(values)·rightᵀ: ``left`` (rows, k), ``values`` (k), ``right`` (columns, k).

    ``square`` is ‖D‖², not finite where D is not; ``whole``: no direction but noise is left out.
    """

    left: Floats
    values: NDArray[np.float64]
    right: Floats
    square: float
    whole: bool

    def first(self, rank: int) -> SingularFactors:
        """The first ``rank`` directions."""
        whole = self.whole and rank >= len(self.values)
        return SingularFactors(self.left[:, :rank], self.values[:rank], self.right[:, :rank], self.square, whole)


def factorise(strips: Strips, shape: tuple[int, int], width: int, seed: int) -> SingularFactors:
    """The ``width`` leading directions of a matrix (all of them, if it is decomposed exactly)."""
    rows, columns = shape
    most = min(rows, columns)
    if rows * columns <= SMALL or width + _BEYOND >= most // _PART:
        return _exact(strips, shape)
    return _randomised(strips, shape, width, seed)


def factorise_until(
    strips: Strips, shape: tuple[int, int], width: int, seed: int, enough: Callable[[SingularFactors], bool]
) -> SingularFactors:
    """As `factorise`, with twice as many directions until there are enough, or there are no more."""
    while True:
        found = factorise(strips, shape, width, seed)
        if found.whole or enough(found):
            return found
        width *= 2


def seed_of(name: str) -> int:
    """The seed of a tensor's random directions."""
    return int.from_bytes(blake3(name.encode("utf-8", "surrogatepass")).digest()[:8], "little")


def room_for(shape: tuple[int, int], width: int) -> int:
    """The most bytes that `factorise` takes, its result included."""
    rows, columns = shape
    most = min(rows, columns)
    if rows * columns <= SMALL:
        return 8 * (3 * rows * columns + 4 * most * most)
    if width + _BEYOND >= most // _PART:
        return 4 * (3 * rows * columns + 5 * most * most)
    return 4 * 4 * (width + _BEYOND) * (rows + columns)


def _exact(strips: Strips, shape: tuple[int, int]) -> SingularFactors:
    work = np.float64 if shape[0] * shape[1] <= SMALL else np.float32
    matrix = np.empty(shape, work)
    square = 0.0
    for first, rows in strips():
        matrix[first : first + len(rows)] = rows
        square += _square(rows)
    if not math.isfinite(square):
        return _none(shape, square)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    del matrix
    wide = values.astype(np.float64)
    rank = _without_noise(wide, square, shape, 4 if work is np.float32 else 0)
    return SingularFactors(_single(left[:, :rank]), wide[:rank], _single(right[:rank].T), square, True)


def _randomised(strips: Strips, shape: tuple[int, int], width: int, seed: int) -> SingularFactors:
    wanted = width + _BEYOND
    right = np.random.default_rng(seed).standard_normal((shape[1], wanted), dtype=np.float32)
    left, square = _left(strips, shape, right)
    if not math.isfinite(square):
        return _none(shape, square)
    for _ in range(_TURNS):
        right = np.linalg.qr(_right(strips, shape, left))[0]
        left, square = _left(strips, shape, right)
    small = _right(strips, shape, left)  # Dᵀ·left
    turned, values, across = np.linalg.svd(small, full_matrices=False)
    wide = values.astype(np.float64)
    rank = _without_noise(wide, square, shape, 32)
    count = min(width, rank)
    whole = rank <= width
    return SingularFactors(_single(left @ across.T[:, :count]), wide[:count], _single(turned[:, :count]), square, whole)


def _none(shape: tuple[int, int], square: float) -> SingularFactors:
    """No directions: what the matrix holds is not finite."""
    empty = [np.empty((extent, 0), np.float32) for extent in shape]
    return SingularFactors(empty[0], np.empty(0), empty[1], square, True)


def _left(strips: Strips, shape: tuple[int, int], right: Floats) -> tuple[Floats, float]:
    found = np.empty((shape[0], right.shape[1]), np.float32)
    square = 0.0
    for first, rows in strips():
        with np.errstate(over="ignore", invalid="ignore"):
            found[first : first + len(rows)] = rows @ right
        square += _square(rows)
    return np.linalg.qr(found)[0] if math.isfinite(square) else found, square


def _right(strips: Strips, shape: tuple[int, int], left: Floats) -> Floats:
    found = np.zeros((shape[1], left.shape[1]), np.float32)
    for first, rows in strips():
        found += rows.T @ left[first : first + len(rows)]
    return found


def _without_noise(values: NDArray[np.float64], square: float, shape: tuple[int, int], more: float) -> int:
    """How many singular values are above those of the rounding to float32, of the matrix and (``more``) of the work."""
    if not len(values) or square <= 0 or not math.isfinite(square):
        return 0
    rounding = 2 * _EPSILON * math.sqrt(square) * (1 / math.sqrt(shape[0]) + 1 / math.sqrt(shape[1]))
    return int(np.count_nonzero(values > max(rounding, more * _EPSILON * float(values[0]))))


def _square(rows: Floats) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        wide = rows.reshape(-1).astype(np.float64)
        return float(wide @ wide)


def _single(matrix: Floats) -> Floats:
    return np.ascontiguousarray(matrix, np.float32)
