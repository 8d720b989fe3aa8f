"""The arithmetic of transfer, defined to the last bit: arrays in, arrays out.

    d = W(tuned) − W(base)        p = W(scale)·d        o = W(target) + p
    d = W(scaling)·Σ W(B)·W(A)    for the product of an adapter, term by term in the order of the rank

W is the working dtype: float64 if any input is float64, else float32. Each step is rounded to W by itself (numpy
fuses nothing), then the result is rounded once to the output dtype. What is stored is handed around as *bits*: an
array of the stored numbers as numpy reads them, uint16 for bfloat16. `tuneport.transfer.kernel` computes the same bits
faster where it can.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from tuneport.checkpoint.dtypes import DTYPES

Array = NDArray[Any]
Floats = NDArray[np.float32] | NDArray[np.float64]

# Sums of a piece, in this order: ‖Δ‖², ‖target‖², ‖base‖², ‖target − base‖², Δ·(target − base).
SUMS = 5


def working_dtype(*dtypes: str) -> str:
    """The safetensors name of W for inputs of these dtypes."""
    return "F64" if "F64" in dtypes else "F32"


def as_bits(buffer: memoryview | bytes | bytearray, dtype: str) -> Array:
    """The stored numbers of a byte buffer, without a copy."""
    return np.frombuffer(buffer, dtype=DTYPES[dtype].numpy)


def widen(bits: Array, dtype: str, work: str) -> Floats:
    """Stored numbers in the working dtype, exactly (every stored float fits into W)."""
    if dtype == "BF16":
        wide = np.empty(bits.shape, np.uint32)
        np.left_shift(bits, 16, out=wide, dtype=np.uint32, casting="unsafe")
        bits = wide.view(np.float32)
    with np.errstate(invalid="ignore"):  # numpy would warn of a signalling NaN
        return bits.astype(np.float32, copy=False) if work == "F32" else bits.astype(np.float64, copy=False)


def narrow(values: Floats, dtype: str) -> Array:
    """Working numbers rounded once to ``dtype``, to nearest, ties to even; overflow becomes infinity."""
    if dtype == "BF16":
        return _narrow_bf16(values)
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(DTYPES[dtype].numpy, copy=False)


def difference(tuned: Floats, base: Floats) -> Floats:
    """The diff vector of a piece: d = W(tuned) − W(base)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return tuned - base


def add(target: Floats, diff: Floats, scale: float) -> Floats:
    """o = W(target) + W(scale)·d; scale 1 skips the product, scale 0 must be copied by the caller instead."""
    assert scale != 0, "scale 0 is a copy of bytes: -0.0 + 0·x would be +0.0"
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return target + diff if scale == 1 else target + diff.dtype.type(scale) * diff


def accumulate(left: Floats, right: Floats, out: Floats, begin: bool) -> None:
    """Terms of a product added to ``out`` one after another: out[i,j] += left[i,k]·right[k,j] for k = 0, 1, …

    Each product and each sum is rounded by itself, in the order of k, without BLAS and without fusion, so a product is
    the same on any machine and however it is cut. ``begin``: the first term is not added but put in place.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for k in range(left.shape[1]):
            term = left[:, k, None] * right[k]
            if begin and k == 0:
                out[...] = term
            else:
                out += term


def measure(diff: Floats, target: Floats, base: Floats) -> Array:
    """The five sums of a piece in float64: see `SUMS`."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        d, t, b = diff.astype(np.float64), target.astype(np.float64), base.astype(np.float64)
        g = (target - base).astype(np.float64)
        return np.array([d @ d, t @ t, b @ b, g @ g, d @ g])


def square(values: Floats) -> float:
    """Sum of squares in float64."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        wide = values.astype(np.float64)
        return float(wide @ wide)


def count_nonfinite(bits: Array, dtype: str) -> int:
    """How many of the stored numbers are NaN or infinite."""
    if dtype == "BF16":
        return int(np.count_nonzero((bits & 0x7F80) == 0x7F80))
    return int(bits.size - np.count_nonzero(np.isfinite(bits)))


def narrow_stochastic(values: Floats, dtype: str, random: NDArray[np.uint32]) -> Array:
    """Working numbers rounded up or down to ``dtype`` with the chance that makes the mean right.

    ``random`` holds one uniform number of 32 bits per element, see `uniform`. A number that the dtype holds exactly is
    kept; NaN and infinity pass through.
    """
    if DTYPES[dtype].itemsize >= values.dtype.itemsize:
        return narrow(values, dtype)
    nearest = narrow(values, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(widen(nearest, dtype, "F64")) - np.abs(values.astype(np.float64))
    down = _toward_zero(nearest, error > 0)
    up = down + down.dtype.type(1)
    low, high = np.abs(_float64(down, dtype)), np.abs(_float64(up, dtype))
    with np.errstate(over="ignore", invalid="ignore"):
        chance = (np.abs(values.astype(np.float64)) - low) / (high - low)
        chosen = np.where(random < np.floor(chance * 2.0**32), up, down)
    regular = np.isfinite(values) & np.isfinite(high) & (error != 0)
    return np.where(regular, chosen, _as_unsigned(nearest)).astype(chosen.dtype).view(DTYPES[dtype].numpy)


def uniform(seed: int, name: str, start: int, count: int) -> NDArray[np.uint32]:
    """Random bits of the elements ``start`` … of a tensor: a function of seed, name and index, nothing else."""
    key = int.from_bytes(blake3(f"{seed}\0{name}".encode()).digest(16), "little")
    first, last = start // 8, -(-(start + count) // 8)  # Philox gives four words of 64 bits for each counter
    words = np.random.Philox(key=key, counter=first).random_raw((last - first) * 4)
    return words.view(np.uint32)[start - first * 8 :][:count]


def _narrow_bf16(values: Floats) -> Array:
    if values.dtype == np.float64:
        values = _to_odd_float32(values)
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16).astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        rounded[nan] = 0x7FC0  # the quiet NaN that torch writes
    return rounded


def _to_odd_float32(values: Floats) -> NDArray[np.float32]:
    """Float64 to float32, rounded to odd: a second rounding then gives what one rounding would have given."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = values.astype(np.float32)
        back = single.astype(np.float64)
    bits = single.view(np.uint32).copy()
    inexact = np.isfinite(values) & (back != values)
    toward_zero = inexact & (np.abs(back) > np.abs(values))
    bits[toward_zero] -= np.uint32(1)
    bits[inexact] |= np.uint32(1)
    return bits.view(np.float32)


def _as_unsigned(bits: Array) -> Array:
    return bits.view(f"<u{bits.dtype.itemsize}")


def _toward_zero(bits: Array, where: NDArray[np.bool_]) -> Array:
    """The stored numbers, one step nearer to zero at the chosen places (a step of the bits is a step of the value)."""
    result = _as_unsigned(bits).copy()
    result[where] -= result.dtype.type(1)
    return result


def _float64(bits: Array, dtype: str) -> NDArray[np.float64]:
    wide = widen(bits.view(DTYPES[dtype].numpy), dtype, "F64")
    return wide.astype(np.float64, copy=False)
