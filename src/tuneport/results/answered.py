"""What a model scored on the examples of a task, read back from the file beside a record (*.examples.jsonl), as arrays.

In come the lines, out come scores, weights and ids by task: what studies, their pages and the judging of claims compare.
Scores are kept as numbers only, so that a study of millions of answers fits into memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuneport.statistics import Matrix

LOSS = ", loss"  # ends the name under which the loss of a task's answers stands beside the task itself


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

    def like(self, other: Answered) -> bool:
        """Whether both were asked the very same examples in the same order."""
        return self.ids == other.ids and np.array_equal(self.weights, other.weights)


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
