"""Turn the measurements of a step into a row of results.json, the same way in a study and in a page.

Each function takes the step's description in its record and what it measured. Raises KeyError, TypeError, ValueError or
AttributeError if the record does not have the form of such a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneport.results.schema import LOSS

Row = dict[str, Any]
_SCORE = ("metric", "value", "stderr", "n", "higher_is_better")
_OF_PATH = ("accuracy", "n", "barrier", "interval", "at", "threshold", "connected")
_OF_COMPARISON = ("measures", "gates", "verdict")
_ROUNDED = ("dtype", "share_lost", "changed", "vanished")


def score_row(found: Mapping[str, Any]) -> Row:
    """One task's score, as an evaluation or a point of a curve has it."""
    return {name: found[name] for name in _SCORE}


def score_rows(measured: Mapping[str, Any], folder: str, loss: bool) -> dict[str, Row]:
    """What an evaluation found, by task; the loss of a task's answers is beside the task itself."""
    return {
        f"{task}{LOSS}" if loss else task: {
            **score_row(found),
            "folder": folder,
            **({"asked_as": task} if loss else {}),
        }
        for task, found in measured["tasks"].items()
    }


def path_row(about: Mapping[str, Any], measured: Mapping[str, Any]) -> Row:
    """Loss along a path."""
    points = {name: list(measured[name]) for name in ("alphas", "loss")}
    return {**about, **points, **{name: measured.get(name) for name in _OF_PATH}}


def distance_row(about: Mapping[str, Any], measured: Mapping[str, Any]) -> Row:
    """Two versions, and their diff vectors."""
    one, other = measured["versions"].values()
    (pair,) = measured["pairs"]
    lengths = {"diff_norm_a": one["diff_norm"], "diff_norm_b": other["diff_norm"]}
    return {**about, "distance": pair["distance"], "cosine": pair["cosine"], **lengths}


def rounding_row(about: Mapping[str, Any], measured: Mapping[str, Any]) -> Row:
    """What keeping a fine-tuned model in another dtype would have lost of its diff vector."""
    return {**about, **{name: measured[name] for name in _ROUNDED}}


def compare_row(about: Mapping[str, Any], measured: Mapping[str, Any]) -> Row:
    """What was foreseen of a transfer."""
    return {**about, **{name: measured[name] for name in _OF_COMPARISON}}


# By kind of step: the list of results.json, and what makes a row of it.
MEASURES = {
    "path": ("paths", path_row),
    "distance": ("distances", distance_row),
    "rounding": ("rounding", rounding_row),
    "compare": ("comparisons", compare_row),
}
