"""The arithmetic of transfer, defined to the last bit: arrays in, arrays out.

    d = W(tuned) − W(base)        p = W(scale)·d        o = W(target) + p
    d = W(scaling)·Σ W(B)·W(A)    for the product of an adapter, term by term in the order of the rank

W is the working dtype: float64 if any input is float64, else float32. Each step is rounded to W separately (numpy fuses
nothing), then the result is rounded once to the output dtype. Stored numbers are passed around as *bits*: arrays as
numpy reads them, uint16 for bfloat16. `tuneport.engine.kernel` computes the same bits faster where it can.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.floats import Array, Floats, narrow, narrow_bf16, widen

# Sums of a piece, in this order: ‖Δ‖², ‖target‖², ‖base‖², ‖target − base‖², Δ·(target − base), in how many elements Δ has
# another sign than target − base (of several diff vectors the squares are added up, the rest is the first one's); then what
# rounding did, see `measure_rounding`.
SUMS = 10
ROUNDING = slice(6, 10)


def scaled(diff: Floats, scale: float) -> Floats:
    """p = W(scale)·d; scale 1 skips the product, scale 0 must be copied by the caller instead."""
    assert scale != 0, "scale 0 is a copy of bytes: -0.0 + 0·x would be +0.0"
    if scale == 1:
        return diff
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return diff.dtype.type(scale) * diff


def add(target: Floats, added: Floats) -> Floats:
    """o = W(target) + p."""
    with np.errstate(over="ignore", invalid="ignore"):
        return target + added


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
    """The first six sums of a piece, in float64: see `SUMS`."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        d, t, b = diff.astype(np.float64), target.astype(np.float64), base.astype(np.float64)
        g = (target - base).astype(np.float64)
        opposed = np.count_nonzero(np.sign(d) * np.sign(g) < 0)
        return np.array([d @ d, t @ t, b @ b, g @ g, d @ g, opposed])


@dataclass(frozen=True)
class Draw:
    """Where the random numbers of stochastic rounding are drawn: a tensor's `draw_key`, and the index of an element."""

    key: bytes
    index: int

    def at(self, offset: int) -> Draw:
        """The same tensor, so many elements further on."""
        return Draw(self.key, self.index + offset)


def draw_key(seed: int, name: str) -> bytes:
    """What tells the random numbers of one tensor from those of another: a function of seed and name, nothing else."""
    return blake3(f"{seed}\0{name}".encode()).digest(16)


def narrow_stochastic(values: Floats, dtype: str, draw: Draw) -> Array:
    """Working numbers rounded up or down to ``dtype`` with the chance that makes the mean right.

    A number that the dtype holds exactly is kept; NaN and infinity pass through; beyond the largest number, where a
    neighbour would be infinity, the rounding is to nearest. From float32 to bfloat16 the chance is a multiple of 2⁻¹⁶ and
    met exactly, by 16 random bits an element; else it is met to 2⁻³², by 32.
    """
    if DTYPES[dtype].itemsize >= values.dtype.itemsize:
        return narrow(values, dtype)
    if dtype == "BF16" and values.dtype == np.float32:
        return narrow_bf16(values, uniform(draw, values.size, np.uint16))
    random = uniform(draw, values.size, np.uint32)
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


def uniform(draw: Draw, count: int, dtype: type[np.uint16] | type[np.uint32]) -> Array:
    """Random bits of ``count`` elements, 16 or 32 for each: a function of key and index, nothing else.

    Words of 32 bits come from Threefry4x32-20, four for each counter of 64 bits; those of sixteen counters stand together,
    the first word of each, then the second of each …, as a machine's vectors have them. With 16 bits two neighbours share a
    word, the even index its lower half.
    """
    per_group = 64 * 4 // np.dtype(dtype).itemsize
    first, last = draw.index // per_group, -(-(draw.index + count) // per_group)
    counters = np.arange(16 * first, 16 * last, dtype=np.uint64)
    words = np.stack(_threefry(counters, draw.key)).reshape(4, last - first, 16).transpose(1, 0, 2)
    found: Array = np.ascontiguousarray(words).view(dtype).ravel()
    return found[draw.index - first * per_group :][:count]


_ROTATIONS = ((10, 26), (11, 21), (13, 27), (23, 5), (6, 20), (17, 11), (25, 10), (18, 20))


def _threefry(counters: NDArray[np.uint64], key: bytes) -> list[NDArray[np.uint32]]:
    """Threefry4x32-20 (Salmon et al. 2011): four random words for each counter."""
    keys = [*np.frombuffer(key, "<u4"), np.uint32(0x1BD11BDA)]
    for part in keys[:4]:
        keys[4] ^= part
    words = [counters.astype(np.uint32), (counters >> np.uint64(32)).astype(np.uint32)]
    words += [np.zeros_like(words[0]), np.zeros_like(words[0])]
    words = [word + part for word, part in zip(words, keys, strict=False)]
    for number in range(20):
        for (one, other), by in zip(
            (((0, 1), (2, 3)), ((0, 3), (2, 1)))[number % 2], _ROTATIONS[number % 8], strict=True
        ):
            words[one] = words[one] + words[other]
            rotated = (words[other] << np.uint32(by)) | (words[other] >> np.uint32(32 - by))
            words[other] = rotated ^ words[one]
        if number % 4 == 3:
            step = number // 4 + 1
            words = [word + keys[(step + place) % 5] for place, word in enumerate(words)]
            words[3] = words[3] + np.uint32(step)
    return words


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
