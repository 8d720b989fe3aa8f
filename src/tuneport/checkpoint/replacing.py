"""A finished folder takes its place, and that of another if one is there: by renames that a kill in between cannot spoil.

DIR.partial is marked, DIR becomes DIR.old, DIR.partial becomes DIR, DIR.old goes, and the mark last. Whoever finds the mark knows
what is left to do.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tuneport.errors import TakenError

REPLACES = ".replaces"


def move_into_place(out: Path, partial: Path) -> None:
    """Rename ``partial`` to ``out``; what is there goes when the new folder stands."""
    if os.path.lexists(out):
        (partial / REPLACES).touch()
        out.rename(_old(out))
    partial.rename(out)
    finish_replacing(out)


def finish_replacing(out: Path) -> None:
    """Remove what ``out`` has replaced, if a run was killed before it did so."""
    if not (out / REPLACES).is_file():
        return
    old = _old(out)
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old)
    elif os.path.lexists(old):
        old.unlink()
    (out / REPLACES).unlink()


def check_room_for_old(out: Path) -> None:
    """Raise `TakenError` where the name that ``out`` will have for a moment is taken."""
    if os.path.lexists(_old(out)):
        raise TakenError(f"{_old(out)} is in the way of --overwrite, which needs that name. Move it away first.")


def _old(out: Path) -> Path:
    return out.with_name(out.name + ".old")
