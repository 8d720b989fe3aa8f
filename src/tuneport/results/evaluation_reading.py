"""Read the file of `tuneport evaluate`: the scores of several models, and which differences are significant.

All numbers of an `EvaluationResult` are the file's own. A file of another kind is an error with a message.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneport.errors import ReportError
from tuneport.files.json_text import read_json
from tuneport.files.opening import read_text
from tuneport.results.schema import EVALUATION_FORMAT, Score
from tuneport.results.torn_json import Interval, interval, mapping, mappings, number_or, text_or, texts, whole

_MOST_BYTES = 128 * 2**20


@dataclass(frozen=True)
class TaskScore:
    """One model on one task, with the 95 % interval that the file gives."""

    score: Score
    interval: Interval | None


@dataclass(frozen=True)
class Difference:
    """Two models on one task, the later minus the earlier; `better`: 1 where the later is significantly better, −1 where worse."""

    earlier: str
    later: str
    task: str
    value: float
    interval: Interval | None
    p: float | None  # adjusted by Holm's method
    better: int
    n: int


@dataclass(frozen=True)
class Recovered:
    """The recovered gain of one task; `value` is None if the tuned target's own gain may be zero."""

    task: str
    target: str
    transferred: str
    tuned_target: str
    value: float | None
    interval: Interval | None


@dataclass(frozen=True)
class EvaluationResult:
    """A file of scores, as a page or a card needs it."""

    name: str
    models: tuple[str, ...]
    tasks: tuple[str, ...]
    scores: Mapping[tuple[str, str], TaskScore]  # by model and task
    differences: tuple[Difference, ...]
    recovered: tuple[Recovered, ...]
    leakage: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]
    settings: Mapping[str, Any]
    versions: Mapping[str, Any]


def read_results(file: str | os.PathLike[str], remedy: str) -> Any:
    """What is in a JSON file of results, whatever it is. Raises `ReportError`, with the ``remedy``, where it cannot be read."""
    try:
        return read_json(read_text(Path(file).expanduser(), None, _MOST_BYTES), kept=False)
    except OSError as error:
        raise ReportError(f"{file} cannot be read: {error.strerror or error}. {remedy}") from None
    except ValueError as error:
        raise ReportError(f"{file} is not a valid JSON file: {error}. {remedy}") from None


def read_evaluation(file: str | os.PathLike[str]) -> EvaluationResult:
    """The scores in ``file``. Raises `ReportError` if `tuneport evaluate` did not write the file."""
    remedy = "Give a file written by `tuneport evaluate … --out FILE.json`."
    return evaluation_of(read_results(file, remedy), Path(file).expanduser(), remedy)


def evaluation_of(found: Any, place: Path, remedy: str) -> EvaluationResult:
    """The scores in what was parsed of a file at ``place``. Raises `ReportError`, with the ``remedy``, where it holds none."""
    if not isinstance(found, dict) or found.get("format") != EVALUATION_FORMAT:
        raise ReportError(f"{place} is not a file of scores: its `format` is not {EVALUATION_FORMAT}. {remedy}")
    scores: dict[tuple[str, str], TaskScore] = {}
    for model in mappings(found, "models"):
        for task, told in mapping(model, "tasks").items():
            value = number_or(told.get("value"), None) if isinstance(told, dict) else None
            if value is not None:
                higher = told.get("higher_is_better") is not False
                score = Score(
                    metric=text_or(told.get("metric"), "score"),
                    value=value,
                    stderr=number_or(told.get("stderr"), None),
                    n=max(0, whole(told.get("n")) or 0),
                    higher_is_better=higher,
                )
                scores[str(model.get("model")), task] = TaskScore(score, interval(told.get("interval")))
    if not scores:
        raise ReportError(f"{place} contains no scores. {remedy}")
    return EvaluationResult(
        name=place.stem,
        models=tuple(dict.fromkeys(model for model, _ in scores)),
        tasks=tuple(dict.fromkeys(task for _, task in scores)),
        scores=scores,
        differences=tuple(d for row in mappings(found, "comparisons") if (d := _difference(row, scores)) is not None),
        recovered=tuple(map(_recovered, mappings(found, "recovered_gain"))),
        leakage=mappings(found, "leakage"),
        warnings=texts(found.get("warnings")),
        settings=mapping(found, "settings"),
        versions=mapping(found, "versions"),
    )


def _difference(row: Mapping[str, Any], scores: Mapping[tuple[str, str], TaskScore]) -> Difference | None:
    models, value, task = row.get("models"), number_or(row.get("difference"), None), str(row.get("task"))
    if not (isinstance(models, list) and len(models) == 2 and value is not None):
        return None
    earlier, later = map(str, models)
    known = scores.get((later, task))
    rises = 1 if known is None or known.score.higher_is_better else -1
    better = 0 if row.get("significant") is not True else (1 if rises * value > 0 else -1)
    p = number_or(row.get("p_adjusted"), None)
    return Difference(earlier, later, task, value, interval(row.get("interval")), p, better, whole(row.get("n")) or 0)


def _recovered(row: Mapping[str, Any]) -> Recovered:
    task, target, moved, tuned = (str(row.get(name)) for name in ("task", "target", "transferred", "tuned_target"))
    return Recovered(
        task, target, moved, tuned, number_or(row.get("recovered_gain"), None), interval(row.get("interval"))
    )
