"""Check that a finished folder contains the files of its manifest, unchanged, and nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from tuneport.checkpoint.small_files import most_bytes
from tuneport.files.opening import check_file, check_inside, content_digest, opened, read_bytes
from tuneport.files.printable import printable_line
from tuneport.output.model_card import card_digest
from tuneport.output.replacing import CARD


def compare_entries(recorded: Mapping[str, str], others: set[str], out: Path) -> list[str]:
    """Messages for what is wrong with the files of ``out``: ``recorded`` by name with their digests, ``others``
    without.

    tuneport writes plain files, and folders only where a file is in them. Links are reported, except those to the blobs
    of the Hub's cache, which its snapshots have; so are pipes, devices and empty folders.
    """
    faults = []
    for name, digest in recorded.items():
        place, told = out / name, printable_line(name)
        try:
            if ".." in Path(name).parts or Path(name).is_absolute() or not check_file(place):
                faults.append(f"{told} is in the manifest, but not in the folder")
            elif not _is_odd_link(place, out) and _digest(place, out, most_bytes(name)) != digest:
                faults.append(f"{told} was changed")
        except OSError as error:
            faults.append(f"{told} cannot be read: {error.strerror}")
    known = {*recorded, *others}
    folders = {parent.as_posix() for name in known for parent in Path(name).parents}
    for name, path, mode in _entries(out):
        what, told = _kind(path, mode, out), printable_line(name)
        if stat.S_ISDIR(mode):
            if name not in folders:
                faults.append(f"{told}/ is in the folder, but contains nothing from the manifest")
        elif name not in known:
            faults.append(f"{told} is in the folder, but not in the manifest" + (f"; it is {what}" if what else ""))
        elif what is not None:
            faults.append(f"{told} is {what}, which tuneport never writes")
    return faults


def _entries(out: Path) -> Iterator[tuple[str, Path, int]]:
    """Everything below a folder, links not followed: its name there, its place, its mode."""
    for place, folders, files in os.walk(out):
        for entry in sorted((*folders, *files)):
            path = Path(place) / entry
            yield path.relative_to(out).as_posix(), path, path.lstat().st_mode


def _kind(path: Path, mode: int, out: Path) -> str | None:
    if stat.S_ISLNK(mode):
        return "a link" if _is_odd_link(path, out) else None
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "not a plain file"


def _is_odd_link(path: Path, out: Path) -> bool:
    """Whether it is a link that does not lead to a blob of the Hub's cache."""
    if not path.is_symlink():
        return False
    if not path.is_file() or Path(os.path.realpath(path)).is_relative_to(os.path.realpath(out)):
        return True
    try:
        check_inside(path, out)
    except OSError:
        return True
    return False


def _digest(path: Path, out: Path, most: int) -> str:
    if path == out / CARD:
        return card_digest(read_bytes(path, out, most))  # the user's own section is nobody's to check
    with opened(path, out, most) as file:
        return content_digest(file)
