"""Chunks: the same bits back, small where differences are, and nothing but an error from damaged ones."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tuneport.checkpoint.encoded.chunk import DamagedChunkError, decode, encode


def back(numbers: np.ndarray, dtype: str = "F32") -> tuple[bytes, int]:
    chunk = encode(memoryview(numbers).cast("B"), dtype)
    into = bytearray(b"\xaa" * numbers.nbytes)
    decode(memoryview(chunk), dtype, memoryview(into))
    return bytes(into), len(chunk)


def difference(count: int, size: float, share: float = 1.0, seed: int = 0) -> np.ndarray:
    """Of bfloat16 numbers, as a fine-tuning leaves it."""
    drawn = np.random.default_rng(seed)
    base = drawn.standard_normal(count).astype(np.float32)
    moved = base + (size * drawn.standard_normal(count) * (drawn.random(count) < share)).astype(np.float32)
    short = [(each.view(np.uint32) + 0x7FFF + (each.view(np.uint32) >> 16 & 1)) & 0xFFFF0000 for each in (base, moved)]
    return short[1].view(np.float32) - short[0].view(np.float32)


@settings(max_examples=300)
@given(arrays.arrays(np.uint32, st.integers(1, 300)))
def test_any_bits_come_back(bits: np.ndarray) -> None:
    assert back(bits)[0] == bits.tobytes()


@settings(max_examples=200)
@given(
    arrays.arrays(
        np.float32,
        st.integers(1, 400),
        elements=st.one_of(
            st.just(0.0),
            st.sampled_from(
                [-0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 2.0**-149, 2.0**127, 3.4e38, 2.0**-126, 256.0, 255.0, 127.5]
            ),
            st.floats(width=32),
        ),
    )
)
def test_any_numbers_come_back(numbers: np.ndarray) -> None:
    assert back(numbers)[0] == numbers.tobytes()


@pytest.mark.parametrize("share", [1.0, 0.3, 0.02, 0.001])
@pytest.mark.parametrize("size", [1e-1, 1e-2, 1e-3])
def test_differences_come_back_and_take_little_more_than_their_entropy(size: float, share: float) -> None:
    numbers = difference(2**18, size, share)
    content, length = back(numbers)
    assert content == numbers.tobytes()
    odd = entropy_of_odd_multiples(numbers)
    assert length <= 1.15 * odd + 300, (length, odd)


def entropy_of_odd_multiples(numbers: np.ndarray) -> float:
    """Bytes: order-0 entropy of k (0 for zero) over all numbers and of e over the others, with numpy's own frexp."""
    nonzero = numbers[numbers != 0]
    mantissa, exponent = np.frexp(nonzero.astype(np.float64))
    whole = np.abs(mantissa * 2**24).astype(np.int64)
    zeros = np.log2(whole & -whole).astype(np.int64)
    k = np.zeros(len(numbers), np.int64)
    k[numbers != 0] = (whole >> zeros) * np.sign(nonzero).astype(np.int64)
    return sum(_entropy(each) for each in (k, exponent - 24 + zeros)) / 8


def _entropy(symbols: np.ndarray) -> float:
    counts = np.unique(symbols, return_counts=True)[1].astype(float)
    return float(-(counts * np.log2(counts / counts.sum())).sum())


@pytest.mark.parametrize("dtype", ["BF16", "F64", "F16", "U8"])
def test_numbers_of_other_dtypes_come_back(dtype: str) -> None:
    numbers = np.random.default_rng(0).standard_normal(1000)
    assert back(numbers, dtype)[0] == numbers.tobytes()


def test_zeros_take_nothing_and_noise_no_more_than_itself() -> None:
    assert back(np.zeros(1000, np.float32)) == (bytes(4000), 0)
    noise = np.random.default_rng(0).integers(0, 2**32, 1000, dtype=np.uint32)
    assert back(noise) == (noise.tobytes(), 4000)


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_chunk_is_an_error_or_other_numbers_and_nothing_else(data: st.DataObject) -> None:
    numbers = difference(500, 1e-2, data.draw(st.sampled_from([1.0, 0.01])))
    chunk = bytearray(encode(memoryview(numbers).cast("B"), "F32"))
    for _ in range(data.draw(st.integers(1, 4))):
        chunk[data.draw(st.integers(0, len(chunk) - 1))] = data.draw(st.integers(0, 255))
    kept = memoryview(chunk)[: data.draw(st.integers(1, len(chunk)))]
    into = bytearray(numbers.nbytes)
    with contextlib.suppress(DamagedChunkError):
        decode(kept, "F32", memoryview(into))
