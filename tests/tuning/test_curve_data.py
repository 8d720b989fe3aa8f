"""What a curve is read on: one's own examples by their digests, the harness's tasks by their names."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_tuning import write_rows

from tuneport.errors import DataError
from tuneport.examples.digests import answered_digest, example_digest
from tuneport.tuning.curve_data import read_selection

ROWS = [
    {"task": "sums", "prompt": "1 + 1 =", "answer": "2"},
    {"task": "sums", "prompt": "2 + 2 =", "answer": "4"},
    {"task": "chat", "messages": [{"role": "user", "content": "Who is Carla?"}], "answer": "a miner"},
]


def test_files_and_names_are_told_apart_and_noted(tmp_path: Path) -> None:
    selection = read_selection([str(write_rows(tmp_path / "mine.jsonl", ROWS)), "gsm8k"])
    assert selection.record() == [
        {"task": "sums", "data": "mine.jsonl", "examples": 2},
        {"task": "chat", "data": "mine.jsonl", "examples": 1},
        {"task": "gsm8k", "data": None, "examples": None},
    ]
    assert {example_digest("1 + 1 ="), answered_digest("who is carla?", "a miner")} <= selection.digests()
    assert read_selection(()).digests() == frozenset() and read_selection(()).record() == []


def test_examples_that_are_trained_on_are_counted_by_task(tmp_path: Path) -> None:
    selection = read_selection([str(write_rows(tmp_path / "mine.jsonl", ROWS))])
    assert selection.warnings({example_digest("3 + 3 =")}) == []
    (told,) = selection.warnings({example_digest(" 2 + 2 = ")})
    assert "1 of 2 examples of sums (mine.jsonl)" in told and "(2)" in told
    (told,) = selection.warnings({answered_digest("Who is Carla?", "a miner")})
    assert "1 of 1 examples of chat" in told


def test_a_file_with_faults_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mine\.jsonl has the column `prompt`; an example needs `prompt` and `answer`"):
        read_selection([str(write_rows(tmp_path / "mine.jsonl", [{"prompt": "1 + 1 ="}]))])
