"""A checkpoint as described by its headers: names, shapes, dtypes, byte ranges, and the small files beside the weights.

Nothing is opened here: `open_model` makes checkpoints from folders and Hub ids, and `reading` reads their weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from tuneport.checkpoint.adapter_config import AdapterConfig
from tuneport.checkpoint.encoded.encoded_table import EncodedTable
from tuneport.checkpoint.quantised.scaled_tensors import ScaledTable
from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.checkpoint.weights import StoredTensor


@dataclass(frozen=True)
class WeightFile:
    """One file that holds weights: its size, when it was changed (0 on the Hub), and the BLAKE3 of its header.

    ``mtime_ns`` can be put back by whoever rewrites a file, ``ctime_ns`` cannot; a chmod or a new link changes it as well.
    """

    name: str
    size: int
    mtime_ns: int
    header_digest: str
    hub_digest: str | None = None
    cached: bool = True
    ctime_ns: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk or on the Hub, as described by its headers. No weights are read.

    ``adapter`` is the config of a PEFT adapter, whose tensors are peft's and mean nothing without a base; ``behind`` is
    the folder of that base, once it is known, and ``made`` are small files computed from the two, which are on no disk.
    ``warnings`` name what is beside the weights and was not read.
    ``scaled`` are the tensors, where some are stored as codes with scales; ``encoded``, where all are stored as chunks.
    ``parents`` are the names that the Hub's listing gives for what the model was made from.
    """

    role: str
    label: str
    revision: str | None
    path: Path
    files: Mapping[str, WeightFile]
    tensors: Mapping[str, StoredTensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    hub_id: str | None = None
    legacy: bool = False
    adapter: AdapterConfig | None = None
    behind: Path | None = None
    made: Mapping[str, bytes] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    scaled: ScaledTable | None = None
    encoded: EncodedTable | None = None

    @property
    def sidecars(self) -> SidecarFolder:
        """The small files beside the weights."""
        return SidecarFolder(self.role, self.label, self.path, self.behind, self.made)

    @property
    def parameters(self) -> int:
        """Number of stored elements, buffers included."""
        return sum(tensor.elements for tensor in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        table = self.scaled or self.encoded
        stored = self.tensors if table is None else table.stored
        return sum(tensor.nbytes for tensor in stored.values())

    @property
    def to_fetch(self) -> int:
        """Bytes of weights that are on the Hub and not yet in the cache."""
        return sum(file.size for file in self.files.values() if not file.cached)

    def identity(self) -> dict[str, Any]:
        """What the plan's digest and the manifest say of this input: headers, sizes and the Hub's hashes."""
        hasher = blake3()
        for file in sorted(self.files.values(), key=lambda file: file.name):
            hasher.update(f"{file.name}\0{file.size}\0{file.header_digest}\0".encode())
        hashes = {name: file.hub_digest for name, file in self.files.items() if file.hub_digest}
        return {
            "role": self.role,
            "name": self.hub_id or self.label,
            "revision": self.revision,
            "digest": f"headers:{hasher.hexdigest()}",
            "bytes": sum(file.size for file in self.files.values()),
            **({"hub": hashes} if hashes else {}),
            **({"adapter": self.adapter.in_words()} if self.adapter is not None else {}),
        }
