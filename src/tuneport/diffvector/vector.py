"""A diff vector on disk: what its folder contains, and how to find rows and tensors in it.

A `DiffVector` has differences by tensor name in the working dtype, raw rows of tokens that the base lacks, and the
small files of both parents. docs/formats.md describes the folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.encoded.encoded_tensors import decoded
from tuneport.checkpoint.floats import working_dtype
from tuneport.checkpoint.local_folder import open_folder
from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import CheckpointError
from tuneport.files.printable import quoted
from tuneport.pairing.vocabulary import MOST_ROWS
from tuneport.pairing.vocabulary_matrices import with_rows

STEM = "diff"
# The raw rows of tensor NAME are in the tensor RAW + NAME.
RAW = "raw:"


@dataclass(frozen=True)
class DiffVector:
    """A stored diff vector. ``stored`` is its folder as a checkpoint; ``entries`` its account of the parents' tensors.

    ``made`` are small files of a parent (base, tuned) that replace the stored ones.
    """

    role: str
    stored: Checkpoint
    entries: Mapping[str, Mapping[str, Any]]
    manifest: Mapping[str, Any]
    base_config: Mapping[str, Any]
    made: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)

    @property
    def base(self) -> SidecarFolder:
        """The sidecars of the base it was taken from."""
        return self._parent("base")

    @property
    def tuned(self) -> SidecarFolder:
        """The sidecars of the tuned model it was taken from."""
        return self._parent("tuned")

    def _parent(self, role: str) -> SidecarFolder:
        made = self.made.get(role, {})
        return SidecarFolder(
            role, f"{self.stored.label}/{role}", self.stored.path / role, made=made, within=self.stored.path
        )

    def difference(self, name: str) -> StoredTensor | None:
        """The difference that is stored for a tensor; None where none is."""
        return None if name.startswith(RAW) else self.stored.tensors.get(name)

    def raw_ids(self, name: str) -> tuple[int, ...]:
        """Ids in the tuned tokenizer of the rows that are kept raw for a tensor, in their stored order."""
        return tuple(self.entries[name].get("raw_ids", ()))

    def ids(self, name: str) -> tuple[int, ...] | None:
        """Ids in the base's tokenizer of the rows that are stored for a tensor, in order; None where all of them are."""
        return tuple(self.entries[name]["ids"]) if "ids" in self.entries[name] else None


def open_diff(spec: str | os.PathLike[str], role: str = "diff", label: str | None = None) -> DiffVector:
    """A diff vector from its folder, called ``label`` if not by its name. Raises `CheckpointError` if it is not a diff
    vector, or incomplete.
    """
    from tuneport.engine.manifest import read_manifest

    path = Path(os.path.expanduser(spec))
    if not path.is_dir():
        raise CheckpointError(
            f"{role} {path}: no such folder. `tuneport diff --base A --tuned T --out DIFF` creates one."
        )
    manifest = read_manifest(path)
    if manifest.get("operation") != "diff":
        raise CheckpointError(f"{role} {path} is not a diff vector (its manifest says {manifest.get('operation')!r}).")
    stored = decoded_as_told(replace(open_folder(path, role, stem=STEM, label=label), role=role), manifest)
    entries = manifest.get("diff")
    if not isinstance(entries, dict) or not _name_the_same(entries, stored):
        raise CheckpointError(f"{role} {path}: the manifest and the stored tensors do not match. Compute it again.")
    for name, entry in entries.items():
        if not _agrees(entry, stored.tensors.get(name), stored.tensors.get(RAW + name)):
            raise CheckpointError(
                f"{role} {path}: {quoted(name)} is not stored as the manifest says. Compute the vector again."
            )
    config = SidecarFolder("base", path.name, path / "base", within=path).json("config.json") or {}
    return DiffVector(role, stored, entries, manifest, config)


def decoded_as_told(stored: Checkpoint, manifest: Mapping[str, Any]) -> Checkpoint:
    """A diff vector's tensors as they are once decoded, where its manifest says that they are encoded. Raises `CheckpointError`."""
    encoding = manifest.get("encoding", "float32")
    if encoding == "float32":
        return stored
    if encoding != "exact":
        raise CheckpointError(
            f"{stored.role} {stored.label} has the encoding {encoding!r}, which this version does not know. Install a newer one."
        )
    return decoded(stored, manifest["tensors"])


def _name_the_same(entries: Mapping[str, Mapping[str, Any]], stored: Checkpoint) -> bool:
    """Whether the entries of stored differences, and no others, have a tensor of their name."""
    differences = sum(not name.startswith(RAW) for name in stored.tensors)
    named = [name for name, entry in entries.items() if entry.get("stored")]
    return len(named) == differences and all(name in stored.tensors and not name.startswith(RAW) for name in named)


def _agrees(entry: Mapping[str, Any], difference: StoredTensor | None, raw: StoredTensor | None) -> bool:
    """Whether shapes and dtypes are what base and tuned give: reading past a tensor's end would find another's bytes."""
    base, tuned, raw_ids = entry["base"], entry["tuned"], entry.get("raw_ids", [])
    ids = entry.get("ids")
    if min([*base["shape"], *tuned["shape"], *raw_ids, *(ids or ())], default=0) < 0:
        return False
    if ids is not None and max(base["shape"], default=0) > MOST_ROWS:
        return False
    if not {base["dtype"], tuned["dtype"]} <= set(DTYPES):
        return False
    if difference is None:
        if ids is not None or (raw is not None and DTYPES[base["dtype"]].kind != "float"):
            return False
    elif difference.dtype != working_dtype(base["dtype"], tuned["dtype"]):
        return False
    elif ids is not None:
        if not base["shape"] or len(set(ids)) != len(ids) or max(ids, default=-1) >= base["shape"][0]:
            return False
        if list(difference.shape) != [len(ids), *base["shape"][1:]]:
            return False
    elif list(difference.shape) != base["shape"]:
        return False
    if raw is None:
        return not raw_ids
    return raw.dtype == tuned["dtype"] and raw.shape == with_rows(tuple(tuned["shape"]), len(raw_ids))
