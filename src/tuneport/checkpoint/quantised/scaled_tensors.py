"""Tensors of a checkpoint that are stored as codes with scales: which they are, and their numbers, read piece by piece.

DeepSeek's blocks (``weight`` and ``weight_scale_inv``), scales of a tensor or of each row (compressed-tensors, fbgemm, exports
of FP8: ``weight_scale``), and MXFP4 (``NAME_blocks`` and ``NAME_scales``). Each appears under the name of its weight, in float32:
code times scale, rounded once. That is what transformers computes before it rounds to the model's dtype.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuneport.checkpoint import floats
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.quantised.codes import FLOAT8, Float32s, pairs_of_e2m1, table_of
from tuneport.checkpoint.views import transposed
from tuneport.checkpoint.weights import DEQUANTISED, StoredTensor
from tuneport.errors import CheckpointError
from tuneport.files.printable import quoted

Read = Callable[[StoredTensor, int, memoryview], None]
_BLOCKS, _SCALES = "_blocks", "_scales"  # of MXFP4
_FOUR_BIT_BLOCK = 32
# Scales of activations and of caches: a model with plain weights has no use for them.
_OTHER_SCALES = ("input_scale", "output_scale", "q_scale", "k_scale", "v_scale", "prob_scale")
METHOD = "quantization_config"  # of config.json
_METHODS_BLOCK = "weight_block_size"


@dataclass(frozen=True, slots=True)
class ScaledCodes:
    """A tensor's codes and scales: matrices of ``rows`` × ``columns`` one after another, a scale for each ``block`` of rows and
    columns (of the last ones less), ``grid`` of them in a matrix.
    """

    codes: StoredTensor
    scales: StoredTensor
    rows: int
    columns: int
    block: tuple[int, int]
    grid: tuple[int, int]

    @property
    def is_four_bit(self) -> bool:
        """Whether a byte holds two numbers."""
        return self.codes.dtype == "U8"

    def read(self, start: int, numbers: Float32s, read: Read) -> None:
        """The numbers from element ``start`` on."""
        self._codes(start, numbers, read)
        columns, position = self.columns, 0
        while position < len(numbers):
            row, column = divmod(start + position, columns)
            whole = (len(numbers) - position) // columns if column == 0 else 0
            count, width = max(whole, 1), columns if whole else min(columns - column, len(numbers) - position)
            part = numbers[position : position + count * width].reshape(count, width)
            self._scale(part, row, column, read)
            position += count * width

    def _codes(self, start: int, numbers: Float32s, read: Read) -> None:
        if not self.is_four_bit:
            codes = _bytes(self.codes, start, len(numbers), read)
            np.take(table_of(self.codes.dtype), codes, out=numbers)
            return
        first = start // 2
        codes = _bytes(self.codes, first, -(-(start + len(numbers)) // 2) - first, read)
        numbers[:] = pairs_of_e2m1()[codes].reshape(-1)[start - 2 * first :][: len(numbers)]

    def _scale(self, part: Float32s, row: int, column: int, read: Read) -> None:
        """Multiply rows (whole ones, or a part of one from ``column`` on) by their scales."""
        high, wide = self.block
        down, across = self.grid
        rows = np.arange(row, row + len(part))
        places = rows // self.rows * down + rows % self.rows // high
        first, last = int(places[0]), int(places[-1]) + 1
        scales = _numbers(self.scales, first * across, (last - first) * across, read).reshape(-1, across)
        each = scales[places - first]
        if column == 0 and part.shape[1] == across * wide:
            blocks = part.reshape(len(part), across, wide)
            np.multiply(blocks, each[:, :, None], out=blocks)
            return
        for block in range(column // wide, -(-(column + part.shape[1]) // wide)):
            begin, end = max(block * wide - column, 0), (block + 1) * wide - column
            part[:, begin:end] *= each[:, block : block + 1]


class ScaledTable(Mapping[str, StoredTensor]):
    """A checkpoint's tensors, those with scales as float32; scales have no entry of their own."""

    def __init__(
        self, stored: Mapping[str, StoredTensor], four_bit: Mapping[str, str], hidden: frozenset[str], block: Any
    ) -> None:
        """``four_bit``: the names of codes by the tensor's name; ``hidden``: scales, which have no entry; ``block`` as in the
        config.
        """
        self.stored, self._four_bit, self._hidden, self._block = stored, four_bit, hidden, block

    def __getitem__(self, name: str) -> StoredTensor:
        """The tensor of a name."""
        if name in self._hidden:
            raise KeyError(name)
        if name in self._four_bit:
            scaled = self.scaled(name)
            lead = scaled.codes.shape[:-3]
            shape = (*lead, scaled.rows, scaled.columns)
            turned = StoredTensor(name, "F32", shape, DEQUANTISED + name, 0, 4 * math.prod(shape))
            return transposed(turned, len(lead), len(lead) + 1)
        tensor = self.stored[name]
        if tensor.dtype not in FLOAT8:
            return tensor
        return StoredTensor(name, "F32", tensor.shape, DEQUANTISED + name, 0, 4 * tensor.elements)

    def scaled(self, name: str) -> ScaledCodes:
        """Codes and scales of a tensor."""
        if name in self._four_bit:
            return _four_bit_of(self.stored[self._four_bit[name]], self.stored[name + _SCALES])
        codes = self.stored[name]
        scales = _scales_of(name, self.stored)
        assert scales is not None, "the table was made of tensors with scales"
        return _scaled_of(codes, scales, self._block)

    def formats(self) -> Mapping[str, int]:
        """How many tensors are stored in each format."""
        found = Counter(tensor.dtype for tensor in self.stored.values() if tensor.dtype in FLOAT8)
        return {**found, **({"MXFP4": len(self._four_bit)} if self._four_bit else {})}

    def in_words(self) -> str:
        """How many tensors are stored so, and in which formats."""
        return ", ".join(f"{count:,} tensors in {name}" for name, count in sorted(self.formats().items()))

    def __iter__(self) -> Iterator[str]:
        """The names, in their order."""
        names = (name for name in self.stored if name not in self._hidden)
        return iter(sorted({*self._four_bit, *names})) if self._four_bit else names

    def __len__(self) -> int:
        """How many there are."""
        return len(self.stored) - len(self._hidden) + len(self._four_bit)

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of this name."""
        return name in self._four_bit or (name in self.stored and name not in self._hidden)


def scaled_table(tensors: Mapping[str, StoredTensor], config: Mapping[str, Any], where: str) -> ScaledTable | None:
    """The tensors with those that have scales as float32; None where there are none, or codes without scales (whoever needs
    weights refuses them). Raises `CheckpointError` where codes and scales do not fit each other.
    """
    method = config.get(METHOD)
    block = method.get(_METHODS_BLOCK) if isinstance(method, dict) else None
    four_bit, hidden, found = {}, set(), 0
    for name, tensor in tensors.items():
        stem = name.removesuffix(_BLOCKS)
        if stem != name and tensor.dtype == "U8" and stem not in tensors and stem + _SCALES in tensors:
            _check(name, partial(_four_bit_of, tensor, tensors[stem + _SCALES]), where)
            four_bit[stem] = name
            hidden |= {name, stem + _SCALES}
        elif tensor.dtype in FLOAT8:
            scales = _scales_of(name, tensors)
            if scales is None:
                return None
            _check(name, partial(_scaled_of, tensor, scales, block), where)
            hidden.add(scales.name)
            found += 1
    if not found and not four_bit:
        return None
    hidden |= {name for name in tensors if name.rpartition(".")[2] in _OTHER_SCALES}
    return ScaledTable(tensors, four_bit, frozenset(hidden), block)


def dequantised_reads(table: ScaledTable, read: Read) -> Read:
    """``read``, which serves what is stored, for tensors of the table as well."""

    def reads(tensor: StoredTensor, start: int, buffer: memoryview) -> None:
        if not tensor.is_dequantised:
            read(tensor, start, buffer)
            return
        numbers: Float32s = np.frombuffer(buffer, np.float32)
        first = (tensor.offset + start) // 4
        table.scaled(tensor.file.removeprefix(DEQUANTISED)).read(first, numbers, read)

    return reads


def _scales_of(name: str, tensors: Mapping[str, StoredTensor]) -> StoredTensor | None:
    """Where a tensor's scales are: under one of the names that DeepSeek, vLLM's exports and transformers use."""
    for other in (f"{name}_scale_inv", f"{name}_scale", f"{name.removesuffix('weight')}scale"):
        if other != name and other in tensors:
            return tensors[other]
    return None


def _scaled_of(codes: StoredTensor, scales: StoredTensor, block: Any) -> ScaledCodes:
    """Raises ValueError where scales do not fit."""
    if not codes.shape:
        raise ValueError("a single number needs no scale")
    *lead, rows, columns = codes.shape if len(codes.shape) > 1 else (1, *codes.shape)
    grid = _grid(tuple(scales.shape), tuple(lead), rows, len(codes.shape))
    if not _is_scale(scales) or grid is None:
        raise ValueError(f"its scales {quoted(scales.name)} are {scales.dtype} {list(scales.shape)}")
    high, wide = (_extent(*each) for each in zip((rows, columns), grid, _sizes(block), strict=True))
    return ScaledCodes(codes, scales, rows, columns, (high, wide), grid)


def _grid(shape: tuple[int, ...], lead: tuple[int, ...], rows: int, dims: int) -> tuple[int, int] | None:
    """How many scales a matrix has, down and across."""
    if math.prod(shape) == 1 and math.prod(lead) == 1:
        return 1, 1
    if shape[: len(lead)] != lead:
        return None
    rest = shape[len(lead) :]
    if not rest:
        return 1, 1
    if len(rest) == 1:
        return (rest[0], 1) if rest[0] in (1, rows) and dims > 1 else None
    return (rest[0], rest[1]) if len(rest) == 2 else None


def _extent(size: int, count: int, stated: int | None) -> int:
    """Rows (or columns) of a block. Raises ValueError where so many blocks do not cover them."""
    for each in (stated, -(-size // max(count, 1))):
        if (
            each is not None
            and each > 0
            and count > 0
            and -(-size // each) == count
            and (size % count == 0 or each == stated)
        ):
            return each
    raise ValueError(f"{count} scales cannot be shared out to {size}; the config has no {_METHODS_BLOCK} that fits")


def _sizes(block: Any) -> tuple[int | None, int | None]:
    if isinstance(block, list) and len(block) == 2 and all(isinstance(each, int) for each in block):
        return block[0], block[1]
    return None, None


def _four_bit_of(codes: StoredTensor, scales: StoredTensor) -> ScaledCodes:
    """Raises ValueError where scales do not fit."""
    if len(codes.shape) < 3 or codes.shape[-1] != _FOUR_BIT_BLOCK // 2:
        raise ValueError(f"its shape is {list(codes.shape)}, not (…, rows, blocks, {_FOUR_BIT_BLOCK // 2})")
    if scales.dtype not in ("U8", "F8_E8M0") or scales.shape != codes.shape[:-1]:
        raise ValueError(f"its scales {quoted(scales.name)} are {scales.dtype} {list(scales.shape)}")
    rows, blocks = codes.shape[-3:-1]
    return ScaledCodes(codes, scales, rows, blocks * _FOUR_BIT_BLOCK, (1, _FOUR_BIT_BLOCK), (rows, blocks))


def _is_scale(tensor: StoredTensor) -> bool:
    return DTYPES[tensor.dtype].kind == "float" or tensor.dtype in ("F8_E8M0", "U8")


def _check(name: str, make: Callable[[], ScaledCodes], where: str) -> None:
    try:
        make()
    except ValueError as error:
        raise CheckpointError(
            f"{where}: {quoted(name)} is stored as codes that cannot be read: {error}. Dequantise the model with the "
            "library that quantised it, and give that."
        ) from None


def _bytes(tensor: StoredTensor, first: int, count: int, read: Read) -> NDArray[np.uint8]:
    found = np.empty(count, np.uint8)
    read(tensor, first, found.data.cast("B"))
    return found


def _numbers(tensor: StoredTensor, first: int, count: int, read: Read) -> Float32s:
    """Scales as float32."""
    dtype = DTYPES[tensor.dtype]
    found = np.empty(count * dtype.itemsize, np.uint8)
    read(tensor, first * dtype.itemsize, found.data.cast("B"))
    if dtype.kind != "float":
        return table_of(tensor.dtype)[found]
    return floats.widen(floats.as_bits(found.data.cast("B"), tensor.dtype), tensor.dtype, "F32").astype(np.float32)
