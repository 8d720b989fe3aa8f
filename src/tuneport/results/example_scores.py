"""Read a model's scores and answers on the examples of a task from the file beside a record (*.examples.jsonl).

Scores become arrays, so a study of millions of answers fits into memory; answers are read only for the examples that
are needed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuneport.files.json_text import read_json
from tuneport.files.opening import read_lines
from tuneport.results.schema import EXAMPLES
from tuneport.results.torn_json import number_or
from tuneport.statistics import Matrix

_AT_ONCE = 2**16  # characters


@dataclass(frozen=True)
class Answered:
    """One model on one task: a score and a weight for each example, and which examples they are."""

    ids: tuple[str, ...]
    scores: Matrix
    weights: Matrix

    @property
    def value(self) -> float:
        """Σ weight·score / Σ weight."""
        return float(self.scores @ self.weights / self.weights.sum())

    @property
    def right_or_wrong(self) -> bool:
        """Whether exact tests apply."""
        return bool(np.isin(self.scores, (0.0, 1.0)).all() and (self.weights == 1.0).all())


@dataclass(frozen=True)
class Answer:
    """What a model said to one example, whether it counted, what was asked, and what would have been right."""

    said: str
    score: float
    asked: str | None
    answer: str | None


def answered(lines: Iterable[Mapping[str, Any]]) -> dict[str, Answered]:
    """By task. A line that is none of an example is passed over: what it lacks shows as models that are not paired."""
    by_task: dict[str, tuple[list[str], list[float], list[float]]] = {}
    for line in lines:
        try:
            task, id, score, weight = line["task"], str(line["id"]), float(line["score"]), float(line.get("weight", 1))
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if not (math.isfinite(score) and math.isfinite(weight)):
            continue
        ids, scores, weights = by_task.setdefault(str(task), ([], [], []))
        ids.append(id)
        scores.append(score)
        weights.append(weight)
    return {
        task: Answered(tuple(ids), np.array(scores), np.array(weights))
        for task, (ids, scores, weights) in by_task.items()
    }


def read_outcomes(folder: Path) -> dict[str, Answered]:
    """Of a step's folder, by task; empty where the file is missing, and without what cannot be read in it."""
    return answered(_lines(folder))


def read_answers(folder: Path, wanted: Mapping[str, Collection[str]]) -> dict[tuple[str, str], Answer]:
    """The answers to the `wanted` examples (ids, by task) that were said in words."""
    found = {}
    for line in _lines(folder):
        task, id, said = str(line.get("task")), str(line.get("id")), line.get("said")
        if said is None or id not in wanted.get(task, ()):
            continue
        score = number_or(line.get("score"), None)
        if score is not None:
            asked, right = (None if line.get(name) is None else str(line[name]) for name in ("asked", "answer"))
            found[task, id] = Answer(str(said), score, asked, right)
    return found


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    """The objects of a step's file of examples, one a line."""
    file = folder / EXAMPLES
    if file.is_symlink() or folder.is_symlink():
        return  # a page is passed on: what lies elsewhere is not read into it
    with suppress(OSError), closing(read_lines(file, folder)) as lines:
        for some in _bundles(text.decode("utf-8", "replace") for text in lines):
            yield from _flat_objects(some) or _objects(some)


def _bundles(lines: Iterable[str]) -> Iterator[list[str]]:
    """Lines in their order, some at a time."""
    some, size = [], 0
    for line in lines:
        some.append(line)
        size += len(line)
        if size > _AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some


def _flat_objects(lines: list[str]) -> list[dict[str, Any]] | None:
    """The objects of lines that hold one each, and nothing else that is nested; read at once, which is faster."""
    text = f"[{','.join(lines)}]"
    whole = all(line.startswith("{") and line.rstrip().endswith("}") for line in lines)
    if not whole or text.count("{") > len(lines) or text.count("[") > 1:
        return None
    with suppress(ValueError):
        found: list[dict[str, Any]] = json.loads(text)
        return found
    return None


def _objects(lines: list[str]) -> Iterator[dict[str, Any]]:
    for text in lines:
        try:
            line = read_json(text, kept=False)
        except ValueError:
            continue  # the torn end of a file; what is missing shows as examples that are not paired
        if isinstance(line, dict):
            yield line
