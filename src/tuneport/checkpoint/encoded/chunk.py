"""A chunk of numbers, coded without loss: bytes to bytes, the same bits back.

A float32 difference of two bfloat16 numbers is a small whole number times a power of two. So a number d is written as
k · 2**e with k odd: k is small (the difference in steps of the finer of two spacings), e is that of the last bit. Zeros, which are
most in a light fine-tuning, have one symbol and no e. Symbols and exponents are byte planes of their own, coded by openzl (FSE or
Huffman, whichever fits the plane). Others (−0.0, infinities, NaN, an exponent far from all others) are kept as they are.

docs/formats.md describes the bytes.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuneport.checkpoint.dtypes import DTYPES

CHUNK_BYTES = 2**20  # of numbers as they are; divides a leaf
ROOM = 14 * CHUNK_BYTES  # what a worker needs to code one, or to decode one
_FORMAT_VERSION = 27  # of openzl's frames; later versions read it
_NUMBERS, _SPARSE, _BYTES = 1, 2, 3  # kinds of chunk
_HEAD = struct.Struct("<BBhII")  # kind, planes, least exponent, nonzero numbers, numbers kept as they are
_LENGTH = struct.Struct("<I")
_FEW = 32  # where fewer than one of so many is not zero, the gaps between them are coded instead of every place
_NO_GAP = 255  # so many zeros, and more to come
_ONE = 2**23  # the bit that float32 leaves out
Words = NDArray[np.uint32]
Plane = NDArray[np.uint8]


class DamagedChunkError(ValueError):
    """Bytes that cannot be decoded to so many numbers."""


def encode(content: memoryview, dtype: str) -> bytes:
    """A chunk for numbers of a safetensors dtype: empty where all are zero, the numbers themselves where nothing is shorter."""
    raw = np.frombuffer(content, np.uint8)
    if not raw.any():
        return b""
    found = _numbers(raw.view("<u4")) if dtype == "F32" else _bytes(raw, DTYPES[dtype].itemsize)
    return found if len(found) < len(raw) else raw.tobytes()


def decode(chunk: memoryview, dtype: str, into: memoryview) -> None:
    """The numbers of a chunk. Raises `DamagedChunkError`; never allocates more than a few times ``into``."""
    out = np.frombuffer(into, np.uint8)
    if len(chunk) == 0:
        out[:] = 0
    elif len(chunk) == len(out):
        out[:] = np.frombuffer(chunk, np.uint8)
    else:
        try:
            _decode(chunk, dtype, out)
        except (struct.error, ValueError, IndexError) as error:
            raise DamagedChunkError(str(error)) from None


def _decode(chunk: memoryview, dtype: str, out: Plane) -> None:
    kind, planes, least, nonzero, kept = _HEAD.unpack_from(chunk)
    itemsize, position = DTYPES[dtype].itemsize, _HEAD.size
    lengths = [_LENGTH.unpack_from(chunk, position + 4 * plane)[0] for plane in range(planes)]
    position += 4 * planes
    if position + sum(lengths) + 8 * kept != len(chunk):
        raise ValueError("its parts do not fill it")
    frames = []
    for length in lengths:
        frames.append(chunk[position : position + length])
        position += length
    count = len(out) // itemsize
    if kind == _BYTES:
        if planes != itemsize:
            raise ValueError("it has other planes than bytes of a number")
        pairs = out.reshape(count, itemsize)
        for plane, frame in enumerate(frames):
            pairs[:, plane] = _unpack(frame, count)
        return
    if kind not in (_NUMBERS, _SPARSE) or dtype != "F32" or planes < 3 or nonzero > count or kept > count:
        raise ValueError("it is of an unknown kind")
    words = out.view("<u4")
    first = _unpack(frames[0], count if kind == _NUMBERS else None, most=count + nonzero)
    if kind == _NUMBERS:
        places = np.flatnonzero(first)
        low = first[places]
    else:
        places = _places(first, count)
        low = _unpack(frames[1], len(places))
        frames = frames[1:]
    if len(places) != nonzero:
        raise ValueError("it has another number of nonzero numbers")
    symbols = low.astype(np.uint32)
    for byte, frame in enumerate(frames[2:], 1):
        symbols |= _unpack(frame, nonzero).astype(np.uint32) << (8 * byte)
    symbols -= 1
    values = (symbols | 1).astype(np.float32) * _powers(least)[_unpack(frames[1], nonzero)]
    words[:] = 0
    words[places] = values.view(np.uint32) | (symbols & 1) << 31
    if kept:
        apart = np.frombuffer(chunk[position:], "<u4")
        if int(apart[:kept].max()) >= count:
            raise ValueError("it keeps a number outside itself")
        words[apart[:kept]] = apart[kept:]


def _numbers(words: Words) -> bytes:
    places = np.flatnonzero(words)
    bits = words[places]
    exponent = (bits >> 23).astype(np.int32) & 255
    mantissa = (bits & np.uint32(_ONE - 1)).astype(np.uint32, copy=False)
    mantissa[exponent > 0] |= np.uint32(_ONE)
    # The last bit that is set: its place is the exponent of the number that it is by itself.
    last = (mantissa & (~mantissa + 1)).astype(np.float32).view(np.uint32) >> 23
    zeros = last.astype(np.int32) - 127
    power = np.maximum(exponent, 1) + zeros
    usual = (exponent < 255) & (mantissa > 0)
    least = int(power[usual].min()) if usual.any() else 0
    usual &= power - least < 256
    apart = ~usual
    odd = mantissa >> zeros.astype(np.uint32)
    symbols = (odd & ~np.uint32(1) | bits >> 31) + 1
    kept_places, kept_bits = places[apart], bits[apart]
    if len(kept_places):
        places, symbols, power = places[usual], symbols[usual], power[usual]
    low = (symbols & 255).astype(np.uint8)
    # A symbol whose low byte is 0 would look like a zero: a chunk that has one codes the gaps.
    sparse = len(places) * _FEW < len(words) or not low.all()
    planes: list[Plane] = []
    if sparse:
        planes += [_gaps(places), low]
    else:
        whole = np.zeros(len(words), np.uint8)
        whole[places] = low
        planes.append(whole)
    planes.append((power - least).astype(np.uint8))
    most = int(symbols.max()) if len(symbols) else 0
    planes += [(symbols >> (8 * byte) & 255).astype(np.uint8) for byte in range(1, max(2, -(-most.bit_length() // 8)))]
    kept = np.concatenate([kept_places, kept_bits]).astype("<u4").tobytes()
    return _chunk(_SPARSE if sparse else _NUMBERS, planes, least, len(places), len(kept_places), kept)


def _bytes(raw: Plane, itemsize: int) -> bytes:
    """Numbers of any other dtype: one plane for each of their bytes."""
    numbers = raw.reshape(-1, itemsize)
    return _chunk(_BYTES, [np.ascontiguousarray(numbers[:, byte]) for byte in range(itemsize)], 0, 0, 0, b"")


def _chunk(kind: int, planes: Sequence[Plane], least: int, nonzero: int, kept: int, apart: bytes) -> bytes:
    frames = [_pack(plane) for plane in planes]
    head = _HEAD.pack(kind, len(frames), least, nonzero, kept)
    return b"".join([head, *(_LENGTH.pack(len(frame)) for frame in frames), *frames, apart])


def _gaps(places: NDArray[np.intp]) -> Plane:
    """How many zeros are before each number: a byte, after as many bytes of 255 as it has 255s."""
    gaps = np.diff(places, prepend=-1) - 1
    long = gaps // _NO_GAP
    ends = np.cumsum(long + 1)
    found = np.full(int(ends[-1]) if len(ends) else 0, _NO_GAP, np.uint8)
    found[ends - 1] = gaps % _NO_GAP
    return found


def _places(gaps: Plane, count: int) -> NDArray[np.intp]:
    steps = gaps.astype(np.int64)
    ends = gaps != _NO_GAP
    found: NDArray[np.intp] = (np.cumsum(steps + ends) - 1)[ends]
    if len(found) and int(found[-1]) >= count:
        raise ValueError("its gaps lead out of it")
    return found


@functools.cache
def _powers(least: int) -> NDArray[np.float32]:
    """2**e for the 256 exponents from the least on, as steps of float32."""
    with np.errstate(over="ignore"):
        return np.ldexp(np.ones(256), np.arange(least, least + 256) - 150).astype(np.float32)


@functools.cache
def _compressor() -> Any:
    import openzl.ext as openzl

    made = openzl.Compressor()
    made.select_starting_graph(openzl.graphs.Entropy().parameterize(made))
    return made


def _pack(plane: Plane) -> bytes:
    """One plane, coded."""
    import openzl.ext as openzl

    if len(plane) == 0:
        return b""
    context = openzl.CCtx()
    context.ref_compressor(_compressor())
    context.set_parameter(openzl.CParam.FormatVersion, _FORMAT_VERSION)
    for checksum in (openzl.CParam.ContentChecksum, openzl.CParam.CompressedChecksum):
        context.set_parameter(checksum, 2)  # 2: none; the table has a digest of the whole chunk
    return bytes(context.compress([openzl.Input(openzl.Type.Serial, plane)]))


def _unpack(frame: memoryview, count: int | None, most: int = 0) -> Plane:
    """A plane of ``count`` bytes, or of at most ``most``. What the frame says of its size is looked at before it is decoded."""
    import openzl.ext as openzl

    if len(frame) == 0:
        if count:
            raise ValueError("a plane is missing")
        return np.empty(0, np.uint8)
    held = bytes(frame)
    try:
        about = openzl.FrameInfo(held)
        if about.num_outputs != 1:
            raise ValueError("a plane has several parts")
        size = about.output_content_size(0)
        if size != count if count is not None else size > most:
            raise ValueError(f"a plane has {size} bytes")
        found: Plane = openzl.DCtx().decompress(held)[0].content.as_nparray()
    except RuntimeError:
        raise ValueError("a plane cannot be decoded") from None
    return found
