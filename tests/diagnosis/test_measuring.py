"""What is asked along a line is of one kind, and enough for two halves."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

from support import tiny_scored

import tuneport
from tuneport.errors import DataError, UsageError


def test_data_that_gives_no_one_curve_is_refused(ends: Path, tmp_path: Path) -> None:
    a, b = ends / "half", ends / "all"
    with pytest.raises(DataError, match="mixes texts and questions"):
        tuneport.path(a, b, [ends / "towns.jsonl", ends / "texts.jsonl"])
    few = tiny_scored.write_rows(tmp_path / "few.jsonl", tiny_scored.rows()[:3])
    with pytest.raises(DataError, match="3 examples; a barrier needs at least 4"):
        tuneport.path(a, b, [few])
    choices = [{"prompt": "where ?", "choices": ["in rome", "in oslo"], "answer": 0}]
    with pytest.raises(DataError, match="choices"):
        tuneport.path(a, b, [tiny_scored.write_rows(tmp_path / "choices.jsonl", choices)])
    with pytest.raises(UsageError, match="data is missing"):
        tuneport.path(a, b, [])
