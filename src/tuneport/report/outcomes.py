"""What each model did on each example: the scores that `evaluate` left beside its record, as arrays, and its answers.

In comes a step's folder, out come one array a task, and on demand the answers to some examples. Scores are kept as
numbers only, so that a study of millions of answers fits into memory.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

EXAMPLES = "scores.examples.jsonl"


@dataclass(frozen=True)
class Outcomes:
    """One model on one task: a score and a weight for each example, and which examples they are."""

    ids: tuple[str, ...]
    scores: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]

    @property
    def right_or_wrong(self) -> bool:
        """Whether exact tests apply."""
        return bool(np.isin(self.scores, (0.0, 1.0)).all() and (self.weights == 1.0).all())


def read_outcomes(folder: Path) -> dict[str, Outcomes]:
    """By task; empty where the file is missing, and without what cannot be read in it."""
    by_task: dict[str, tuple[list[str], list[float], list[float]]] = {}
    for line in _lines(folder):
        try:
            task, id, score, weight = line["task"], str(line["id"]), float(line["score"]), float(line.get("weight", 1))
        except (KeyError, TypeError, ValueError):
            continue
        ids, scores, weights = by_task.setdefault(str(task), ([], [], []))
        ids.append(id)
        scores.append(score)
        weights.append(weight)
    return {
        task: Outcomes(tuple(ids), np.array(scores), np.array(weights))
        for task, (ids, scores, weights) in by_task.items()
    }


@dataclass(frozen=True)
class Answer:
    """What a model said to one example, whether it counted, and what would have been right."""

    said: str
    score: float
    answer: str | None


def read_answers(folder: Path, wanted: Mapping[str, Collection[str]]) -> dict[tuple[str, str], Answer]:
    """The answers to the `wanted` examples (ids, by task) that were said in words."""
    found = {}
    for line in _lines(folder):
        task, id, said = str(line.get("task")), str(line.get("id")), line.get("said")
        if said is None or id not in wanted.get(task, ()):
            continue
        right = line.get("answer")
        score = line.get("score")
        if isinstance(score, int | float):
            found[task, id] = Answer(str(said), float(score), None if right is None else str(right))
    return found


def read_questions(file: Path, wanted: Mapping[str, Collection[str]]) -> dict[tuple[str, str], str]:
    """What was asked, by task and id, from a file of examples in the form that `tuneport evaluate` reads."""
    found = {}
    for number, line in _read(file):
        task, id = str(line.get("task", file.stem)), str(line.get("id", number))
        if id not in wanted.get(task, ()):
            continue
        messages = line.get("messages")
        if isinstance(messages, list):
            said = [f"{m.get('role')}: {m.get('content')}" for m in messages if isinstance(m, dict)]
            found[task, id] = said[0].removeprefix("user: ") if len(said) == 1 else "\n".join(said)
        elif isinstance(line.get("prompt"), str):
            found[task, id] = line["prompt"]
    return found


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    return (line for _, line in _read(folder / EXAMPLES))


def _read(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file, one a line, with the numbers of their lines."""
    if file.is_symlink() or file.parent.is_symlink():
        return  # a page is passed on: what lies elsewhere is not read into it
    try:
        opened = file.open(encoding="utf-8", errors="replace")
    except OSError:
        return
    with opened:
        for number, text in enumerate(opened, 1):
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue  # the torn end of a file; what is missing shows as examples that are not paired
            if isinstance(line, dict):
                yield number, line
