"""Move a finished folder into place, replacing an earlier output of tuneport, by renames that are safe against a kill.

DIR.partial is marked, DIR becomes DIR.old, DIR.partial becomes DIR, DIR.old is removed, then the mark. The mark names
the replaced folder (device and inode), so a later run knows what is left to do. Only folders with a manifest of
tuneport are ever replaced or removed, whatever a mark says, and only a run that may proceed looks at a mark.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuneport.checkpoint.small_files import LICENCE_PREFIXES, is_sidecar
from tuneport.errors import TakenError, named
from tuneport.files.long_json import read_long_json
from tuneport.files.opening import MOST_RECORD_BYTES, opened, read_bytes
from tuneport.files.printable import listed_names
from tuneport.files.writing import write_new
from tuneport.output.signature import SIGNATURE, SIGNED

REPLACES = ".replaces"
CARD = "README.md"
_MOST_MARK_BYTES = 4096
TUNING = "tune.json"
# What each kind of folder has as its manifest, with the field that says so and how its value begins.
MANIFESTS: dict[str, tuple[tuple[str, ...], str]] = {
    "tuneport.json": (("format",), "tuneport.manifest/"),
    TUNING: (("plan", "format"), "tuneport.tune/"),
}
_SHARDS = re.compile(r"(model|diff|patch|adapter_model)(-\d{5}-of-\d{5})?\.safetensors")
TUNING_FILES = ("tune.json", "adapt.json", "log.jsonl", "curve.jsonl", "tune-hashes.txt", "adapter_config.json")
_WEIGHTS = re.compile(r"(adapter_model|model|diff)(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
# Of a diff vector while it is computed: behind a file's name, its chunks where their numbers would lie; and for each chunk its length
# and 1, 0 until it is written.
HOLES, LENGTHS = ".chunks", "chunks.lengths"
_OF_A_RUN = (REPLACES, LENGTHS, "tuneport.json", "journal.jsonl", "README.md")
# What it has for each tensor: long lists and objects, and an object whose values are nearly all alike.
_PACKED = (("tensors",), ("inputs", "[]", "tensors"))
_ALIKE = (("diff",),)


def is_ours(folder: Path) -> bool:
    """Whether a folder is one that tuneport made: no link to one, and with a manifest of ours in it."""
    return not folder.is_symlink() and any(
        _begins(_object(folder / name), path, start) for name, (path, start) in MANIFESTS.items()
    )


def is_record(file: Path, start: str) -> bool:
    """Whether a file is a record of ours, whose plan's format begins with ``start``: no link to one."""
    return not file.is_symlink() and _begins(_object(file), ("plan", "format"), start)


def move_into_place(out: Path, partial: Path) -> None:
    """Rename ``partial`` to ``out``; an earlier output of tuneport is removed once the new one is in place. Raises
    `TakenError` if other files are there.
    """
    if os.path.lexists(out) and not is_empty_folder(out):
        check_replaceable(out)
        device, inode = _identity(out)
        write_new(partial / REPLACES, json.dumps({"device": device, "inode": inode}).encode())
        out.rename(_old(out))
    partial.rename(out)
    finish_replacing(out)


def finish_replacing(out: Path) -> None:
    """Remove what ``out`` has replaced, if a run was killed before it did so: the very folder that is marked, if it is ours."""
    if _marked(out) is None:
        return
    if _is_replaced(out):
        _remove(_old(out))
    (out / REPLACES).unlink()


def check_replaceable(out: Path) -> None:
    """Raise `TakenError` where --overwrite may not replace ``out``, or the name it will have for a moment is taken."""
    if not is_ours(out):
        raise TakenError(
            f"{out} was not written by tuneport (it has no manifest), so {named('overwrite')} does not replace it. "
            f"Move it away, or give another {named('out')}."
        )
    strays = _strays(out)
    if strays:
        raise TakenError(
            f"{out} contains files that tuneport did not write, so {named('overwrite')} does not replace "
            f"it:{listed_names(strays, 8)}\nMove them away, or give another {named('out')}."
        )
    if os.path.lexists(_old(out)) and not _is_replaced(out):
        raise TakenError(f"{_old(out)} exists, but {named('overwrite')} needs that name. Move it away first.")


def _is_replaced(out: Path) -> bool:
    """Whether DIR.old is the very folder that ``out`` is marked to have replaced, and ours (or what is left of it)."""
    old = _old(out)
    there = old.is_dir() and not old.is_symlink() and _marked(out) == _identity(old)
    return there and (is_ours(old) or is_empty_folder(old))


def _strays(out: Path) -> list[str]:
    """What is below a folder of ours and was not written by us, by its name."""
    listed: set[str] = set()
    for name, (path, start) in MANIFESTS.items():
        found = _object(out / name)
        if _begins(found, path, start):
            files = found.get("files")
            listed |= {name, *(files if isinstance(files, dict) else ()), *([SIGNATURE] if name == SIGNED else ())}
            listed |= set(filter(_is_of_a_tuning, _below(out, ""))) if name == TUNING else set()
    return sorted(
        name for name in _below(out, "") if name not in listed and name != REPLACES and not _SHARDS.fullmatch(name)
    )


def strays_in_partial(partial: Path) -> list[str]:
    """What is in an unfinished folder of a transfer, a diff or an apply, and no such run writes, by its name."""
    return sorted(name for name in _below(partial, "") if not _is_of_an_output(name))


def _is_of_an_output(name: str) -> bool:
    name = name.removesuffix(".new").removesuffix(HOLES)
    for parent in ("", "base/", "tuned/"):  # those of a diff vector keep its parents' small files
        own = name.removeprefix(parent)
        if is_sidecar(own) or own.upper().startswith(LICENCE_PREFIXES):
            return True
    return name in _OF_A_RUN or _SHARDS.fullmatch(name.removesuffix(".index.json")) is not None


def _is_of_a_tuning(name: str) -> bool:

    kept = weights_or_sidecar(name) or name == CARD or name.upper().startswith(LICENCE_PREFIXES)
    return kept or name.startswith("tensorboard/")


def read_record(file: Path, inside: Path | None = None) -> Any:
    """What a manifest holds, whatever wrote it; what it has for each tensor is kept packed. Raises `OSError` and ValueError."""
    with opened(file, inside, MOST_RECORD_BYTES) as content:
        return read_long_json(content, _PACKED, _ALIKE)


def _object(file: Path) -> Any:
    """What a JSON file holds; None where it cannot be read."""
    try:
        return read_record(file)
    except (OSError, ValueError):
        return None


def _begins(value: Any, path: tuple[str, ...], start: str) -> bool:
    """Whether a JSON value has, at ``path``, a text that begins with ``start``."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return isinstance(value, str) and value.startswith(start)


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _marked(folder: Path) -> tuple[int, int] | None:
    """What the mark in a folder says is replaced; None where there is no mark that can be read."""
    try:
        found = json.loads(read_bytes(folder / REPLACES, inside=folder, most=_MOST_MARK_BYTES))
        return int(found["device"]), int(found["inode"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


def _remove(folder: Path) -> None:
    """Remove a folder, its manifest last: by it the rest is known as ours if a kill comes in between."""
    for entry in os.scandir(folder):
        if entry.name in MANIFESTS:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            Path(entry.path).unlink()
    shutil.rmtree(folder)


def _below(folder: Path, prefix: str) -> Iterator[str]:
    """Names of all that is below a folder and no folder, relative to it; links are not followed."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path), f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}"


def is_empty_folder(path: Path) -> bool:
    """Whether there is a folder, and nothing in it."""
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _old(out: Path) -> Path:
    return out.with_name(out.name + ".old")


def weights_or_sidecar(name: str) -> bool:
    """Whether a fine-tuning's folder holds a file of this name; the caller handles licences and cards."""
    if name in TUNING_FILES or _WEIGHTS.fullmatch(name) is not None:
        return True
    return is_sidecar(name) and not name.endswith(".py") and not name.upper().startswith(LICENCE_PREFIXES)
