"""Checkpoints on the way: which of them is whole, and how older ones go.

A trainer writes `checkpoint-N` file by file. It counts once it is marked, after its last file, and no longer once the mark is
gone, which is removed before its first file: what a kill left half written or half removed is never gone on from.
"""

from __future__ import annotations

import shutil
from pathlib import Path

CHECKPOINTS = "checkpoints"
WHOLE = "whole"  # stands in a checkpoint whose every file is written
_KEPT = 2


def mark_whole(checkpoints: Path, step: int) -> None:
    """Mark the checkpoint of a step, whose last file is written; the one before stays, older ones are removed.

    transformers would remove older ones by the times of their folders, which change while one is being removed: after a kill
    then, a half removed one would stay and a whole one would go.
    """
    (checkpoints / f"checkpoint-{step}" / WHOLE).touch()
    for older in _by_step(checkpoints)[:-_KEPT]:
        _remove(older)


def last_whole(checkpoints: Path) -> Path | None:
    """The last checkpoint that was written to its end; what was cut short, or half removed, is removed."""
    whole = None
    for folder in _by_step(checkpoints):
        if (folder / WHOLE).exists():
            whole = folder
        else:
            _remove(folder)
    return whole


def step_of(checkpoint: Path) -> int:
    """The number of steps after which it was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _by_step(checkpoints: Path) -> list[Path]:
    return sorted(checkpoints.glob("checkpoint-*"), key=step_of)


def _remove(folder: Path) -> None:
    (folder / WHOLE).unlink(missing_ok=True)
    shutil.rmtree(folder)
