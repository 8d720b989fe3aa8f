"""Where each tensor of an output goes: shards, offsets, headers, index; known before the first byte is written.

In come names, dtypes and shapes in the order they are to be written, out comes the layout. Within a shard, tensors of
wide elements stand first, so that each begins at a multiple of its element size, as the official writer has it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.header import render_header
from tuneport.checkpoint.weights import StoredTensor


@dataclass(frozen=True)
class Layout:
    """The place of each tensor by its name; for each file its header and full size; the index, where there is more than one file."""

    slots: Mapping[str, StoredTensor]
    headers: Mapping[str, bytes]
    sizes: Mapping[str, int]
    index_name: str | None
    index: bytes | None

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values()) + len(self.index or b"")


def lay_out(tensors: Sequence[tuple[str, str, tuple[int, ...]]], shard_bytes: int, stem: str = "model") -> Layout:
    """The layout of (name, dtype, shape) in shards of at most ``shard_bytes`` (a larger tensor has one of its own)."""
    shards: list[list[tuple[str, str, tuple[int, ...]]]] = [[]]
    filled = 0
    for tensor in tensors:
        size = _nbytes(tensor)
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += size
    slots: dict[str, StoredTensor] = {}
    headers, sizes = {}, {}
    for number, shard in enumerate(shards, 1):
        file = f"{stem}.safetensors" if len(shards) == 1 else f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        position, entries = 0, {}
        for tensor in sorted(shard, key=lambda tensor: -DTYPES[tensor[1]].itemsize):
            name, dtype, shape = tensor
            entries[name] = (dtype, shape, position, position + _nbytes(tensor))
            position += _nbytes(tensor)
        headers[file] = render_header(entries, {"format": "pt"})
        sizes[file] = len(headers[file]) + position
        for name, (dtype, shape, begin, end) in entries.items():
            slots[name] = StoredTensor(name, dtype, shape, file, len(headers[file]) + begin, end - begin)
    if len(shards) == 1:
        return Layout(slots, headers, sizes, None, None)
    total = sum(slot.nbytes for slot in slots.values())
    weight_map = {name: slots[name].file for name in sorted(slots)}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return Layout(
        slots, headers, sizes, f"{stem}.safetensors.index.json", (json.dumps(index, indent=2) + "\n").encode()
    )


def _nbytes(tensor: tuple[str, str, tuple[int, ...]]) -> int:
    count = DTYPES[tensor[1]].itemsize
    for extent in tensor[2]:
        count *= extent
    return count
