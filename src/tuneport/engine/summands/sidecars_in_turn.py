"""Merge the small files of several summands, one after another, as their weights are added."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.engine.choices import Choices
from tuneport.engine.scaling.presets import choices_of_files
from tuneport.engine.summands.summand import Summand, of_one
from tuneport.files.opening import contents
from tuneport.files.writing import write_new
from tuneport.sidecars.merge import Sidecars, merge_sidecars
from tuneport.sidecars.three_way import Three


def merge_in_turn(
    summands: Sequence[Summand], target: Checkpoint, choices: Choices, grown: Mapping[int, int]
) -> Sidecars:
    """The merge of each in turn, with all that was found; the next one meets what the one before made of the target's files."""
    folder, merges = target.sidecars, list[Sidecars]()
    owners = ["target"]  # whose template the target of this merge has
    # One summand needs no folder, and asking for one writes to the disk before anything is known to fit.
    with tempfile.TemporaryDirectory() if len(summands) > 1 else contextlib.nullcontext() as scratch:
        for number, each in enumerate(summands):
            folders = Three(*each.sidecars, folder)
            merges.append(
                merge_sidecars(
                    folders, each.match.names, choices.config, _files_chosen(choices, folders), choices.dtype, grown
                )
            )
            sides = merges[-1].noted["behaviour"]["template"]
            owners = list(dict.fromkeys(own for side in sides for own in (owners if side == "target" else [side])))
            if scratch is not None and each is not summands[-1]:
                folder = _written(merges[-1], Path(scratch) / str(number), folder)
        files = {name: _kept(content, scratch) for name, content in merges[-1].files.items()}
    return replace(
        merges[-1],
        files=files,
        decisions=[
            found
            for each, merged in zip(summands, merges, strict=True)
            for found in of_one(each, merged.decisions, summands)
        ],
        differences=[found for merged in merges for found in merged.differences],
        refusals=[found for merged in merges for found in merged.refusals],
        noted={**merges[-1].noted, "behaviour": {**merges[-1].noted["behaviour"], "template": owners}},
        warnings=list(dict.fromkeys(found for merged in merges for found in merged.warnings)),
    )


def _files_chosen(choices: Choices, folders: Three) -> Mapping[str, str]:
    """The choices of files that have an effect, or that the user made."""
    present = {name for name in choices.sidecar if any(folder.has(name) for folder in folders)}
    return choices_of_files(choices.preset, choices.sidecar, present)


def _written(merged: Sidecars, place: Path, like: SidecarFolder) -> SidecarFolder:
    place.mkdir()
    for name, content in merged.files.items():
        (place / name).parent.mkdir(exist_ok=True)
        write_new(place / name, content)
    return SidecarFolder("target", like.label, place)


def _kept(content: bytes | Path, scratch: str | None) -> bytes | Path:
    """A path into the scratch folder would vanish with it."""
    within = scratch is not None and isinstance(content, Path) and Path(scratch) in content.parents
    return contents(content) if within else content
