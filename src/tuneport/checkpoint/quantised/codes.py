"""The numbers that 8-bit and 4-bit codes stand for.

A table of 256 float32 numbers for each format of a byte, computed from its definition (OCP's 8-bit floating point formats and
microscaling formats; the FNUZ ones are AMD's): sign, exponent, mantissa.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32s = NDArray[np.float32]
# Two of these are in a byte of MXFP4, the first in its lower half: sign, two bits of exponent, one of mantissa.
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


@dataclass(frozen=True)
class _Format:
    """Bits of exponent and mantissa, the bias, and which codes are infinite or NaN."""

    exponent: int
    mantissa: int
    bias: int
    infinite: frozenset[int] = frozenset()
    nan: frozenset[int] = frozenset()


_FORMATS = {
    "F8_E4M3": _Format(4, 3, 7, nan=frozenset({0x7F, 0xFF})),
    "F8_E5M2": _Format(5, 2, 15, frozenset({0x7C, 0xFC}), frozenset({*range(0x7D, 0x80), *range(0xFD, 0x100)})),
    "F8_E4M3FNUZ": _Format(4, 3, 8, nan=frozenset({0x80})),
    "F8_E5M2FNUZ": _Format(5, 2, 16, nan=frozenset({0x80})),
}
FLOAT8 = frozenset(_FORMATS)
# What a format rounds away, as a share of the norm: measured on normal numbers in blocks of 128 × 128 (MXFP4: of 32), each
# scaled to the format's largest number.
ROUNDED_AWAY = {"F8_E4M3": 0.026, "F8_E4M3FNUZ": 0.026, "F8_E5M2": 0.053, "F8_E5M2FNUZ": 0.053, "MXFP4": 0.11}


@functools.cache
def table_of(dtype: str) -> Float32s:
    """What each byte of a format stands for (256); ``F8_E8M0`` and ``U8`` are powers of two, as scales are stored."""
    codes = np.arange(256)
    if dtype in ("F8_E8M0", "U8"):
        found = np.ldexp(np.ones(256), codes - 127)
        found[255] = np.nan
        return found.astype(np.float32)
    format_ = _FORMATS[dtype]
    exponent = (codes >> format_.mantissa) & (2**format_.exponent - 1)
    fraction = (codes & (2**format_.mantissa - 1)) / 2**format_.mantissa
    size = np.where(
        exponent == 0, np.ldexp(fraction, 1 - format_.bias), np.ldexp(1 + fraction, exponent - format_.bias)
    )
    found = np.where(codes & 0x80, -size, size)
    found[list(format_.infinite)] = np.where(np.array(list(format_.infinite), int) & 0x80, -np.inf, np.inf)
    found[list(format_.nan)] = np.nan
    numbers: Float32s = found.astype(np.float32)
    return numbers


@functools.cache
def pairs_of_e2m1() -> Float32s:
    """What both halves of each byte stand for (256 × 2)."""
    signed = np.concatenate([_E2M1, -_E2M1])
    codes = np.arange(256)
    return np.stack([signed[codes & 15], signed[codes >> 4]], axis=1)
