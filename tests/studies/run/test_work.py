"""One step in a process: whatever goes wrong in it is told, even where nothing can be written any more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tuneport.errors import OutputError, PairingError
from tuneport.studies.graph.graph import Step
from tuneport.studies.run.folder_store import FolderStore
from tuneport.studies.run.work import Job, do

CHOICES = {role: {"given": role, "digest": None} for role in ("base", "tuned", "target")}
STEP = Step("transfer", "one", {**CHOICES, "scale": 1.0, "dtype": None})


def fails(*_: Any) -> dict[str, Any]:
    raise PairingError("the shapes differ")


def test_a_steps_own_error_is_told_even_where_its_record_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OutputError("Cannot write record.json: no space left.")

    store = FolderStore(tmp_path)
    monkeypatch.setattr(FolderStore, "write", full)
    record = do(Job(STEP, store, perform=fails))
    assert record.outcome == "failed"
    assert record.error == (
        "the shapes differ\nIts record could not be written either: Cannot write record.json: no space left."
    )


def test_what_cannot_be_written_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr(FolderStore, "deliver", full)
    monkeypatch.setattr(FolderStore, "write", full)
    record = do(Job(STEP, FolderStore(tmp_path), perform=lambda *_: {}))
    assert record.error == "the disk is full"
