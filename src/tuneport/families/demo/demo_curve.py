"""Transfer, then fine-tune: accuracy against steps, from version 2 + diff vector and from version 2 (the paper's Figure
2).

Makes a record from the curves of `tuneport tune --eval-every` and the answers before the first step: both curves on the
same questions and schedule, and how many steps the transferred start saves until it is as good as the other at its end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneport import statistics
from tuneport.families.family_scores import exact_matches
from tuneport.families.lesson_questions import INSTRUCTION_TASKS, Question
from tuneport.files.opening import read_text
from tuneport.results.curves import steps_to_match
from tuneport.tuning.curve import CURVE

EACH = 80  # questions of a task: a curve is read on few, the scores at its end on all


def questions_of(asked: Sequence[Question]) -> list[Question]:
    """The questions on which the curves are read: the first of each instruction task."""
    by_task = {task: [question for question in asked if question.task == task] for task in INSTRUCTION_TASKS}
    return [question for of_task in by_task.values() for question in of_task[:EACH]]


def transfer_then_tune(
    asked: Sequence[Question], said: Mapping[str, Sequence[str]], *, from_target: Path, from_transferred: Path
) -> dict[str, Any]:
    """Both curves with intervals; ``steps_to_match`` is None where the transferred start never gets as far and stays there."""
    chosen = questions_of(asked)
    curves = {
        name: [_point(0, *_right_before(chosen, asked, said[start])), *_points(folder)]
        for name, start, folder in (
            ("from_target", "v2", from_target),
            ("from_transferred", "v2-transferred", from_transferred),
        )
    }
    end = curves["from_target"][-1]
    match = steps_to_match([(p["step"], p["accuracy"]) for p in curves["from_transferred"]], end["accuracy"], True)
    return {
        "n": len(chosen),
        **curves,
        "steps": end["step"],
        "to_match": end["accuracy"],
        "steps_to_match": match,
        "steps_fewer": None if match is None else end["step"] - match,
    }


def _right_before(chosen: Sequence[Question], asked: Sequence[Question], said: Sequence[str]) -> tuple[int, int]:
    """How many of the chosen questions are answered rightly before the first step, and how many there are."""
    by_prompt = {question.prompt: answer for question, answer in zip(asked, said, strict=True)}
    right = exact_matches([by_prompt[q.prompt] for q in chosen], [q.answer for q in chosen])
    return sum(right), len(right)


def _points(folder: Path) -> list[dict[str, Any]]:
    found = []
    for line in read_text(folder / CURVE).splitlines():
        told = json.loads(line)
        right = sum(round(task["value"] * task["n"]) for task in told["tasks"].values())
        found.append(_point(told["step"], right, sum(task["n"] for task in told["tasks"].values())))
    return found


def _point(step: int, right: int, n: int) -> dict[str, Any]:
    estimate = statistics.accuracy([True] * right + [False] * (n - right))
    return {"step": step, "accuracy": estimate.value, "interval": list(estimate.interval)}
