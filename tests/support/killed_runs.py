"""What holds of any run that was killed, stopped or hindered, and how many moments there are to kill it at."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

import tuneport
from support import tiny_checkpoints as tiny
from support.broken_disks import Drive
from support.command_results import Ran

KILLED = -signal.SIGKILL


def assert_told(ran: Ran, *words: str) -> None:
    """Status 1, exactly one error message, no traceback."""
    assert ran.status == 1, ran
    assert ran.err.count("tuneport: ") == 1 and ran.err.startswith("tuneport: "), ran.err
    assert "Traceback" not in ran.err and "Traceback" not in ran.out
    for word in words:
        assert word in ran.err


def assert_nothing_looks_complete(out: Path, whole: dict[str, Any]) -> None:
    """DIR is not there, or is the finished one; DIR.partial is no model to anybody unless every byte is in it."""
    if out.exists():
        assert {**tiny.outcome(out), ".replaces": None} == {**whole, ".replaces": None}
    partial = out.with_name("out.partial")
    if partial.exists():
        if (partial / "tuneport.json").exists() and not (partial / "journal.jsonl").exists():
            assert {**tiny.outcome(partial), ".replaces": None} == {**whole, ".replaces": None}
        elif (partial / "journal.jsonl").exists():
            assert tuneport.inspect(partial)["kind"] == "unfinished output"
            with pytest.raises(Exception, match="unfinished"):
                open_as_model(partial)


def open_as_model(path: Path) -> None:
    from tuneport.checkpoint.open_model import open_checkpoint

    open_checkpoint(path, "base")


def assert_only(folder: Path, *names: str) -> None:
    assert {path.name for path in folder.iterdir()} == set(names)


SHARDS = ("--shard-size", "600", "--workers", "1")


def changes(drive: Drive, argv: list[str], under: Path) -> int:
    """How many calls of an unbroken run change a file below ``under``."""
    counts = under.parent / "counts.json"
    assert drive(argv, under=str(under), counts=str(counts)).status == 0
    return int(json.loads(counts.read_text())["change"])
