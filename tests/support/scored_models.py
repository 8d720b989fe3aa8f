"""Two tiny models for all tests of scores: one that knows half of the answers by heart, one that knows them all; fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import tiny_scored


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds `half`, `all` and `none`."""
    folder = tmp_path_factory.mktemp("scored")
    for name, known in (("half", 6), ("all", 12), ("none", 0)):
        tiny_scored.make_model(folder / name, known)
    return folder


@pytest.fixture
def towns(tmp_path: Path) -> Path:
    """Every fact as a question, in a file of one's own."""
    return tiny_scored.write_rows(tmp_path / "towns.jsonl", tiny_scored.rows())
