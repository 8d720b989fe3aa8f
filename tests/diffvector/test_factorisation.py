"""Factors of large matrices against numpy's own decomposition, and ranks against a search over all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuneport.diffvector.exports.factorisation import SMALL, SingularFactors, Strips, factorise, factorise_until
from tuneport.diffvector.exports.ranks import holds_energy, rank_of_energy, ranks_of_budget

SHAPES = [(1400, 900), (700, 2100)]


def strips_of(matrix: np.ndarray, height: int = 97) -> Strips:
    def strips() -> Iterator[tuple[int, np.ndarray]]:
        for first in range(0, len(matrix), height):
            yield first, matrix[first : first + height].copy()

    return strips


def made(shape: tuple[int, int], values: np.ndarray, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed)
    left = np.linalg.qr(drawn.standard_normal((shape[0], len(values))))[0]
    right = np.linalg.qr(drawn.standard_normal((shape[1], len(values))))[0]
    return ((left * values) @ right.T).astype(np.float32)


def rebuilt(found: SingularFactors) -> np.ndarray:
    return (found.left * found.values.astype(np.float32)) @ found.right.T


@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_of_low_rank_is_found_with_its_rank(shape: tuple[int, int]) -> None:
    assert shape[0] * shape[1] > SMALL
    matrix = made(shape, np.array([3.0, 2.0, 1.0, 0.5, 1e-3]))
    found = factorise(strips_of(matrix), shape, 64, 7)
    assert found.whole
    assert found.values == pytest.approx([3.0, 2.0, 1.0, 0.5, 1e-3], rel=1e-3)
    assert np.linalg.norm(rebuilt(found) - matrix) < 1e-6 * np.linalg.norm(matrix)
    assert found.square == pytest.approx(float((matrix.astype(np.float64) ** 2).sum()), rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_leading_directions_of_a_flat_spectrum_are_nearly_the_best(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    found = factorise(strips_of(matrix), shape, 24, 7)
    assert not found.whole
    best = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[:24]
    assert (found.values <= best * (1 + 1e-5)).all()
    assert float((found.values**2).sum()) > 0.92 * float((best**2).sum())


def test_the_same_seed_gives_the_same_bytes_for_strips_of_any_number() -> None:
    matrix = made(SHAPES[0], np.geomspace(1, 1e-3, 60))
    one, other = (factorise(strips_of(matrix), SHAPES[0], 20, 3) for _ in range(2))
    assert one.left.tobytes() == other.left.tobytes()
    different = factorise(strips_of(matrix, 333), SHAPES[0], 20, 3)
    assert different.values == pytest.approx(one.values, rel=1e-5)


def test_directions_are_doubled_until_the_energy_is_held() -> None:
    shape = SHAPES[0]
    matrix = made(shape, np.geomspace(1, 0.05, 90))
    whole = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    wanted = rank_of_energy(whole, float((whole**2).sum()), 0.9)
    found = factorise_until(strips_of(matrix), shape, 4, 3, lambda one: holds_energy(one.values, one.square, 0.9))
    assert abs(rank_of_energy(found.values, found.square, 0.9) - wanted) <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(8, 6), SHAPES[0]])
def test_what_is_not_finite_has_no_directions(shape: tuple[int, int], value: float) -> None:
    matrix = np.ones(shape, np.float32)
    matrix[3, 2] = value
    found = factorise(strips_of(matrix), shape, 4, 1)
    assert not len(found.values)
    assert not np.isfinite(found.square)


def test_a_matrix_of_zeros_has_rank_zero() -> None:
    found = factorise(strips_of(np.zeros((9, 5), np.float32)), (9, 5), 4, 1)
    assert (len(found.values), found.square, found.whole) == (0, 0.0, True)


spectra = st.lists(
    st.lists(st.integers(1, 50), min_size=0, max_size=4).map(lambda own: np.sort(np.array(own, float))[::-1]),
    min_size=1,
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(spectra, st.integers(0, 40))
def test_with_equal_costs_a_budget_is_spent_as_well_as_can_be(values: list[np.ndarray], budget: int) -> None:
    ranks = ranks_of_budget(values, [3] * len(values), budget)
    assert sum(ranks) * 3 <= budget
    kept = sum(float((own[:rank] ** 2).sum()) for own, rank in zip(values, ranks, strict=True))
    every = itertools.product(*(range(len(own) + 1) for own in values))
    best = max(
        sum(float((own[:rank] ** 2).sum()) for own, rank in zip(values, each, strict=True))
        for each in every
        if sum(each) * 3 <= budget
    )
    assert kept == pytest.approx(best)
