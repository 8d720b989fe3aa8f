"""Rename a stored diff vector's tensors to the target's names.

Everything stays a view of what is stored: differences, raw rows, and what the manifest records of base and tuned. The
rules are those of `pairing.spelling`, applied to the base's names and shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.floats import working_dtype
from tuneport.checkpoint.views import UnviewableError, renamed, stored_name
from tuneport.checkpoint.weights import StoredTensor, TensorTable
from tuneport.diffvector.vector import RAW, DiffVector
from tuneport.engine.choices import Choices
from tuneport.errors import PairingError
from tuneport.files.printable import quoted
from tuneport.pairing.model_kinds import is_placed, is_text_of
from tuneport.pairing.spelling import Aligned, align, seen_as
from tuneport.sidecars.read import CONFIG

Entry = Mapping[str, Any]


def align_vector(vector: DiffVector, target: Checkpoint, choices: Choices) -> tuple[DiffVector, Aligned]:
    """The vector under the target's names, and what was found. Raises `UsageError` for a bad rename, or `PairingError`."""
    outline = outline_of(vector)
    tuned = replace(outline, config=vector.tuned.json(CONFIG) or {})
    alone = is_text_of(tuned.config, outline.config)
    aligned = align([outline], target, choices.renames, choices.drop, alone)
    seen, config = aligned.checkpoints[0], target.config
    placed = is_placed([outline], target, choices.renames)
    made = {"base": seen.made, "tuned": seen_as(tuned, config, placed).made}
    return replace(_under(vector, seen.tensors), base_config=seen.config, made=made), aligned


def outline_of(vector: DiffVector) -> Checkpoint:
    """The vector's base as its manifest remembers it: names, shapes and config, without values."""
    shapes = TensorTable(_outline(name, entry) for name, entry in vector.entries.items())
    return replace(vector.stored, tensors=shapes, config=vector.base_config)


def _under(vector: DiffVector, views: Mapping[str, StoredTensor]) -> DiffVector:
    """The vector whose tensors are these views of its own; what it remembers of its base's values goes with whole ones."""
    entries: dict[str, Entry] = {}
    tensors: list[StoredTensor] = []
    remembered, sample = vector.manifest.get("base_sample", {}), {}
    for name, view in views.items():
        try:
            entry, difference = _translated(vector, view)
        except UnviewableError as error:
            raise PairingError(
                f"{vector.role} {vector.stored.label}: {quoted(name)} of the target combines or splits tensors that "
                f"the diff vector stores in different ways ({error}). Run `tuneport transfer` with its parents instead."
            ) from None
        entries[name] = entry
        if difference is not None:
            tensors.append(renamed(difference, name))
        raw = vector.stored.tensors.get(RAW + stored_name(view))
        if raw is not None:
            tensors.append(renamed(raw, RAW + name))
        if _is_whole(vector, view) and stored_name(view) in remembered:
            sample[name] = remembered[stored_name(view)]
    stored = replace(vector.stored, tensors=TensorTable(tensors))
    return replace(vector, stored=stored, entries=entries, manifest={**vector.manifest, "base_sample": sample})


def _outline(name: str, entry: Entry) -> StoredTensor:
    """A difference as its headers tell it, wherever it lies; of what is not stored as well."""
    dtype = working_dtype(entry["base"]["dtype"], entry["tuned"]["dtype"])
    shape = tuple(entry["base"]["shape"])
    return StoredTensor(name, dtype, shape, "", 0, math.prod(shape) * DTYPES[dtype].itemsize)


def _translated(vector: DiffVector, view: StoredTensor) -> tuple[Entry, StoredTensor | None]:
    """What the manifest would say of a tensor of the target's spelling, and its difference where it is stored."""
    if _is_whole(vector, view):
        return vector.entries[stored_name(view)], vector.stored.tensors.get(stored_name(view))
    entries = [vector.entries[stored_name(leaf)] for leaf in _leaves(view)]
    kinds = {(entry["base"]["dtype"], entry["tuned"]["dtype"], bool(entry["stored"])) for entry in entries}
    if len(kinds) > 1:
        raise UnviewableError("other dtypes, or trained in part")
    if any(entry.get("by_token") for entry in entries):
        raise UnviewableError("rows of tokens")
    if any(
        "ids" in entry or entry.get("raw_ids") or entry["base"]["shape"] != entry["tuned"]["shape"] for entry in entries
    ):
        raise UnviewableError("rows of tokens")
    base, tuned, is_stored = kinds.pop()
    shape = list(view.shape)
    entry = {"stored": is_stored, "base": {"dtype": base, "shape": shape}, "tuned": {"dtype": tuned, "shape": shape}}
    return entry, _over(view, vector.stored.tensors) if is_stored else None


def _is_whole(vector: DiffVector, view: StoredTensor) -> bool:
    """Whether a view is one of the vector's tensors, under whatever name."""
    entry = vector.entries.get(stored_name(view))
    return entry is not None and view.in_one_piece and tuple(entry["base"]["shape"]) == view.shape


def _leaves(view: StoredTensor) -> list[StoredTensor]:
    parts = view.view.parts if view.view is not None else ()
    return [leaf for part in parts for leaf in _leaves(part)] if parts else [view]


def _over(view: StoredTensor, stored: Mapping[str, StoredTensor]) -> StoredTensor:
    """The same view of tensors that are stored: each outline in it replaced by what it outlines."""
    if view.view is not None and view.view.parts:
        parts = tuple(_over(part, stored) for part in view.view.parts)
        return replace(view, file=parts[0].file, offset=parts[0].offset, view=replace(view.view, parts=parts))
    lies = stored[stored_name(view)]
    if lies.view is not None:
        raise UnviewableError("a vector that was translated before")
    return replace(view, file=lies.file, offset=lies.offset + view.offset)
