"""Where each tensor of an output goes: shards, offsets, headers, index; known before anything is written.

Within a shard, tensors with wide elements come first, so that each begins at a multiple of its element size, as in the
official writer.
"""

from __future__ import annotations

import functools
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.header import Entries, render_header, rendered_length
from tuneport.checkpoint.weights import StoredTensor, TensorTable
from tuneport.files.lazy_sequences import LazyMapping

METADATA = {"format": "pt"}
_ROOM = 4  # the share of their numbers that chunks are expected to take at most


@dataclass(frozen=True)
class Layout:
    """The place of each tensor by its name; the full size of each file; the name of the index, where there are several files.

    ``order`` has the places in ``slots`` of the tensors in the order of their bytes, ``tensors`` those in the list that was laid
    out. Headers and index are made when they are asked for. ``encoded``: the files hold the tensors as chunks, whose sizes show only in
    the end; what is said here of sizes and headers is of the numbers.
    """

    slots: TensorTable
    sizes: Mapping[str, int]
    index_name: str | None
    order: Sequence[int]
    tensors: Sequence[int]
    _places: Mapping[str, range]  # which part of ``order`` each file has
    encoded: bool = False

    @property
    def headers(self) -> Mapping[str, bytes]:
        """The header of each file."""
        return LazyMapping(self._places, self._header)

    @property
    def index(self) -> bytes | None:
        """The index as written to disk."""
        if self.index_name is None:
            return None
        total = sum(slot.nbytes for slot in self.slots.values())
        text = bytearray(f'{{\n  "metadata": {{\n    "total_size": {total}\n  }},\n  "weight_map": {{'.encode())
        for number, slot in enumerate(self.slots.values()):
            comma = "," if number else ""
            text += f"{comma}\n    {json.dumps(slot.name)}: {json.dumps(slot.file)}".encode()
        return bytes(text + b"\n  }\n}\n")

    @functools.cached_property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values()) + len(self.index or b"")

    @property
    def needed(self) -> int:
        """Bytes of disk that a run asks for before it begins; of chunks a share, for a disk that becomes full stops a run that can go on."""
        return self.nbytes // (_ROOM if self.encoded else 1)

    def in_file(self, file: str) -> Iterator[StoredTensor]:
        """The tensors of a file, in their order."""
        return (self.slots.at(self.order[place]) for place in self._places[file])

    def _header(self, file: str) -> bytes:
        return render_header(_entries(self.in_file(file)), METADATA)


def _entries(slots: Iterable[StoredTensor]) -> Entries:
    """What a header says of tensors that lie one after another."""
    position = 0
    for slot in slots:
        yield slot.name, slot.dtype, slot.shape, position, position + slot.nbytes
        position += slot.nbytes


def lay_out(tensors: Iterable[tuple[str, str, tuple[int, ...]]], shard_bytes: int, stem: str = "model") -> Layout:
    """The layout of (name, dtype, shape) in shards of at most ``shard_bytes`` (a larger tensor has one of its own)."""
    kinds: dict[tuple[str, tuple[int, ...]], int] = {}
    names: list[str] = []
    kind, ends = array("I"), array("Q")  # of each tensor; of each shard, in tensors
    filled = 0
    for name, dtype, shape in tensors:
        size = _nbytes((name, dtype, shape))
        if names and len(names) > (ends[-1] if ends else 0) and filled + size > shard_bytes:
            ends.append(len(names))
            filled = 0
        names.append(name)
        kind.append(kinds.setdefault((dtype, shape), len(kinds)))
        filled += size
    ends.append(len(names))
    shapes = list(kinds)
    in_order = array("Q")
    sizes: dict[str, int] = {}
    places: dict[str, range] = {}

    def placed() -> Iterator[StoredTensor]:
        for number, end in enumerate(ends, 1):
            one = len(ends) == 1
            file = f"{stem}.safetensors" if one else f"{stem}-{number:05d}-of-{len(ends):05d}.safetensors"
            places[file] = range(len(in_order), end)
            shard = sorted(places[file], key=lambda place: -DTYPES[shapes[kind[place]][0]].itemsize)

            def tensor(place: int, offset: int = 0) -> StoredTensor:
                dtype, shape = shapes[kind[place]]
                return StoredTensor(names[place], dtype, shape, file, offset, _nbytes((names[place], dtype, shape)))  # noqa: B023

            position = rendered_length(_entries(map(tensor, shard)), METADATA)
            for place in shard:
                found = tensor(place, position)
                yield found
                position += found.nbytes
            sizes[file] = position
            in_order.extend(shard)

    slots = TensorTable(placed())
    order = array("Q", (slots.place(names[place]) for place in in_order))
    return Layout(slots, sizes, None if len(ends) == 1 else f"{stem}.safetensors.index.json", order, in_order, places)


def _nbytes(tensor: tuple[str, str, tuple[int, ...]]) -> int:
    count = DTYPES[tensor[1]].itemsize
    for extent in tensor[2]:
        count *= extent
    return count
