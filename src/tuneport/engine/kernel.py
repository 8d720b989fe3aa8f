"""Compute one piece of a transfer: with the compiled kernel if it is built and fits, else in numpy, with the same bits.

Takes the stored bytes of base, tuned and target; returns the stored bytes of the output and the sums of the piece. Only
this module knows that there are two ways. ``TUNEPORT_KERNEL=numpy`` chooses the slower one.
"""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tuneport.checkpoint import floats
from tuneport.checkpoint.floats import Array, Floats
from tuneport.comparison.rounding import measure_rounding
from tuneport.engine import arithmetic
from tuneport.engine.arithmetic import ROUNDING, SUMS, Draw


def _load() -> Any:
    """The optional extension module; None where no compiler was at hand when tuneport was installed."""
    if os.environ.get("TUNEPORT_KERNEL") == "numpy":
        return None
    try:
        module = importlib.import_module("tuneport.engine._kernel")
    except ImportError:
        return None
    return module if getattr(module, "INTERFACE", None) == _INTERFACE else None  # else from another version's source


_INTERFACE = 5
_compiled = _load()
# Told in every manifest and by `tuneport inspect`.
NAME = "compiled" if _compiled is not None else "numpy"

# Sums are added up over blocks of this many elements, counted from the start of each leaf (a leaf holds whole blocks):
# they are the same for any piece size that is a multiple of it, and for any number of workers.
BLOCK = 65536
# What the kernel computes with, and the bytes of a number; the rest numpy does.
_WIDTHS = {"BF16": 2, "F32": 4}
# Columns that the kernel multiplies together.
_PANEL = 32


class Dtypes(NamedTuple):
    """How the numbers of base, tuned, target and output are stored, and the working dtype."""

    base: str
    tuned: str
    target: str
    out: str
    work: str

    @property
    def one_width(self) -> int | None:
        """Bytes of a number, where the compiled kernel serves and all four are stored alike."""
        alike = len({self.base, self.tuned, self.target, self.out}) == 1 and self.served
        return _WIDTHS[self.out] if alike else None

    @property
    def served(self) -> bool:
        """Whether the compiled kernel computes with these."""
        return _compiled is not None and self.work == "F32" and all(dtype in _WIDTHS for dtype in self[:4])


class Addition(NamedTuple):
    """How a difference is added: by which ``scale`` (not 0), with what rounding (to nearest even, or stochastic with ``draw``).

    ``start`` is the index of the first element in its leaf; ``sums`` are float64 (`arithmetic.SUMS`), added to in place.
    """

    scale: float
    start: int
    sums: Array
    draw: Draw | None = None

    def of_block(self, begin: int) -> Addition:
        """The step of a block that begins ``begin`` elements on."""
        return Addition(self.scale, self.start + begin, self.sums, self.draw and self.draw.at(begin))

    @property
    def compiled(self) -> tuple[Any, ...]:
        """What the kernel takes of it: the first block, the others, and whether and by what to scale and to round."""
        draw = _as_tuple(self.draw)
        return BLOCK - self.start % BLOCK, BLOCK, self.scale != 1, self.scale, draw


def transfer(
    base: memoryview, tuned: memoryview, target: memoryview, out: memoryview, dtypes: Dtypes, step: Addition
) -> int:
    """o = t + s·(u − b) for bytes of float dtypes; adds to the step's sums and returns the count of NaN and infinity."""
    sums = step.sums
    if (width := dtypes.one_width) is not None:
        count: int = _compiled.transfer(base, tuned, target, out, sums, (width,) * 3, *step.compiled)
        return count
    b, u, t, o = map(floats.as_bits, (base, tuned, target, out), dtypes[:4])
    work, bad = dtypes.work, 0
    for begin, end in blocks(step.start, o.size):
        here = step.of_block(begin)
        wide_base, wide_tuned = widen(b[begin:end], dtypes.base, work), widen(u[begin:end], dtypes.tuned, work)
        if dtypes.served:
            part, width = _as_far_as_needed(t[begin:end], dtypes.target, dtypes.out)
            widths = (4, width, _WIDTHS[dtypes.out])
            bad += _compiled.transfer(wide_base, wide_tuned, part, o[begin:end], sums, widths, *here.compiled)
            continue
        wide_target = widen(t[begin:end], dtypes.target, work)
        diff = floats.difference(wide_tuned, wide_base)
        added = arithmetic.scaled(diff, step.scale)
        if _compiled is not None and work == "F32":  # all but the rounding
            own, total = no_sums(), np.empty_like(wide_target)
            unrounded = here._replace(draw=None).compiled
            _compiled.transfer(wide_base, wide_tuned, wide_target, total, own, (4, 4, 4), *unrounded)
            sums[: ROUNDING.start] += own[: ROUNDING.start]
        else:
            total = arithmetic.add(wide_target, added)
            sums[: ROUNDING.start] += arithmetic.measure(diff, wide_target, wide_base)
        bad += settle(total, added, wide_target, o[begin:end], dtypes[2:4], sums, here.draw)
    return bad


def transfer_files(
    files: Sequence[int],
    places: Sequence[int],
    room: Callable[[int], memoryview],
    out: memoryview,
    dtypes: Dtypes,
    step: Addition,
) -> int | None:
    """`transfer`, with base, tuned and target read from ``files`` (descriptors) at ``places`` on the way, block by block.

    A block of each input is used while it lies in the second-level cache, in ``room`` of the size that is asked for.
    None where no kernel serves, or a read failed: the caller then reads by itself, and learns why.
    """
    width = dtypes.one_width
    if width is None:
        return None
    inputs = (tuple(files), tuple(places), room(3 * BLOCK * width))
    count: int | None = _compiled.transfer_files(*inputs, out, step.sums, width, *step.compiled)
    return count


def add(diff: Floats, target: memoryview, out: memoryview, dtypes: tuple[str, str], step: Addition) -> int:
    """o = t + s·d for a difference that is at hand in the working dtype; ``dtypes`` are the target's and the output's.

    The sums that need a base (‖base‖², ‖target − base‖² and the product with it) are left as they are; else as `transfer`.
    """
    t, o = map(floats.as_bits, (target, out), dtypes)
    work, bad, sums = "F64" if diff.dtype == np.float64 else "F32", 0, step.sums
    for begin, end in blocks(step.start, o.size):
        here = step.of_block(begin)
        if _compiled is not None and work == "F32" and all(dtype in _WIDTHS for dtype in dtypes):
            part, width = _as_far_as_needed(t[begin:end], *dtypes)
            widths = (width, _WIDTHS[dtypes[1]])
            bad += _compiled.add(diff[begin:end], part, o[begin:end], sums, widths, *here.compiled)
            continue
        wide = widen(t[begin:end], dtypes[0], work)
        sums[0] += floats.square(diff[begin:end])
        sums[1] += floats.square(wide)
        added = arithmetic.scaled(diff[begin:end], step.scale)
        bad += settle(arithmetic.add(wide, added), added, wide, o[begin:end], dtypes, sums, here.draw)
    return bad


def settle(
    total: Floats, added: Floats, target: Floats, out: Array, dtypes: tuple[str, str], sums: Array, draw: Draw | None
) -> int:
    """Rounds a block into ``out``, measures what that did to what was ``added``, and counts NaN and infinity.

    ``dtypes`` are the target's and the output's.
    """
    target_dtype, dtype = dtypes
    out[:] = narrow(total, dtype, draw)
    work = "F64" if target.dtype == np.float64 else "F32"
    unmoved = target if target_dtype == dtype else widen(narrow(target, dtype, draw), dtype, work)
    stored = widen(out, dtype, work)
    if _compiled is not None and work == "F32":
        _compiled.loss(stored, target, added, unmoved, sums)
    else:
        sums[ROUNDING] += measure_rounding(stored, target, added, unmoved)
    return floats.count_nonfinite(out, dtype)


def _as_far_as_needed(target: Array, dtype: str, out: str) -> tuple[Array, int]:
    """A target's numbers, and their bytes, as the kernel takes them: bfloat16 only for an output in bfloat16."""
    if dtype == "BF16" and out != "BF16":
        return widen(target, dtype, "F32"), 4
    return target, _WIDTHS[dtype]


def square(values: memoryview, dtype: str, start: int, sums: Array) -> None:
    """Adds ‖values‖² to the second of ``sums``, for bytes of one float dtype."""
    if _compiled is not None and dtype in _WIDTHS:
        _compiled.square(values, sums, _WIDTHS[dtype], BLOCK - start % BLOCK, BLOCK)
        return
    bits = floats.as_bits(values, dtype)
    for begin, end in blocks(start, bits.size):
        sums[1] += floats.square(widen(bits[begin:end], dtype, floats.working_dtype(dtype)))


def accumulate(left: Array, right: Array, out: Array, begin: bool) -> None:
    """`arithmetic.accumulate`, the same bits: out[i,j] += left[i,k]·right[k,j] in the order of k.

    Matrices of any strides within C-contiguous buffers; the rows of ``out`` are contiguous.
    """
    if _compiled is None or not all(matrix.dtype == np.float32 for matrix in (left, right, out)) or not out.size:
        arithmetic.accumulate(left, right, out, begin)
        return
    panel = np.empty((left.shape[1], _PANEL), np.float32)
    strides = [stride // 4 for matrix in (left, right, out) for stride in matrix.strides]
    assert strides[5] == 1 and left.shape[1] > 0
    _compiled.accumulate(
        _from_first(left),
        _from_first(right),
        _from_first(out),
        panel,
        *out.shape,
        left.shape[1],
        *strides[:5],
        begin,
    )  # fmt: skip  (matrices, sizes, strides)


def _from_first(matrix: Array) -> Array:
    """The memory of a matrix from its first to its last element, as one row: what the kernel strides over."""
    length = sum((size - 1) * (stride // 4) for size, stride in zip(matrix.shape, matrix.strides, strict=True)) + 1
    return np.lib.stride_tricks.as_strided(matrix, (length,), (4,))


def blocks(start: int, count: int) -> list[tuple[int, int]]:
    """Ranges that cut ``count`` elements at the grid of `BLOCK`, for a piece whose first element is ``start``."""
    cuts = [0, *range(BLOCK - start % BLOCK, count, BLOCK), count]
    return list(itertools.pairwise(cuts)) if count else []


def widen(bits: Array, dtype: str, work: str) -> Array:
    """Stored numbers in the working dtype."""
    if _compiled is not None and dtype == "BF16" and work == "F32" and bits.flags.c_contiguous:
        wide = np.empty(bits.shape, np.float32)
        _compiled.widen(bits, wide)
        return wide
    return floats.widen(bits, dtype, work)


def narrow(values: Array, dtype: str, draw: Draw | None = None) -> Array:
    """Working numbers rounded to nearest even, or stochastically with ``draw``."""
    if _compiled is not None and dtype == "BF16" and values.dtype == np.float32 and values.flags.c_contiguous:
        bits = np.empty(values.shape, np.uint16)
        _compiled.narrow(values, bits, _as_tuple(draw))
        return bits
    return floats.narrow(values, dtype) if draw is None else arithmetic.narrow_stochastic(values, dtype, draw)


def _as_tuple(draw: Draw | None) -> tuple[bytes, int] | None:
    return None if draw is None else (draw.key, draw.index)


def no_sums() -> Array:
    """Zeros to add to."""
    return np.zeros(SUMS, np.float64)
