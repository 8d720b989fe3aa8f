"""Tensors made from stored ones without moving bytes: renamed, split, joined, transposed.

Functions from `StoredTensor` to `StoredTensor` describe where a tensor's elements are stored; `read_view` reads them in
the tensor's own order. If they are contiguous in a file, the result stays a plain byte range.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.weights import StoredTensor, View

# Reads bytes of a tensor that lies in one piece: from which byte on, and where to.
Read = Callable[[StoredTensor, int, memoryview], None]

# Bytes of a turned tensor that are gathered at a time, and then put in order: twice as much is held.
_SLAB = 2**20


class UnviewableError(Exception):
    """A tensor that cannot be described by cutting, joining and transposing stored ones."""


def room_to_read(tensors: Iterable[StoredTensor]) -> int:
    """Bytes that a reader of these tensors holds beside the buffer it fills."""
    return 2 * _SLAB if any(_is_turned(tensor) for tensor in tensors) else 0


def stored_name(tensor: StoredTensor) -> str:
    """What its file calls the tensor that ``tensor`` lies in."""
    return tensor.view.stored if tensor.view is not None and tensor.view.stored else tensor.name


def renamed(tensor: StoredTensor, name: str) -> StoredTensor:
    """The same tensor under another name."""
    if name == tensor.name:
        return tensor
    return replace(tensor, name=name, view=tensor.view or View(tensor.name))


def narrowed(tensor: StoredTensor, dim: int, start: int, length: int) -> StoredTensor:
    """The slices from ``start`` on along ``dim``, so many of them."""
    shape = (*tensor.shape[:dim], length, *tensor.shape[dim + 1 :])
    if dim >= len(tensor.shape) or start < 0 or length < 0 or start + length > tensor.shape[dim]:
        raise UnviewableError(f"{tensor.name}: slices {start} to {start + length} of {tensor.shape}")
    if length == tensor.shape[dim]:
        return tensor
    if tensor.shape[dim] == 1:
        raise UnviewableError(f"{tensor.name}: nothing of {tensor.shape}")
    view = _simple(tensor)
    if view is not None and view.parts:
        if dim == view.dim:
            return _narrowed_parts(tensor, view, start, length)
        inner = dim - (1 if _is_stack(tensor) and dim > view.dim else 0)
        return _rejoined(tensor, [narrowed(part, inner, start, length) for part in view.parts], view.dim)
    grid, strides = _grid(tensor)
    axis, step = _axis_of(tensor, dim)
    if start % step or length % step:
        raise UnviewableError(f"{tensor.name} is cut between elements that were put in another order")
    offset = tensor.offset + start // step * strides[axis] * DTYPES[tensor.dtype].itemsize
    cut = (*grid[:axis], length // step, *grid[axis + 1 :])
    return _strided(replace(tensor, offset=offset), shape, cut, strides)


def selected(tensor: StoredTensor, index: int) -> StoredTensor:
    """One entry along the first dimension, without that dimension."""
    view = _simple(tensor)
    if view is not None and view.parts and view.dim > 0:
        return _rejoined(tensor, [selected(part, index) for part in view.parts], view.dim - 1)
    if view is not None and view.parts and _is_stack(tensor):
        return view.parts[index]
    slice_ = narrowed(tensor, 0, index, 1)
    if slice_.view is not None and slice_.view.parts:
        if slice_ is tensor:
            raise UnviewableError(f"{tensor.name}: parts of it are empty")
        return selected(slice_, 0)
    grid, strides = _grid(slice_)
    return _strided(slice_, slice_.shape[1:], grid[1:], strides[1:])


def stacked(tensors: Sequence[StoredTensor], dim: int = 0) -> StoredTensor:
    """Tensors of one shape, one behind the other along a new dimension."""
    first = tensors[0]
    if len({(tensor.dtype, tensor.shape) for tensor in tensors}) > 1 or dim > len(first.shape):
        raise UnviewableError(f"{', '.join(tensor.name for tensor in tensors)} are of different dtypes or shapes")
    shape = (*first.shape[:dim], len(tensors), *first.shape[dim:])
    return replace(first, shape=shape, nbytes=first.nbytes * len(tensors), view=View(parts=tuple(tensors), dim=dim))


def joined(tensors: Sequence[StoredTensor], dim: int) -> StoredTensor:
    """Tensors of one dtype, one behind the other along ``dim``; their shapes agree in all others."""
    first = tensors[0]
    alike = {(t.dtype, t.shape[:dim], t.shape[dim + 1 :], len(t.shape)) for t in tensors}
    if len(alike) > 1 or dim >= len(first.shape):
        raise UnviewableError(f"{', '.join(tensor.name for tensor in tensors)} are of different dtypes or shapes")
    if len(tensors) == 1:
        return first
    shape = (*first.shape[:dim], sum(tensor.shape[dim] for tensor in tensors), *first.shape[dim + 1 :])
    return replace(first, shape=shape, nbytes=sum(t.nbytes for t in tensors), view=View(parts=tuple(tensors), dim=dim))


def transposed(tensor: StoredTensor, one: int, other: int) -> StoredTensor:
    """Two dimensions exchanged."""
    if max(one, other) >= len(tensor.shape):
        raise UnviewableError(f"{tensor.name} has {len(tensor.shape)} dimensions")
    if one == other:
        return tensor
    view = _simple(tensor)
    if view is not None and view.parts:
        dim = {one: other, other: one}.get(view.dim, view.dim)
        if not _is_stack(tensor):
            return joined([transposed(part, one, other) for part in view.parts], dim)
        if dim == view.dim:
            inner = [place - (place > dim) for place in (one, other)]
            return stacked([transposed(part, inner[0], inner[1]) for part in view.parts], dim)
        if abs(one - other) > 1:
            raise UnviewableError(f"{tensor.name} is turned over the dimension it is stacked along")
        return stacked(view.parts, dim)
    grid, strides = _grid(tensor)
    if grid != tensor.shape:
        raise UnviewableError(f"{tensor.name} is turned after its elements were put in another order")
    shape = _exchanged(grid, one, other)
    return _strided(tensor, shape, shape, _exchanged(strides, one, other))


def shuffled(tensor: StoredTensor, dim: int, counts: tuple[int, int, int]) -> StoredTensor:
    """``dim`` cut into n × a × b slices, and those put together again as n × b × a."""
    n, a, b = counts
    if tensor.view is not None and tensor.view.parts:
        return _shuffled_parts(tensor, tensor.view, dim, counts)
    grid, strides = _grid(tensor)
    if grid != tensor.shape or n * a * b != tensor.shape[dim]:
        raise UnviewableError(f"{tensor.name}: {tensor.shape} cannot be put in another order")
    step = strides[dim]
    cut = (*grid[:dim], n, b, a, *grid[dim + 1 :])
    return _strided(tensor, tensor.shape, cut, (*strides[:dim], a * b * step, step, b * step, *strides[dim + 1 :]))


def reshaped(tensor: StoredTensor, shape: tuple[int, ...]) -> StoredTensor:
    """The same elements in the same order under another shape."""
    if not tensor.in_one_piece or math.prod(shape) != tensor.elements:
        raise UnviewableError(f"{tensor.name} cannot be given the shape {shape}")
    return replace(tensor, shape=shape, view=tensor.view or View(tensor.name))


def read_view(tensor: StoredTensor, start: int, buffer: memoryview, read: Read) -> None:
    """Fill ``buffer`` with the tensor's bytes from byte ``start`` on, whole elements; ``read`` serves what lies in one piece."""
    if tensor.in_one_piece:
        read(tensor, start, buffer)
    elif tensor.view is not None and tensor.view.parts:
        _read_parts(tensor, tensor.view, start, buffer, read)
    else:
        _read_strided(tensor, start, buffer, read)


def _read_parts(tensor: StoredTensor, view: View, start: int, buffer: memoryview, read: Read) -> None:
    """One part after another, and again for each index of the dimensions before the one they are joined along."""
    rounds = math.prod((view.grid or tensor.shape)[: view.dim])
    sizes = [part.nbytes // rounds for part in view.parts]
    ends = list(itertools.accumulate(sizes))
    position, stop = start, start + len(buffer)
    while position < stop:
        turn, place = divmod(position, ends[-1])
        number = bisect.bisect_right(ends, place)
        count = min(ends[number] - place, stop - position)
        at = turn * sizes[number] + place - (ends[number] - sizes[number])
        read_view(view.parts[number], at, buffer[position - start : position - start + count], read)
        position += count


def _read_strided(tensor: StoredTensor, start: int, buffer: memoryview, read: Read) -> None:
    grid, strides = _grid(tensor)
    itemsize = DTYPES[tensor.dtype].itemsize
    assert start % itemsize == 0 and len(buffer) % itemsize == 0, "views are read in whole elements"
    first, last = start // itemsize, (start + len(buffer)) // itemsize
    step, run, outer = _last_run(grid, strides)
    unit = next((d for d in range(outer) if strides[d] == 1 and grid[d] > 1), None)
    if step != 1 and unit is not None:
        _read_slabs(tensor, unit, (first, last), buffer, read)
        return
    numbers = np.frombuffer(buffer, f"V{itemsize}")
    most = max(_SLAB // (step * itemsize), 1) if step > 1 else run
    position = first
    while position < last:
        index, within = divmod(position, run)
        count = min(run - within, last - position, most)
        at = (_place(index, grid[:outer], strides[:outer]) + within * step) * itemsize
        here = numbers[position - first : position - first + count]
        if step == 1:
            read(tensor, at, here.data.cast("B"))
        else:  # what lies between is read along with them
            span = np.empty((count - 1) * step + 1, here.dtype)
            read(tensor, at, span.data.cast("B"))
            here[:] = span[::step]
        position += count


def _last_run(grid: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int, int]:
    """How far apart neighbours lie, how many lie so, and how many dimensions are not in that run."""
    step, run, outer = 1, 1, len(grid)
    while outer:
        size, stride = grid[outer - 1], strides[outer - 1]
        if size != 1 and run == 1:
            step = stride
        elif size != 1 and stride != step * run:
            break
        run *= size
        outer -= 1
    return step, run, outer


def _read_slabs(tensor: StoredTensor, unit: int, wanted: tuple[int, int], buffer: memoryview, read: Read) -> None:
    """Elements whose neighbours in the file are neighbours along the dimension ``unit``: some of its rows at a time."""
    grid, strides = _grid(tensor)
    itemsize = DTYPES[tensor.dtype].itemsize
    rows, width = grid[unit], math.prod(grid[unit + 1 :])
    numbers = np.frombuffer(buffer, f"V{itemsize}")
    position, last = wanted
    while position < last:
        block, place = divmod(position, rows * width)
        begin = place // width
        most = max(_SLAB // (width * itemsize), 1)
        end = min(begin + most, rows, -(-(place + last - position) // width))
        slab = np.empty((width, end - begin), numbers.dtype)
        origin = _place(block, grid[:unit], strides[:unit]) + begin
        for column in range(width):
            at = origin + _place(column, grid[unit + 1 :], strides[unit + 1 :])
            read(tensor, at * itemsize, memoryview(slab[column]).cast("B"))
        count = min(end * width - place, last - position)
        skip = place - begin * width
        numbers[position - wanted[0] : position - wanted[0] + count] = slab.T.reshape(-1)[skip : skip + count]
        position += count


def _is_turned(tensor: StoredTensor) -> bool:
    if tensor.view is None:
        return False
    return tensor.view.strides is not None or any(_is_turned(part) for part in tensor.view.parts)


def _shuffled_parts(tensor: StoredTensor, view: View, dim: int, counts: tuple[int, int, int]) -> StoredTensor:
    """Parts joined along ``dim``, one slice of each in turn."""
    n, a, b = counts
    if (
        view.grid
        or view.dim != dim
        or _is_stack(tensor)
        or n != 1
        or [part.shape[dim] for part in view.parts] != [b] * a
    ):
        raise UnviewableError(f"{tensor.name}: its parts cannot be put in another order")
    grid = (*tensor.shape[:dim], b, a, *tensor.shape[dim + 1 :])
    return replace(tensor, view=View(grid=grid, parts=view.parts, dim=dim + 1))


def _axis_of(tensor: StoredTensor, dim: int) -> tuple[int, int]:
    """The first axis of a tensor's grid that belongs to a dimension, and how many slices of the dimension one of it is."""
    grid, axis = _grid(tensor)[0], 0
    for size in tensor.shape[:dim]:
        axis = _end_of(grid, axis, size)
    end = _end_of(grid, axis, tensor.shape[dim])
    first = next(place for place in range(axis, end) if grid[place] != 1)
    return first, math.prod(grid[first + 1 : end])


def _end_of(grid: tuple[int, ...], axis: int, size: int) -> int:
    """Where the axes end that, from ``axis`` on, are together a dimension of this size."""
    product = 1
    while product != size:
        product *= grid[axis]
        axis += 1
    return axis


def _narrowed_parts(tensor: StoredTensor, view: View, start: int, length: int) -> StoredTensor:
    if _is_stack(tensor):
        parts = view.parts[start : start + length] or [narrowed(view.parts[0], 0, 0, 0)]
        return stacked(parts, view.dim)
    found, at = [], 0
    for part in view.parts:
        begin, end = max(start, at), min(start + length, at + part.shape[view.dim])
        if begin < end:
            whole = end - begin == part.shape[view.dim]
            found.append(part if whole else narrowed(part, view.dim, begin - at, end - begin))
        at += part.shape[view.dim]
    return joined(found or [narrowed(view.parts[0], view.dim, 0, 0)], view.dim)


def _rejoined(tensor: StoredTensor, parts: Sequence[StoredTensor], dim: int) -> StoredTensor:
    """Parts in place of a tensor's own, joined or stacked as those were."""
    return stacked(parts, dim) if _is_stack(tensor) else joined(parts, dim)


def _simple(tensor: StoredTensor) -> View | None:
    """The view of a tensor whose parts, if it has any, lie one behind the other along one of its dimensions."""
    if tensor.view is not None and tensor.view.parts and tensor.view.grid is not None:
        raise UnviewableError(f"{tensor.name}: its parts were put in another order")
    return tensor.view


def _is_stack(tensor: StoredTensor) -> bool:
    return tensor.view is not None and bool(tensor.view.parts) and len(tensor.view.parts[0].shape) < len(tensor.shape)


def _strided(
    tensor: StoredTensor, shape: tuple[int, ...], grid: tuple[int, ...], strides: tuple[int, ...]
) -> StoredTensor:
    """The view of a tensor's stored bytes with these strides; a plain byte range where they are those of its order."""
    view = View(stored_name(tensor))
    moving = [(size, stride) for size, stride in zip(grid, strides, strict=True) if size != 1]
    if moving != [(size, stride) for size, stride in zip(grid, _in_order(grid), strict=True) if size != 1]:
        view = replace(view, grid=grid, strides=strides)
    nbytes = math.prod(shape) * DTYPES[tensor.dtype].itemsize
    return replace(tensor, shape=shape, nbytes=nbytes, view=view)


def _grid(tensor: StoredTensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    view = tensor.view
    if view is not None and view.grid is not None and view.strides is not None:
        return view.grid, view.strides
    return tensor.shape, _in_order(tensor.shape)


def _in_order(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of elements that lie row after row."""
    return tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))


def _exchanged(values: tuple[int, ...], one: int, other: int) -> tuple[int, ...]:
    found = list(values)
    found[one], found[other] = found[other], found[one]
    return tuple(found)


def _place(index: int, grid: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Where the element with this number in a grid's own order begins, in elements."""
    place = 0
    for size, stride in zip(reversed(grid), reversed(strides), strict=True):
        index, here = divmod(index, size)
        place += here * stride
    return place
