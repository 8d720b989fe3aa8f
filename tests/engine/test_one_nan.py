"""One payload for every NaN, in every dtype, by whichever way: the kernel and numpy store the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tuneport.checkpoint import floats
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.engine import kernel
from tuneport.engine.arithmetic import Draw, draw_key

pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.skipif(kernel.NAME != "compiled", reason="no compiler was at hand when tuneport was installed"),
]
FLOATS = ["BF16", "F16", "F32", "F64"]
ONE_NAN = {"BF16": 0x7FC0, "F16": 0x7E00, "F32": 0x7FC00000, "F64": 0x7FF8000000000000}
# Exponents of all ones: bits of both signs, infinity, quiet and signalling NaNs with payloads at both ends.
NONFINITE = {
    "BF16": [0x7F80, 0xFF80, 0x7FC0, 0xFFC0, 0x7F81, 0xFF81, 0x7FFF, 0xFFFF],
    "F16": [0x7C00, 0xFC00, 0x7E00, 0xFE00, 0x7C01, 0xFC01, 0x7FFF, 0xFFFF],
    "F32": [0x7F800000, 0xFF800000, 0x7FC00333, 0xFFC00777, 0x7F800001, 0xFFBFFFFF, 0x7FFFFFFF, 0xFFFFFFFF],
    "F64": [v << 48 | w for v in (0x7FF0, 0xFFF0, 0x7FF8, 0xFFF8) for w in (0, 1, 0x333)],
}
Bits = NDArray[Any]


def drawn(dtype: str, count: int, seed: int) -> Bits:
    """Any bits at all, half of them with an exponent of all ones."""
    made, width = np.random.default_rng(seed), DTYPES[dtype].itemsize
    bits = made.integers(0, 256, count * width, dtype=np.uint8).view(f"<u{width}").copy()
    chosen = made.random(count) < 0.5
    bits[chosen] = made.choice(np.array(NONFINITE[dtype], bits.dtype), int(chosen.sum()))
    return bits


def view(bits: Bits) -> memoryview:
    return memoryview(np.ascontiguousarray(bits).view(np.uint8)) if bits.size else memoryview(bytearray())


def both_ways(compute: Callable[[], Bits]) -> Bits:
    with mock.patch.object(kernel, "_compiled", None):
        slow = compute()
    fast = compute()
    assert fast.tobytes() == slow.tobytes()
    return fast


def assert_one_nan(bits: Bits, dtype: str) -> None:
    stored = bits.view(f"<u{DTYPES[dtype].itemsize}")
    values = floats.widen(stored.view(DTYPES[dtype].numpy), dtype, "F64")
    assert set(stored[np.isnan(values)].tolist()) <= {ONE_NAN[dtype]}


COUNTS = st.one_of(st.integers(0, 40), st.sampled_from([1023, 1024, 1025]))
SCALES = st.sampled_from([1.0, -1.0, 0.5, -0.3, 3e38, 1e-300, 1e300])
DRAWS = st.sampled_from([None, Draw(draw_key(7, "x"), 3)])
SEEDS = st.integers(0, 2**32)


@given(st.lists(st.sampled_from(FLOATS), min_size=4, max_size=4), COUNTS, SCALES, DRAWS, SEEDS, st.booleans())
def test_sums_of_any_dtypes(
    dtypes: list[str], count: int, scale: float, draw: Draw | None, seed: int, alike: bool
) -> None:
    dtypes = [dtypes[0]] * 4 if alike else dtypes
    parts = [drawn(dtype, count, seed + place) for place, dtype in enumerate(dtypes[:3])]
    how = kernel.Dtypes(*dtypes, floats.working_dtype(*dtypes[:3]))

    def compute() -> Bits:
        out = np.zeros(count, DTYPES[dtypes[3]].numpy)
        kernel.transfer(
            *map(view, parts),
            view(out) if count else memoryview(bytearray()),
            how,
            kernel.Addition(scale, 0, kernel.no_sums(), draw),
        )
        return out

    assert_one_nan(both_ways(compute), dtypes[3])


@given(st.sampled_from(["F32", "F64"]), st.sampled_from(FLOATS), st.sampled_from(FLOATS), COUNTS, SCALES, DRAWS, SEEDS)
def test_differences_that_are_at_hand(
    work: str, stored: str, dtype: str, count: int, scale: float, draw: Draw | None, seed: int
) -> None:
    work = "F64" if stored == "F64" else work
    diff = drawn(work, count, seed).view(DTYPES[work].numpy)
    target = drawn(stored, count, seed + 1)

    def compute() -> Bits:
        out = np.zeros(count, DTYPES[dtype].numpy)
        kernel.add(
            diff,
            view(target),
            view(out) if count else memoryview(bytearray()),
            (stored, dtype),
            kernel.Addition(scale, 0, kernel.no_sums(), draw),
        )
        return out

    assert_one_nan(both_ways(compute), dtype)


@given(st.sampled_from(FLOATS), st.sampled_from(FLOATS), COUNTS, DRAWS, SEEDS)
def test_casts_and_differences_that_are_stored(
    stored: str, dtype: str, count: int, draw: Draw | None, seed: int
) -> None:
    work = floats.working_dtype(stored)
    one, other = (drawn(stored, count, seed + place).view(DTYPES[stored].numpy) for place in range(2))

    def compute() -> Bits:
        wide, minus = (kernel.widen(bits, stored, work) for bits in (one, other))
        found = [kernel.narrow(wide, dtype, draw), kernel.narrow(floats.difference(wide, minus), dtype, draw)]
        return np.concatenate(found)

    assert_one_nan(both_ways(compute), dtype)


@given(st.integers(1, 5), st.integers(1, 70), st.integers(1, 9), st.sampled_from(FLOATS), SEEDS)
def test_products_of_adapters(rows: int, columns: int, rank: int, dtype: str, seed: int) -> None:
    left = drawn("F32", rows * rank, seed).view(np.float32).reshape(rows, rank)
    right = drawn("F32", rank * columns, seed + 1).view(np.float32).reshape(rank, columns)

    def compute() -> Bits:
        product = np.zeros((rows, columns), np.float32)
        kernel.accumulate(left, right, product, True)
        return kernel.narrow(product.ravel(), dtype)

    assert_one_nan(both_ways(compute), dtype)
