"""The randomised spectrum of a matrix, against numpy's whole decomposition."""

from __future__ import annotations

import numpy as np
import pytest

from tuneport.checkpoint.floats import Floats
from tuneport.comparison.spectrum import LEADING, PASSES, Sketch, Spectrum, overlap, record


def matrix(rows: int, columns: int, decay: float, seed: int = 0) -> Floats:
    """A matrix whose singular values fall by ``decay`` from one to the next."""
    made = np.random.default_rng(seed)
    left = np.linalg.qr(made.standard_normal((rows, min(rows, columns))))[0]
    right = np.linalg.qr(made.standard_normal((columns, min(rows, columns))))[0]
    return ((left * decay ** np.arange(min(rows, columns))) @ right.T).astype(np.float32)


def sketched(whole: Floats, at_once: int = 7, seed: int = 0) -> Spectrum:
    sketch = Sketch(*whole.shape, seed)
    for number in range(PASSES):
        starts = list(range(0, len(whole), at_once))
        for start in reversed(starts) if number % 2 else starts:
            sketch.take(start, whole[start : start + at_once])
        sketch.turn()
    return sketch.spectrum()


@pytest.mark.parametrize("shape", [(90, 60), (60, 90), (200, 9), (5, 70), (1, 8)])
@pytest.mark.parametrize("decay", [0.5, 0.9, 0.97])
def test_leading_values_and_effective_rank_are_those_of_the_whole_decomposition(
    shape: tuple[int, int], decay: float
) -> None:
    whole = matrix(*shape, decay)
    values = np.linalg.svd(whole, compute_uv=False)
    found = sketched(whole)
    assert np.allclose(found.values, values[: len(found.values)], rtol=0.05)
    assert found.square == pytest.approx(float((values**2).sum()), rel=1e-5)
    rank = (values**2).sum() ** 2 / (values**4).sum()
    assert found.effective_rank == pytest.approx(rank, rel=0.05)
    assert len(found.values) == min(LEADING, *shape)


def test_the_order_and_size_of_the_pieces_change_nothing() -> None:
    whole = matrix(64, 48, 0.9)
    one, other = sketched(whole, 64), sketched(whole, 5)
    assert np.allclose(one.values, other.values, rtol=1e-5)


def test_a_flat_spectrum_has_an_effective_rank_near_the_number_of_rows() -> None:
    made = np.random.default_rng(1)
    whole = made.standard_normal((150, 400)).astype(np.float32)
    values = np.linalg.svd(whole, compute_uv=False)
    rank = (values**2).sum() ** 2 / (values**4).sum()
    assert sketched(whole).effective_rank == pytest.approx(float(rank), rel=0.15)


def test_subspaces_overlap_as_far_as_they_are_the_same() -> None:
    whole = matrix(80, 80, 0.6)
    found = sketched(whole)
    assert overlap(found.left, found.left) == pytest.approx(1.0, abs=1e-5)
    told = record(found, sketched(2 * whole, seed=5))
    assert told["overlap_left"] == pytest.approx(1.0, abs=1e-3)
    strangers = record(found, sketched(matrix(80, 80, 0.6, seed=9)))
    assert strangers["overlap_by_chance"] == LEADING / 80
    assert strangers["overlap_left"] < 3 * LEADING / 80


def test_a_matrix_of_zeros_has_no_rank_and_no_overlap() -> None:
    found = sketched(np.zeros((20, 30), np.float32))
    told = record(found, sketched(matrix(20, 30, 0.5)))
    assert told["effective_rank"] is None
    assert told["overlap_left"] is None
