"""Open a folder or a Hub id@revision as a Checkpoint. Only headers and small files are read."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

from tuneport.checkpoint.adapter_names import without_wrappers
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.hub import open_hub
from tuneport.checkpoint.local_folder import open_folder
from tuneport.checkpoint.quantised.scaled_tensors import METHOD, scaled_table
from tuneport.checkpoint.small_files import JOURNAL
from tuneport.checkpoint.views import renamed
from tuneport.checkpoint.weights import TensorTable
from tuneport.errors import CheckpointError
from tuneport.files.opening import resolved
from tuneport.files.printable import quoted

_OF_RUNS = ("plan.json", "tune.json", "adapt.json", "rungs")  # what `tune` and `adapt` leave in DIR.partial
HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./+-]+))?")


def open_checkpoint(spec: str | os.PathLike[str], role: str, label: str | None = None) -> Checkpoint:
    """A checkpoint from a folder, or from a Hub id such as ``org/name`` or ``org/name@revision``.

    An existing folder has priority; ``label`` replaces its name in messages. Raises `CheckpointError`, naming what was
    looked for and what to do.
    """
    text = os.fspath(spec)
    if not text:
        raise CheckpointError(f"{role}: the name of the folder or Hub id is empty.")
    path = Path(os.path.expanduser(text))
    if path.is_dir():
        if _is_unfinished(path):
            raise CheckpointError(f"{role} {text} is unfinished; run the command that started it again to resume.")
        if (path / "diff.safetensors").exists() or (path / "diff.safetensors.index.json").exists():
            raise CheckpointError(f"{role} {text} is a diff vector; add it to a model with `tuneport apply`.")
        return unwrapped(through_scales(open_folder(path, role, label=label)))
    if path.exists():
        raise CheckpointError(f"{role} {text} is a file; pass the folder that contains it and its config.json.")
    found = HUB_ID.fullmatch(text)
    if found and not text.startswith((".", "/", "~")):
        return unwrapped(through_scales(open_hub(found["repo"], found["revision"], role)))
    raise CheckpointError(
        f"{role} {text}: no such folder, and not a valid Hub id either (org/name or org/name@revision)."
    )


def _is_unfinished(folder: Path) -> bool:
    """Whether a run of tuneport is still to go on in it: of `tune` and `adapt` its weights may be there already."""
    ours = (JOURNAL, *(_OF_RUNS if resolved(folder).name.endswith(".partial") else ()))
    return any((folder / name).exists() for name in ours)


def fetched(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with its weights on this disk: those of a Hub id are brought to the standard cache."""
    if checkpoint.hub_id is None or not checkpoint.to_fetch:
        return checkpoint
    from tuneport.checkpoint.hub import fetch

    return unwrapped(through_scales(fetch(checkpoint)))


def through_scales(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the numbers that 8-bit and 4-bit codes stand for, where their scales are stored with them.

    Raises `CheckpointError` where codes and scales do not fit each other.
    """
    if checkpoint.adapter is not None or checkpoint.legacy:
        return checkpoint
    found = scaled_table(checkpoint.tensors, checkpoint.config, f"{checkpoint.role} {checkpoint.label}")
    if found is None:
        return checkpoint
    # What is read is plain, and so is what is written: nothing may say otherwise.
    plain = {name: value for name, value in checkpoint.config.items() if name != METHOD}
    made = {**checkpoint.made, "config.json": (json.dumps(plain, indent=2) + "\n").encode()}
    return replace(checkpoint, tensors=found, scaled=found, made=made)


def unwrapped(checkpoint: Checkpoint) -> Checkpoint:
    """A target without what a trainer wrapped its modules in: its names are the output's, and no loader knows such names."""
    if checkpoint.role != "target" or checkpoint.adapter is not None:
        return checkpoint
    tensors = checkpoint.tensors
    names = without_wrappers(tensors)
    if len(set(names)) < len(names) or all(one == other for one, other in zip(tensors, names, strict=True)):
        return checkpoint
    table = TensorTable(renamed(tensor, name) for tensor, name in zip(tensors.values(), names, strict=True))
    first, without = next((one, other) for one, other in zip(tensors, names, strict=True) if one != other)
    told = (
        f"{checkpoint.role} {checkpoint.label}: a training library saved it with its own names ({quoted(first)}), which "
        f"transformers does not load. The output has {quoted(without)} instead."
    )
    return replace(checkpoint, tensors=table, warnings=(*checkpoint.warnings, told))
