"""A loopback Hub with models of real sizes: headers are files, weights are made up as they are asked for.

In come names and shapes, out comes a repository whose weight files have their real sizes and take no disk. An element is that of
a fixed pattern at its place in the model, so two versions of a model are as near to each other as their patterns are.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from support.loopback_hub import LoopbackHub, is_large

SIZES = {"F32": 4, "BF16": 2}
SHARD = 5_000_000_000
PERIOD = 99_991  # elements of a pattern; a prime, so that rows differ


@dataclass
class ShapedHub(LoopbackHub):
    """``patterns`` are the weights of each revision's folder, as stored numbers."""

    patterns: dict[Path, NDArray[Any]] = field(default_factory=dict)
    elements_before: dict[Path, int] = field(default_factory=dict)

    def add(
        self, repo: str, revision: str, folder: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str, weights: Any
    ) -> None:
        """Put a model into ``folder``, whose small files are there already; ``weights`` are PERIOD floats."""
        self.elements_before |= write_shards(folder, shapes, dtype)
        stored = np.asarray(weights, dtype=np.float32)
        self.patterns[folder] = stored if dtype == "F32" else (stored.view(np.uint32) >> 16).astype(np.uint16)
        self.repositories.setdefault(repo, {})[revision] = folder

    def digest(self, path: Path, kind: str = "sha256") -> str:
        """Of a weight file the digest of its name, which nobody looks into."""
        return hashlib.new(kind, str(path).encode()).hexdigest() if is_large(path) else super().digest(path, kind)

    def content(self, path: Path) -> Any:
        """A file that can be asked for its length and for ranges."""
        return _Weights(path, self.patterns[path.parent], self.elements_before[path])


class _Weights:
    def __init__(self, path: Path, pattern: NDArray[Any], before: int) -> None:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self._head = length.to_bytes(8, "little") + file.read(length)
        self._size, self._pattern, self._before = path.stat().st_size, pattern, before

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, asked: slice) -> bytes:
        start, stop, _ = asked.indices(self._size)
        head = self._head[start:stop]
        first, last = (max(place - len(self._head), 0) for place in (start, stop))
        width = self._pattern.itemsize
        elements = (self._before + np.arange(first // width, -(-last // width))) % PERIOD
        skipped = first % width
        return head + self._pattern[elements].tobytes()[skipped : skipped + last - first]


def write_shards(folder: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> dict[Path, int]:
    """Headers and index, and files of the size that their weights would have; says how many elements are before each file's."""
    shards: list[dict[str, dict[str, Any]]] = [{}]
    placed = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * SIZES[dtype]
        if placed + size > SHARD and shards[-1]:
            shards.append({})
            placed = 0
        shards[-1][name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [placed, placed + size]}
        placed += size
    index, before, counted = {}, {}, 0
    for number, entries in enumerate(shards, 1):
        file = folder / f"model-{number:05}-of-{len(shards):05}.safetensors"
        head = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
        head += b" " * (-len(head) % 8)
        with file.open("wb") as opened:
            opened.write(len(head).to_bytes(8, "little") + head)
            os.truncate(opened.fileno(), 8 + len(head) + max(entry["data_offsets"][1] for entry in entries.values()))
        index.update(dict.fromkeys(entries, file.name))
        before[file] = counted
        counted += sum(math.prod(entry["shape"]) for entry in entries.values())
    whole = {"metadata": {}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(whole))
    return before
