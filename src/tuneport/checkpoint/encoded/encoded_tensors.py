"""Tensors that are stored as chunks: under their own names, dtypes and shapes, decoded piece by piece when they are read.

A tensor of the file is its chunks one after another, and then for each chunk its length (4 bytes) and the first 8 bytes of its
BLAKE3. A chunk is checked before it is decoded, and what a table says before anything is allocated.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from blake3 import blake3

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.encoded.chunk import CHUNK_BYTES, DamagedChunkError, decode
from tuneport.checkpoint.encoded.encoded_table import EncodedTable
from tuneport.checkpoint.weights import ENCODED, StoredTensor
from tuneport.errors import CheckpointError
from tuneport.files.printable import quoted

Read = Callable[[StoredTensor, int, memoryview], None]
DIGEST_BYTES = 8
ENTRY = np.dtype([("length", "<u4"), ("digest", f"V{DIGEST_BYTES}")])  # of the table behind the chunks
_MOST_DIMENSIONS = 64


def digest_of(chunk: bytes | memoryview) -> bytes:
    """What the table says of a chunk beside its length."""
    return blake3(chunk).digest(DIGEST_BYTES)


def chunk_count(nbytes: int) -> int:
    """How many chunks a tensor of so many bytes has."""
    return -(-nbytes // CHUNK_BYTES)


def decoded(checkpoint: Checkpoint, entries: Iterable[Mapping[str, Any]]) -> Checkpoint:
    """An encoded checkpoint with its tensors as they are once decoded; ``entries`` of a manifest have name, dtype and shape.

    Raises `CheckpointError` where files and entries do not fit each other.
    """
    where, known = f"{checkpoint.role} {checkpoint.label}", set(DTYPES)
    kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
    same: dict[tuple[str, tuple[int, ...]], tuple[str, tuple[int, ...]]] = {}
    for entry in entries:
        name, dtype, shape = entry.get("name"), entry.get("dtype"), entry.get("shape")
        if name not in checkpoint.tensors or not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
            continue
        if dtype in known and all(type(each) is int and each >= 0 for each in shape):
            kind = (str(dtype), tuple(shape))
            kinds[str(name)] = same.setdefault(kind, kind)
    table = EncodedTable(checkpoint.tensors, kinds)
    for name, stored in checkpoint.tensors.items():
        fits = name in kinds and stored.dtype == "U8" and len(stored.shape) == 1
        if not fits or chunk_count(table[name].nbytes) * ENTRY.itemsize > stored.nbytes:
            raise CheckpointError(
                f"{where}: {quoted(name)} is not stored as the manifest says. Compute the vector again."
            )
    return replace(checkpoint, tensors=table, encoded=table)


def encoded_reads(table: EncodedTable, read: Read, where: str) -> Read:
    """``read``, which serves what is stored, for tensors of the table as well. Each thread keeps the chunk that it read last."""
    kept = threading.local()

    def reads(tensor: StoredTensor, start: int, buffer: memoryview) -> None:
        if not tensor.file.startswith(ENCODED):
            read(tensor, start, buffer)
            return
        name = tensor.file.removeprefix(ENCODED)
        position, stop = tensor.offset + start, tensor.offset + start + len(buffer)
        while position < stop:
            number, within = divmod(position, CHUNK_BYTES)
            content = _chunk_of(name, number)
            count = min(len(content) - within, stop - position)
            begin = position - tensor.offset - start
            buffer[begin : begin + count] = content[within : within + count]
            position += count

    def _chunk_of(name: str, number: int) -> memoryview:
        if getattr(kept, "name", None) != name:
            kept.name, kept.number, kept.spans, kept.digests = name, -1, *_spans(table, name, read, where)
        if kept.number != number:
            kept.number = -1  # until it is whole
            first, last = int(kept.spans[number]), int(kept.spans[number + 1])
            whole = table[name]
            size = min(CHUNK_BYTES, whole.nbytes - number * CHUNK_BYTES)
            chunk = memoryview(bytearray(last - first))
            read(table.stored[name], first, chunk)
            if digest_of(chunk) != kept.digests[number].tobytes():
                raise _damaged(where, name, number)
            held = getattr(kept, "content", None)
            if held is None:
                held = kept.content = bytearray(CHUNK_BYTES)
            try:
                decode(chunk, whole.dtype, memoryview(held)[:size])
            except DamagedChunkError:
                raise _damaged(where, name, number) from None
            kept.number, kept.size = number, size
        return memoryview(kept.content)[: kept.size]

    return reads


def _spans(table: EncodedTable, name: str, read: Read, where: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Where each chunk of a tensor begins in what is stored (and the last ends), and the chunks' digests."""
    stored, whole = table.stored[name], table[name]
    count = chunk_count(whole.nbytes)
    content = bytearray(count * ENTRY.itemsize)
    read(stored, stored.nbytes - len(content), memoryview(content))
    entries = np.frombuffer(content, ENTRY)
    ends = np.concatenate([[0], np.cumsum(entries["length"].astype(np.int64))])
    if int(ends[-1]) != stored.nbytes - len(content) or (count and int(entries["length"].max()) > CHUNK_BYTES):
        raise CheckpointError(
            f"{where}: the table of chunks of {quoted(name)} is damaged. Compute the vector again, or copy it again."
        )
    return ends, entries["digest"]


def _damaged(where: str, name: str, number: int) -> CheckpointError:
    return CheckpointError(
        f"{where}: chunk {number} of {quoted(name)} is damaged. Copy the folder again, or compute the vector again."
    )
