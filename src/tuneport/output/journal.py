"""The journal of a run: one JSON record per line, so that a killed run can resume.

The first record is the plan, written in full or not at all. Then come records of runs (who holds the folder), of leaves
(4 MiB of a tensor that are on disk, with their digest), and of a run that ended with an error of its own. If a kill cut
the last line short, it is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from blake3 import blake3

from tuneport.checkpoint.small_files import JOURNAL
from tuneport.errors import TakenError, in_short
from tuneport.files.holding import this_process
from tuneport.files.json_text import read_json
from tuneport.files.opening import opened
from tuneport.files.writing import open_own, write_whole

# A leaf takes about 250 bytes: that many stand for 16 TiB of output. The longest line is the plan.
MOST_BYTES = 2**30
_MOST_LINE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)  # one for each 4 MiB
class LeafRecord:
    """One finished leaf: the digest of its bytes, the sums of its piece, and its count of NaN and infinity."""

    digest: bytes
    sums: tuple[float, ...]
    nonfinite: int = 0


class Journal:
    """Appends to the journal of a folder; safe to use from several threads."""

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        """Open the folder's journal, or start one with ``plan``. Raises `TakenError` if it was started with another."""
        self.path = folder / JOURNAL
        self._lock = Lock()
        self._before = 0  # where the lines of earlier runs end
        if not os.path.lexists(self.path):
            write_whole(self.path, json.dumps({"plan": plan}) + "\n")
        else:
            begun, *_, self._before = _looked_over(folder, _leaf_of)
            _stop_if_different(folder, begun, plan)
            if self._before < self.path.stat().st_size:
                os.truncate(self.path, self._before)
        self._descriptor = open_own(self.path, os.O_WRONLY | os.O_APPEND)
        self._append({"run": this_process()})

    def recorded(self) -> Iterator[tuple[str, int, LeafRecord]]:
        """The leaves that earlier runs journalled, read line by line: tensor, leaf and record. Of two of one leaf the last counts."""
        for end, line in _lines(self.path.parent):
            if end > self._before:
                return
            leaf = _leaf_of(read_json(line))
            if leaf is not None:
                yield leaf

    def add(self, tensor: str, leaf: int, record: LeafRecord) -> None:
        """Note that a leaf's bytes are written."""
        sums = [value.hex() for value in record.sums]
        entry = {
            "tensor": tensor,
            "leaf": leaf,
            "digest": record.digest.hex(),
            "sums": sums,
            "nonfinite": record.nonfinite,
        }
        self._append({**entry, "check": _check(entry)})

    def add_refusal(self, reason: str) -> None:
        """Record that the run ends with an error of its own: its leaves do not prevent another plan."""
        self._append({"refused": reason})

    def _append(self, record: Mapping[str, Any]) -> None:
        line = (json.dumps(record) + "\n").encode()
        with self._lock:
            written = os.write(self._descriptor, line)
            if written < len(line):
                raise OSError(28, os.strerror(28), str(self.path))

    def close(self) -> None:
        """Close the file; the journal stays."""
        os.close(self._descriptor)


def _check(entry: Mapping[str, Any]) -> str:
    """A digest of a leaf's record: its sums cannot be counted again from the bytes alone, so damage of the line must show."""
    named = [entry[name] for name in ("tensor", "leaf", "digest", "sums", "nonfinite")]
    return blake3(json.dumps(named).encode()).hexdigest()[:32]


def _leaf_of(record: Mapping[str, Any]) -> tuple[str, int, LeafRecord] | None:
    """The leaf of a line; None if it names none or was damaged: that leaf is computed again."""
    if "leaf" not in record:
        return None
    sums = tuple(float.fromhex(value) for value in record["sums"])
    leaf = LeafRecord(bytes.fromhex(record["digest"]), sums, int(record["nonfinite"]))
    if not isinstance(record["tensor"], str):
        raise TypeError("the name of a tensor must be a string")
    if record.get("check") != _check(record):
        return None
    return record["tensor"], int(record["leaf"]), leaf


def can_be_discarded(folder: Path, plan: Mapping[str, Any]) -> bool:
    """Whether the folder was started with another plan than ``plan`` and has no work to keep. Finished leaves are kept,
    unless the run that last wrote or used them ended with an error of its own. Raises `TakenError` if another plan has
    leaves to keep there, or the journal cannot be read.
    """
    begun, leaves, refused, _ = _looked_over(folder)
    if leaves and not refused:
        _stop_if_different(folder, begun, plan)
    return bool(differing_fields(begun, plan))


def holds_leaves(folder: Path) -> bool:
    """Whether the folder's journal names a leaf. Raises `TakenError` where it cannot be read."""
    return _looked_over(folder)[1]


def _looked_over(
    folder: Path, check: Callable[[Mapping[str, Any]], object] = lambda record: None
) -> tuple[Any, bool, bool, int]:
    """The plan of a folder's journal, whether leaves were finished, whether its last run ended by a refusal, and where it ends."""
    begun: Any = None
    leaves = refused = False
    end = 0
    try:
        for after, line in _lines(folder):
            record, end = read_json(line), after
            check(record)
            begun = record["plan"] if begun is None else begun
            leaves = leaves or "leaf" in record
            refused = "refused" in record or (refused and "run" not in record)
        if begun is None:
            raise ValueError("it is empty")
    except (OSError, ValueError, OverflowError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from None
    return begun, leaves, refused, end


def _lines(folder: Path) -> Iterator[tuple[int, bytes]]:
    """Each whole line of a folder's journal, and where it ends; a last one that a kill cut short is left out."""
    end = 0
    with opened(folder / JOURNAL, folder, MOST_BYTES) as lines:
        for line in iter(partial(lines.readline, _MOST_LINE_BYTES), b""):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            yield end, line


def _damaged(folder: Path, error: Exception) -> TakenError:
    return TakenError(
        f"{folder / JOURNAL} is damaged ({error}). Remove {folder.name} and run again to start from the beginning."
    )


def only_times_differ(one: Any, other: Any) -> bool:
    """Whether two plans that differ are the same but for the times of their inputs."""
    return not differing_fields(_without_times(one), _without_times(other))


# What to say then: ctime_ns cannot be put back, so "give the same inputs" would be no advice.
ONLY_TIMES = (
    "Only the times of input files differ: they were rewritten, copied or moved, or their permissions or links "
    "changed (which changes only ctime_ns). Their weights may have changed, so finished work is not reused."
)


def differences_in_words(one: Any, other: Any) -> str:
    """In what two plans differ; the times of files only where nothing else does."""
    others = differing_fields(_without_times(one), _without_times(other))
    if not others:
        return f"{'; '.join(differing_fields(one, other)[:5])}. {ONLY_TIMES}"
    more = [f"{len(others) - 5} more"] if len(others) > 5 else []
    return "; ".join([*others[:5], *more])


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_times(each) for name, each in value.items() if name not in ("mtime_ns", "ctime_ns")}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


def _stop_if_different(folder: Path, begun: Any, plan: Mapping[str, Any]) -> None:
    different = differing_fields(begun, plan)
    if not different:
        return
    advice = f"Use the same inputs and options to resume, or remove {folder.name} to start from the beginning."
    if only_times_differ(begun, plan):
        advice = f"{ONLY_TIMES} Remove {folder.name} and run again to start from the beginning."
    raise TakenError(f"{folder} was started with a different plan; differences: {'; '.join(different)}.\n{advice}")


def holder(folder: Path) -> str:
    """Who began the run that last wrote to the folder's journal, for a message."""
    last = b""
    try:
        for _, line in _lines(folder):
            last = line if line.startswith(b'{"run"') else last
        return str(read_json(last)["run"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"


def differing_fields(one: Any, other: Any, path: str = "") -> list[str]:
    """Names of the fields in which two JSON values differ (tuples are lists), with both values where they are short."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        found = []
        for key in sorted(set(one) | set(other)):
            found += differing_fields(one.get(key), other.get(key), f"{path}.{key}" if path else str(key))
        return found
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [
            line
            for i, pair in enumerate(zip(one, other, strict=True))
            for line in differing_fields(*pair, f"{path}[{i}]")
        ]
    if one == other:
        return []
    return [f"{path} (then {in_short(one, 60)}, now {in_short(other, 60)})"]
