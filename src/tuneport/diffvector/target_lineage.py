"""Find out what a target is to a diff vector, from digests: its parent, a known descendant of one, or a stranger.

The diff vector's manifest has a digest of every tensor of both parents. Of the target some tensors are read and hashed,
those first in which the parents differ; headers alone prove nothing, since a fine-tuning has those of its base. A
descendant is a model whose own manifest names a parent among its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.reading import reading
from tuneport.diffvector.vector import DiffVector
from tuneport.engine.budget import PIECE, Budget
from tuneport.engine.manifest import read_manifest
from tuneport.engine.summands.lineage import Evidence, Lineage
from tuneport.engine.tensor_digests import tensor_digests
from tuneport.output.write import MANIFEST

# Bytes of a target that are hashed; at least one tensor is, and none that is on the Hub only.
MOST_BYTES = 32 * 2**20
PARENTS = ("base", "tuned")
Inputs = Mapping[str, Mapping[str, Any]]


def find_lineage(vector: DiffVector, target: Checkpoint) -> Lineage:
    """What the target is to the diff vector. Raises `CheckpointError` where it cannot be read."""
    told = vector.role, vector.stored.label
    parents = _inputs(vector.manifest, PARENTS)
    hub = {file.name: file.hub_digest for file in target.files.values()}
    for role, entry in parents.items():
        if hub and entry.get("hub") == hub:
            return Lineage(*told, "parent", role, "hub")
    digests = {
        role: entry["tensors"]
        for role, entry in parents.items()
        if isinstance(entry.get("tensors"), Mapping) and entry["tensors"].keys() == target.tensors.keys()
    }
    found = _hashed(target, digests) if digests and not target.to_fetch else {}
    for role, recorded in digests.items():
        if found and all(recorded[name] == digest for name, digest in found.items()):
            return Lineage(*told, "parent", role, "tensors", len(found))
    for role, by, count in _named_in(target, vector.manifest, parents):
        return Lineage(*told, "descendant", role, by, count)
    return Lineage(*told, "unknown" if digests and not found else "stranger", tensors=len(found))


def _hashed(target: Checkpoint, digests: Inputs) -> dict[str, str]:
    """Digests of some of the target's tensors: the smallest, and before all others those in which the parents differ."""

    def order(name: str) -> tuple[bool, int, str]:
        return len({recorded[name] for recorded in digests.values()}) < len(digests), target.tensors[name].nbytes, name

    chosen, left = list[str](), MOST_BYTES
    for name in sorted(target.tensors, key=order):
        left -= target.tensors[name].nbytes
        if left < 0 and chosen:
            break
        chosen.append(name)
    with reading(target) as reader:
        some = {name: target.tensors[name] for name in chosen}
        return dict(tensor_digests(some, reader, Budget(1, PIECE, 0, 0), "digest of the target"))


def _named_in(target: Checkpoint, manifest: Mapping[str, Any], parents: Inputs) -> Iterator[tuple[str, Evidence, int]]:
    """The parents that the target's own manifest names as inputs, the surest evidence first."""
    if not (target.path / MANIFEST).is_file():
        return
    own = read_manifest(target.path)
    inputs = _inputs(own)
    pairs = [(role, name) for role in parents for name in inputs]
    for role, name in pairs:
        parent = parents[role]
        if str(parent.get("digest")).startswith("tensors:") and parent["digest"] == inputs[name].get("digest"):
            yield role, "tensors", len(parent["tensors"])
    for role, name in pairs:
        if parents[role].get("hub") and parents[role]["hub"] == inputs[name].get("hub"):
            yield role, "hub", 0
    for role, name in pairs:
        files = _files(manifest, role)
        if parents[role]["name"] == inputs[name]["name"] and files and files == _files(own, name):
            yield role, "headers", 0


def _inputs(manifest: Mapping[str, Any], roles: tuple[str, ...] | None = None) -> dict[str, Mapping[str, Any]]:
    return {entry["role"]: entry for entry in manifest["inputs"] if roles is None or entry["role"] in roles}


def _files(manifest: Mapping[str, Any], role: str) -> dict[str, tuple[Any, Any]]:
    """Size and header of each file of an input."""
    files = manifest["plan"]["inputs"].get(role, {}).get("files", {})
    return {name: (entry.get("size"), entry.get("header")) for name, entry in files.items()}
