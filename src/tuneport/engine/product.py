"""Compute the product of an adapter's factors in tiles: any range of its elements, in bounded memory.

Returns scaling·Σ B·A of a range, in the working dtype. The factors are read tile by tile. Each element's terms are
added in the order of the rank for any tile size, so the bits do not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tuneport.checkpoint import floats
from tuneport.checkpoint.adapter import Alike, LowRank, Stacked
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.floats import Array, Floats
from tuneport.checkpoint.reading import TensorReader, Workspace
from tuneport.checkpoint.weights import StoredTensor
from tuneport.engine import kernel

# The most elements of a factor that are held at a time: of the one whose columns are the weight's columns, which is held
# from piece to piece if it is not larger, and of the other.
RIGHT = 256 * 1024
LEFT = 64 * 1024
# Both as they are stored and widened, and the kernel's panel: eight bytes at most, twice, and 32 float32 for each rank.
NBYTES = 2 * 8 * (RIGHT + LEFT) + 2**21
_DEEPEST = 8192
Edges = tuple[int, int]  # from … to before …


@dataclass(frozen=True)
class _Tile:
    """A part of the factor whose rows run along the rank: ranks from ``first`` to ``last``, columns likewise."""

    first: int
    last: int
    begin: int
    end: int


def fill(low_rank: LowRank | Stacked, start: int, out: Floats, reader: TensorReader, space: Workspace) -> None:
    """Fill ``out`` (one row of the working dtype) with the product's elements from ``start`` on, row after row."""
    if isinstance(low_rank, Stacked):
        size, stop = math.prod(low_rank.shape) // len(low_rank.products), start + out.size
        for number in range(start // size, -(-stop // size)):
            begin, end = max(start, number * size), min(stop, (number + 1) * size)
            product, part = low_rank.products[number], out[begin - start : end - start]
            if product is None:
                part[:] = 0
            else:
                fill(product, begin - number * size, part, reader, space)
        return
    columns = low_rank.shape[1]
    rows = max(LEFT // low_rank.rank, 1)
    position, stop = start, start + out.size
    while position < stop:
        end = min((position // columns + rows) * columns, stop)
        _fill_rows(low_rank, position, out[position - start : end - start], reader, space)
        position = end
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        np.multiply(out, out.dtype.type(low_rank.scaling), out=out)


def are_alike(alike: Alike, reader: TensorReader, space: Workspace) -> bool:
    """Whether two matrices, or vectors, of one dtype hold the same numbers (NaN is like nothing)."""
    one, other = _two_dimensional(alike.one), _two_dimensional(alike.other)
    if not alike.one.elements:
        return True
    height = max(RIGHT // one.shape[1], 1)
    matrices = _Matrices(np.dtype(np.float64 if one.dtype == "F64" else np.float32), reader, space)
    for first in range(0, one.shape[0], height):
        rows = first, min(first + height, one.shape[0])
        mine = matrices.read(one, rows, (0, one.shape[1]), "left", False)
        if not np.array_equal(mine, matrices.read(other, rows, (0, one.shape[1]), "right", alike.transposed)):
            return False
    return True


def _two_dimensional(tensor: StoredTensor) -> StoredTensor:
    return replace(tensor, shape=(tensor.shape[0] if tensor.shape else 1, math.prod(tensor.shape[1:])))


def _fill_rows(low_rank: LowRank, start: int, out: Floats, reader: TensorReader, space: Workspace) -> None:
    """A range whose part of the left factor fits into memory; not scaled yet."""
    columns, stop = low_rank.shape[1], start + out.size
    first, last = start // columns, -(-stop // columns)
    strips = list(_strips(start, stop, columns))
    begin, end = (start % columns, (stop - 1) % columns + 1) if last - first == 1 else (0, columns)
    matrices, turned = _Matrices(out.dtype, reader, space), low_rank.transposed
    factors = (low_rank.a, low_rank.b) if turned else (low_rank.b, low_rank.a)
    held: tuple[Edges, Array] | None = None
    for tile in _tiles(low_rank, begin, end):
        ranks = tile.first, tile.last
        if held is None or held[0] != ranks:
            held = ranks, matrices.read(factors[0], (first, last), ranks, "left", turned)
        right = matrices.read(factors[1], ranks, (tile.begin, tile.end), "right", turned)
        for row_begin, row_end, column_begin, column_end in strips:
            left_edge, right_edge = max(column_begin, tile.begin), min(column_end, tile.end)
            if left_edge >= right_edge:
                continue
            place = row_begin * columns + column_begin - start
            strip = out[place : place + (row_end - row_begin - 1) * columns + column_end - column_begin]
            kernel.accumulate(
                held[1][row_begin - first : row_end - first],
                right[:, left_edge - tile.begin : right_edge - tile.begin],
                _as_matrix(strip, row_end - row_begin, columns, left_edge - column_begin, right_edge - left_edge),
                tile.first == 0,
            )


def _strips(start: int, stop: int, columns: int) -> Iterator[tuple[int, int, int, int]]:
    """A range of elements as rectangles (rows from, to, columns from, to): what is left of a row, whole rows, a rest."""
    row, column = divmod(start, columns)
    if column or stop - start < columns:
        end = min(columns, column + stop - start)
        yield row, row + 1, column, end
        start += end - column
        row += 1
    whole = (stop - start) // columns
    if whole:
        yield row, row + whole, 0, columns
    rest = (stop - start) % columns
    if start < stop and rest:
        yield row + whole, row + whole + 1, 0, rest


def _tiles(low_rank: LowRank, begin: int, end: int) -> Iterator[_Tile]:
    """Tiles of the right factor that cover these columns, those of one column in the order of the rank.

    A tile is read in few reads: A lies rank after rank, so a tile has all columns and some ranks; the B of a transposed
    weight lies column after column, so a tile has all ranks and some columns.
    """
    width, rank = end - begin, low_rank.rank
    broad = min(width, max(RIGHT // min(rank, _DEEPEST), 1) if low_rank.transposed else RIGHT)
    deep = min(rank, _DEEPEST, max(RIGHT // broad, 1))
    for column in range(begin, end, broad):
        for first in range(0, rank, deep):
            yield _Tile(first, min(first + deep, rank), column, min(column + broad, end))


@dataclass(frozen=True)
class _Matrices:
    """Stored matrices, read in the working dtype."""

    dtype: np.dtype
    reader: TensorReader
    space: Workspace

    def read(self, tensor: StoredTensor, rows: Edges, columns: Edges, name: str, turned: bool) -> Array:
        """A rectangle of a matrix, which is stored ``turned`` or not; the last one read under ``name`` is not read again."""
        if turned:
            return self.read(tensor, columns, rows, name, False).T
        what = (tensor.name, tensor.file, tensor.offset, rows, columns, self.dtype)
        kept = self.space.kept.get(name)
        if kept is not None and kept[0] == what:
            found: Array = kept[1]
            return found
        itemsize, stored = DTYPES[tensor.dtype].itemsize, tensor.shape[1]
        height, width = rows[1] - rows[0], columns[1] - columns[0]
        view = self.space.buffer(name, height * width * itemsize)
        if width == stored:
            self.reader.read_into(tensor, rows[0] * stored * itemsize, view)
        else:
            for row in range(height):
                at = ((rows[0] + row) * stored + columns[0]) * itemsize
                self.reader.read_into(tensor, at, view[row * width * itemsize : (row + 1) * width * itemsize])
        work = "F64" if self.dtype == np.float64 else "F32"
        matrix = kernel.widen(floats.as_bits(view, tensor.dtype), tensor.dtype, work).reshape(height, width)
        self.space.kept[name] = what, matrix
        return matrix


def _as_matrix(strip: Floats, rows: int, stride: int, column: int, width: int) -> Array:
    """Some columns of a strip whose rows lie ``stride`` elements apart; the last row may end before its stride does."""
    itemsize = strip.itemsize
    return np.lib.stride_tricks.as_strided(strip[column:], (rows, width), (stride * itemsize, itemsize))
