"""An output folder whose tensors end as chunks: encoded while they are written, and put one behind the other at the end.

How long a chunk is shows only when it is encoded. Until then each lies where its numbers would lie, in a file with holes beside
a table of lengths; so chunks may be written in any order, by any number of workers, and again after a kill. At the end
they are copied into files without holes, in their order: the same bytes however they came about.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tuneport.checkpoint.encoded.chunk import CHUNK_BYTES, DamagedChunkError, decode, encode
from tuneport.checkpoint.encoded.encoded_tensors import ENTRY, chunk_count, digest_of
from tuneport.checkpoint.header import render_header
from tuneport.checkpoint.open_files import KeptFile
from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import OutputError
from tuneport.files.writing import open_own, told
from tuneport.output.replacing import HOLES, LENGTHS
from tuneport.output.shards import METADATA, Layout
from tuneport.output.write import OutputFolder, read_all, write_all
from tuneport.platforms import flags

_LENGTH = struct.Struct("<I")


class EncodedFolder(OutputFolder):
    """DIR.partial of a diff vector that is stored encoded."""

    def __init__(self, out: Path, partial: Path, plan: Mapping[str, Any], layout: Layout) -> None:
        """Make the files with holes, and the table."""
        first = np.zeros(len(layout.slots) + 1, np.int64)
        np.cumsum([chunk_count(slot.nbytes) for slot in layout.slots.values()], out=first[1:])
        self._first = first
        self._local = threading.local()
        super().__init__(out, partial, plan, layout)
        with told(partial):
            self._lengths = KeptFile(partial / LENGTHS, os.O_RDWR | flags("O_NOFOLLOW"))
            descriptor = open_own(partial / LENGTHS, os.O_RDWR)
            try:
                os.ftruncate(descriptor, int(first[-1]) * _LENGTH.size)
            finally:
                os.close(descriptor)

    @staticmethod
    def written_to(file: str) -> str:
        """Where a file's tensors are written meanwhile."""
        return file + HOLES

    def _begin_shard(self, descriptor: int, file: str, size: int) -> None:
        if os.fstat(descriptor).st_size != size:
            os.ftruncate(descriptor, size)

    def write(self, slot: StoredTensor, start: int, content: memoryview) -> None:
        """Take bytes of a tensor, from its byte ``start`` on; those of one chunk come one after another, from one thread."""
        if not hasattr(self._local, "chunk"):
            self._local.chunk = bytearray(CHUNK_BYTES)
        held = memoryview(self._local.chunk)
        while content:
            number, within = divmod(start, CHUNK_BYTES)
            size = min(CHUNK_BYTES, slot.nbytes - number * CHUNK_BYTES)
            count = min(size - within, len(content))
            held[within : within + count] = content[:count]
            if within + count == size:
                self._put(slot, number, encode(held[:size], slot.dtype))
            start, content = start + count, content[count:]

    def _put(self, slot: StoredTensor, number: int, chunk: bytes) -> None:
        with told(self.partial):
            if chunk:
                with self._shards[slot.file].used() as descriptor:
                    write_all(descriptor, memoryview(chunk), slot.offset + number * CHUNK_BYTES)
            with self._lengths.used() as descriptor:
                write_all(descriptor, memoryview(_LENGTH.pack(len(chunk) + 1)), self._entry(slot, number))

    def _entry(self, slot: StoredTensor, number: int) -> int:
        return (int(self._first[self.layout.slots.place(slot.name)]) + number) * _LENGTH.size

    def read_into(self, slot: StoredTensor, start: int, buffer: memoryview) -> None:
        """Read back bytes that an earlier run wrote; what is not there, or damaged, reads as bytes that no digest fits."""
        position, stop = start, start + len(buffer)
        whole = bytearray(CHUNK_BYTES)
        while position < stop:
            number, within = divmod(position, CHUNK_BYTES)
            size = min(CHUNK_BYTES, slot.nbytes - number * CHUNK_BYTES)
            chunk = self._get(slot, number, size)
            view = memoryview(whole)[:size]
            try:
                if chunk is None:
                    raise DamagedChunkError
                decode(memoryview(chunk), slot.dtype, view)
            except DamagedChunkError:
                view[:] = b"\xff" * size
            count = min(size - within, stop - position)
            buffer[position - start : position - start + count] = view[within : within + count]
            position += count

    def _get(self, slot: StoredTensor, number: int, size: int) -> bytes | None:
        """A chunk that was written, or None."""
        entry = bytearray(_LENGTH.size)
        with told(self.partial):
            with self._lengths.used() as descriptor:
                read_all(descriptor, memoryview(entry), self._entry(slot, number))
            length = _LENGTH.unpack(entry)[0] - 1
            if not 0 <= length <= size:
                return None
            chunk = bytearray(length)
            with self._shards[slot.file].used() as descriptor:
                read_all(descriptor, memoryview(chunk), slot.offset + number * CHUNK_BYTES)
        return bytes(chunk)

    def finish(self, files: Mapping[str, bytes | Path], manifest: Iterable[bytes]) -> None:
        """Put the chunks together, write the small files and the manifest, then rename DIR.partial to DIR."""
        with told(self.partial):
            for file in self.layout.sizes:
                self._put_together(file, list(self.layout.in_file(file)))
        super().finish(files, manifest)

    def _put_together(self, file: str, slots: list[StoredTensor]) -> None:
        """A file without holes: header, and for each tensor its chunks and their table."""
        sizes = [self._size_of(slot) for slot in slots]
        descriptor = open_own(self.partial / file, os.O_RDWR)
        try:
            os.ftruncate(descriptor, 0)
            header = render_header(_entries(slots, sizes), METADATA)
            write_all(descriptor, memoryview(header), 0)
            position = len(header)
            for slot in slots:
                for part in self._parts_of(slot):
                    write_all(descriptor, memoryview(part), position)
                    position += len(part)
        finally:
            os.close(descriptor)

    def _size_of(self, slot: StoredTensor) -> int:
        """Bytes of a tensor's chunks and their table."""
        count = chunk_count(slot.nbytes)
        entries = bytearray(count * _LENGTH.size)
        with self._lengths.used() as descriptor:
            read_all(descriptor, memoryview(entries), self._entry(slot, 0))
        lengths = np.frombuffer(entries, "<u4").astype(np.int64) - 1
        if count and int(lengths.min()) < 0:
            raise OutputError(f"{self.partial}: {slot.name} was not written whole. Remove the folder and run again.")
        return int(lengths.sum()) + count * ENTRY.itemsize

    def _parts_of(self, slot: StoredTensor) -> Iterator[bytes]:
        table = np.zeros(chunk_count(slot.nbytes), ENTRY)
        for number in range(len(table)):
            chunk = self._get(slot, number, min(CHUNK_BYTES, slot.nbytes - number * CHUNK_BYTES))
            assert chunk is not None, "its size was added up before"
            table[number] = len(chunk), digest_of(chunk)
            yield chunk
        yield table.tobytes()

    def close(self) -> None:
        """Close the table too."""
        super().close()
        if hasattr(self, "_lengths"):
            self._lengths.close()


def _entries(slots: list[StoredTensor], sizes: list[int]) -> Iterator[tuple[str, str, tuple[int, ...], int, int]]:
    position = 0
    for slot, size in zip(slots, sizes, strict=True):
        yield slot.name, "U8", (size,), position, position + size
        position += size
