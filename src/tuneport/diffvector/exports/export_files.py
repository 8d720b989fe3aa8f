"""Write the files of an export: tensors one after another into safetensors files, hashed on the way; then the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from tuneport.checkpoint.weights import StoredTensor
from tuneport.diffvector.exports.export_card import render_export_card
from tuneport.engine.manifest import environment, render_manifest, token_record
from tuneport.engine.plan import FORMAT, Plan
from tuneport.errors import recorded
from tuneport.files.json_text import finite
from tuneport.files.opening import contents
from tuneport.files.writing import create, whole, write_new
from tuneport.output.digest import LEAF_BYTES, root_of
from tuneport.output.model_card import card_digest, own_text, with_own
from tuneport.output.parent_cards import card_facts
from tuneport.output.replacing import CARD
from tuneport.output.shards import Layout
from tuneport.output.write import MANIFEST

# A tensor's bytes, piece by piece.
Content = Callable[[StoredTensor], Iterable[bytes | memoryview]]


def write_tensors(folder: Path, layout: Layout, content: Content) -> dict[str, str]:
    """Write every file of a layout, and its index; the digest of each tensor by its name."""
    digests: dict[str, str] = {}
    slots: dict[str, list[StoredTensor]] = {}
    for number in layout.order:
        slot = layout.slots.at(number)
        slots.setdefault(slot.file, []).append(slot)
    for file, own in slots.items():
        with create(folder / file) as opened:
            opened.write(layout.headers[file])
            for slot in own:
                digests[slot.name] = _write(slot, content(slot), opened.write)
    if layout.index is not None and layout.index_name is not None:
        write_new(folder / layout.index_name, layout.index)
    return digests


def _write(slot: StoredTensor, pieces: Iterable[bytes | memoryview], write: Callable[[bytes | memoryview], int]) -> str:
    leaves, hasher, room, total = [], blake3(), LEAF_BYTES, 0
    for piece in pieces:
        view = memoryview(piece).cast("B")
        write(view)
        total += len(view)
        while len(view):
            part, view = view[:room], view[room:]
            hasher.update(part)
            room -= len(part)
            if not room:
                leaves.append(hasher.digest())
                hasher, room = blake3(), LEAF_BYTES
    assert total == slot.nbytes, f"{slot.name}: {total} bytes were written, {slot.nbytes} have room"
    if room < LEAF_BYTES:
        leaves.append(hasher.digest())
    return root_of(leaves)


def array_bytes(array: np.ndarray[Any, Any]) -> Iterator[memoryview]:
    """The bytes of an array, in pieces of whole rows that are made contiguous one after another."""
    step = max(2**20 // max(array.shape[1] if array.ndim > 1 else 1, 1), 1)
    for first in range(0, len(array), step):
        yield np.ascontiguousarray(array[first : first + step]).reshape(-1).view(np.uint8).data


def finish_export(
    folder: Path,
    out: Path,
    plan: Plan,
    record: Mapping[str, Any],
    form: str,
    tensors: Sequence[Mapping[str, Any]],
    exported: Mapping[str, Any],
    files: Mapping[str, bytes | Path],
    warnings: Iterable[str],
    begun: float,
) -> dict[str, Any]:
    """Write the small files, the card and the manifest, which is returned."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_new(folder / name, content)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "operation": "export",
        "form": form,
        "formula": f"{plan.formula}, as {'a PEFT adapter' if form == 'peft' else 'a sparse patch'} of the target",
        "inputs": [finite(each.identity()) for each in plan.inputs],
        "decisions": [asdict(decision) for decision in plan.decisions],
        "tensors": list(tensors),
        "tokens": [token_record(match) for match in plan.vocabulary],
        "measures": {},
        "exported": dict(exported),
        "warnings": recorded(warnings),
        "files": {name: blake3(contents(content)).hexdigest() for name, content in files.items()},
        "plan": dict(record),
        "card": card_facts(plan.inputs[-1:]),
        "environment": environment(seconds=round(time.monotonic() - begun, 3)),
    }
    manifest = finite(manifest)
    card = render_export_card(manifest)
    manifest["files"][CARD] = card_digest(card)
    write_new(folder / CARD, with_own(card, own_text(out / CARD)))
    with whole(folder / MANIFEST) as file:
        file.writelines(render_manifest(manifest))
    return manifest
