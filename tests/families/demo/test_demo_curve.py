"""Transfer, then fine-tune: curves from what `tune` wrote, and how many steps fewer the transferred start takes."""

import json
from pathlib import Path
from typing import Any

import pytest

from tuneport.families import lesson_questions
from tuneport.families.demo import demo_curve
from tuneport.families.lesson_questions import Question
from tuneport.tuning.curve import CURVE

ASKED = [
    Question(task, f"{task} {index}", "yes") for task in lesson_questions.INSTRUCTION_TASKS for index in range(100)
]
N = 3 * demo_curve.EACH


def written(folder: Path, **right_after: int) -> Path:
    """A fine-tuned model's folder with its curve: how many of `N` questions are right after so many steps."""
    folder.mkdir()
    lines = [
        {"step": int(step[1:]), "tasks": {"all": {"value": right / N, "n": N}}} for step, right in right_after.items()
    ]
    (folder / CURVE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def said(right: int) -> list[str]:
    """Answers of which the first `right` questions of every task are right."""
    return ["yes" if index % 100 < right else "no" for index in range(len(ASKED))]


def compared(tmp_path: Path, transferred: dict[str, int]) -> dict[str, Any]:
    target = written(tmp_path / "target", _50=100, _100=180)
    further = written(tmp_path / "further", **transferred)
    return demo_curve.transfer_then_tune(
        ASKED, {"v2": said(0), "v2-transferred": said(40)}, from_target=target, from_transferred=further
    )


def test_a_curve_is_read_on_the_first_questions_of_each_task() -> None:
    chosen = demo_curve.questions_of(ASKED)
    assert len(chosen) == N
    assert [question.prompt for question in chosen[:2]] == ["word-problems 0", "word-problems 1"]


def test_the_steps_to_match_are_those_of_the_first_point_that_is_as_good(tmp_path: Path) -> None:
    record = compared(tmp_path, {"_50": 180, "_100": 230})
    assert record["to_match"] == pytest.approx(180 / N)
    assert (record["steps_to_match"], record["steps_fewer"]) == (50, 50)
    before = record["from_transferred"][0]
    assert (before["step"], before["accuracy"]) == (0, pytest.approx(0.5))
    assert before["interval"][0] < 0.5 < before["interval"][1]


def test_a_start_that_never_gets_as_far_is_told_as_such(tmp_path: Path) -> None:
    record = compared(tmp_path, {"_50": 100, "_100": 179})
    assert record["steps_to_match"] is None and record["steps_fewer"] is None
