"""A scratch folder of each test's own, since studies behind URLs and their workers use TMPDIR."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a machine keeps what it works on."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))  # other processes are to see it too
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder
