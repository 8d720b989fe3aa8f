"""Convert stored numbers to arrays: widen exactly, round once, subtract, square, count.

Stored numbers are passed around as *bits*: arrays as numpy reads them, uint16 for bfloat16. W is the working dtype:
float64 if any input is float64, else float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuneport.checkpoint.dtypes import DTYPES

Array = NDArray[Any]
Floats = NDArray[np.float32] | NDArray[np.float64]

# An exponent of all ones in formats of sixteen bits: infinity or NaN.
_EXPONENT = {"BF16": 0x7F80, "F16": 0x7C00}


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
    """Working numbers rounded once to ``dtype``, to nearest, ties to even; overflow becomes infinity.

    Every NaN becomes one: positive, quiet, without a payload.
    """
    if dtype == "BF16":
        return narrow_bf16(values)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = values.astype(DTYPES[dtype].numpy, copy=False)
    nan = np.isnan(values)
    if nan.any():
        rounded = rounded.copy() if rounded is values else rounded
        rounded[nan] = np.nan
    return rounded


def difference(tuned: Floats, base: Floats) -> Floats:
    """The diff vector of a piece: d = W(tuned) − W(base)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return tuned - base


def square(values: Floats) -> float:
    """Sum of squares in float64."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        wide = values.astype(np.float64)
        return float(wide @ wide)


def count_nonfinite(bits: Array, dtype: str) -> int:
    """How many of the stored numbers are NaN or infinite."""
    if dtype in _EXPONENT:
        exponent = _EXPONENT[dtype]
        return int(np.count_nonzero((bits.view(np.uint16) & exponent) == exponent))
    return int(bits.size - np.count_nonzero(np.isfinite(bits)))


def narrow_bf16(values: Floats, random: NDArray[np.uint16] | None = None) -> Array:
    """To nearest even; or away from zero if adding ``random`` to the cut-off bits overflows into the kept bits."""
    if values.dtype == np.float64:
        values = _to_odd_float32(values)
    bits = np.ascontiguousarray(values).view(np.uint32)
    more = np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))
    if random is not None:
        more = np.where(bits & np.uint32(0x7FFFFFFF) < np.uint32(0x7F7F0000), random, more)
    rounded = ((bits + more) >> 16).astype(np.uint16)
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
