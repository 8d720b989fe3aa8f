"""Checkpoints during training: which of them is complete, and how older ones are removed.

A trainer writes `checkpoint-N` file by file. A mark is written after its last file and removed before its first, so
training never resumes from a checkpoint that a kill left half written or half removed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

CHECKPOINTS = "checkpoints"
WHOLE = "whole"  # marks a checkpoint whose every file is written
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
