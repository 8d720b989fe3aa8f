"""Make the record of a path from its measurements, with a line for every example at every point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuneport import statistics
from tuneport.diagnosis.bend import barrier, rises, token_mean
from tuneport.diagnosis.measuring import Data, Point
from tuneport.errors import recorded
from tuneport.pairing.common_tensors import Shared
from tuneport.results.schema import PATH_FORMAT
from tuneport.scoring.keeping import examples_file


@dataclass(frozen=True)
class Measured:
    """A whole line: its points by α, in order, and which of the examples locate the peak; the others measure it."""

    points: Mapping[float, Point]
    examples: Data
    locating: NDArray[np.bool_]


def record_of(
    measured: Measured, shared: Shared, warnings: Sequence[str], plan: Mapping[str, Any], out: Path | None
) -> dict[str, Any]:
    """What `--out` holds, apart from the plan (see docs/formats.md)."""
    found, examples, locating = measured.points, measured.examples, measured.locating
    seed, threshold = plan["settings"]["seed"], plan["settings"]["threshold"]
    tokens = found[0.0].tokens
    assert all((point.tokens == tokens).all() for point in found.values()), "one tokenizer, the same tokens"
    losses = {alpha: point.losses for alpha, point in found.items()}
    drawn = statistics.weighted_means(np.array(list(losses.values())), tokens, seed=seed)
    curve = {alpha: token_mean(of_point, tokens) for alpha, of_point in losses.items()}
    high = barrier(losses, tokens, locating, seed)
    record: dict[str, Any] = {
        "format": PATH_FORMAT,
        "a": plan["a"]["name"],
        "b": plan["b"]["name"],
        "data": "answers" if examples.losses[0].examples[0].question else "texts",
        "n": len(tokens),
        "tokens": int(tokens.sum()),
        "alphas": list(curve),
        "loss": list(curve.values()),
        "loss_interval": [list(statistics.central(column)) for column in drawn.T],
        "rise": [rises(curve).get(alpha) for alpha in curve],
        "accuracy": None,
        "accuracy_interval": None,
        "barrier": None if high is None else high.value,
        "interval": None if high is None else list(high.interval),
        "at": None if high is None else high.at,
        "threshold": threshold,
        "connected": None if high is None else high.connected(threshold),
        "halves": {
            name: _half(losses, tokens, part) for name, part in (("locating", locating), ("measuring", ~locating))
        },
        "tasks": _by_task(found, examples),
    }
    if examples.answers:
        right = [statistics.accuracy(point.right) for point in found.values()]
        record["accuracy"] = [estimate.value for estimate in right]
        record["accuracy_interval"] = [list(estimate.interval) for estimate in right]
    return {
        **record,
        "rows": None
        if shared.tokens is None
        else {"matched": shared.tokens[0], "only_a": shared.tokens[1][0], "only_b": shared.tokens[1][1]},
        "warnings": recorded(dict.fromkeys(warnings)),
        "settings": plan["settings"],
        "versions": plan["versions"],
        "examples": None if out is None else examples_file(out).name,
    }


def _half(losses: Mapping[float, NDArray[Any]], tokens: NDArray[Any], part: NDArray[np.bool_]) -> dict[str, Any]:
    means = [token_mean(of_point[part], tokens[part]) for of_point in losses.values()]
    return {"n": int(part.sum()), "tokens": int(tokens[part].sum()), "loss": means}


def _by_task(found: Mapping[float, Point], examples: Data) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for number, task in enumerate(examples.losses):
        results = [point.results[number] for point in found.values()]
        curve = [token_mean(np.array(result.scores), np.array(result.weights)) for result in results]
        told[task.name] = {"n": len(task.examples), "loss": curve}
    for number, task in enumerate(examples.answers, start=len(examples.losses)):
        results = [point.results[number] for point in found.values()]
        told[task.name]["accuracy"] = [sum(result.scores) / len(result.scores) for result in results]
    return told


def lines_of(measured: Measured) -> Iterator[dict[str, Any]]:
    """Every example at every point."""
    examples, locating = measured.examples, measured.locating
    for alpha, point in measured.points.items():
        place = 0
        for number, task in enumerate(examples.losses):
            said = point.results[point.count + number].outcomes if examples.answers else None
            for at, outcome in enumerate(point.results[number].outcomes):
                line: dict[str, Any] = {
                    "alpha": alpha,
                    "task": task.name,
                    "id": outcome.id,
                    "loss": outcome.score,
                    "tokens": int(outcome.weight),
                    "half": "locating" if locating[place] else "measuring",
                }
                if said is not None:
                    line |= {"right": said[at].score == 1.0, "said": said[at].said, "answer": said[at].answer}
                yield line
                place += 1
