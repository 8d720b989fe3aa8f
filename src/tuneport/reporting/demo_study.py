"""Turn a demo's folder into a study of two versions, so that its page is made like any other.

Writes results.json and the outcomes of each example to a temporary folder, which lasts while the page is made. Nothing
is computed here.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuneport.errors import ReportError
from tuneport.files.json_text import read_json
from tuneport.files.opening import read_bytes, read_text
from tuneport.results.schema import (
    ADAPTED,
    BASE,
    DONE,
    EXAMPLES,
    RESULTS,
    RESULTS_FORMAT,
    STEPS,
    THEN_TUNED,
    TRANSFER,
    TUNED,
)
from tuneport.results.torn_json import mapping, mappings

SUMMARY = "summary.json"
_FORMAT = "tuneport-demo-"
_MOST_BYTES = 64 * 2**20
# What each scored model of a demo is: kind, source, target. The controls' diff vectors are no version's.
_MODELS = {
    "v1": (BASE, None, "v1"),
    "v2": (BASE, None, "v2"),
    "v1-tuned": (TUNED, None, "v1"),
    "v2-tuned": (TUNED, None, "v2"),
    "v2-transferred": (TRANSFER, "v1", "v2"),
    "v2-adapted": (ADAPTED, "v1", "v2"),
    "v1-backported": (TRANSFER, "v2", "v1"),
    "v2-shuffled": (TRANSFER, "v1 shuffled", "v2"),
    "v2-foreign": (TRANSFER, "another family", "v2"),
}
_CURVES = {"from_target": (TUNED, None, "v2"), "from_transferred": (THEN_TUNED, "v1", "v2")}
_NOTE = (
    "Two rows are controls that should transfer nothing: the diff vector of v1 with its elements shuffled, and that "
    "of a model of another family."
)


def is_demo(folder: Path) -> bool:
    """Whether `tuneport demo` wrote this folder."""
    try:
        found = read_json(read_text(folder / SUMMARY, folder, _MOST_BYTES), kept=False)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and str(found.get("format")).startswith(_FORMAT)


@contextmanager
def as_study(demo: Path) -> Iterator[Path]:
    """The folder of a study with the demo's results. Raises `ReportError` where its files cannot be read."""
    with tempfile.TemporaryDirectory(prefix="tuneport-report-") as made:
        folder = Path(made)
        try:
            _write(demo, folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            words = getattr(error, "strerror", None) or error
            raise ReportError(f"{demo} is damaged ({type(error).__name__}: {words}). Run the demo again.") from None
        yield folder


def _write(demo: Path, folder: Path) -> None:
    summary = read_json(read_text(demo / SUMMARY, demo, _MOST_BYTES), kept=False)
    rows, steps = [], []
    for name, which in _MODELS.items():
        scores = demo / "scores" / f"{name}.json"
        if not scores.is_file():
            continue
        (model,) = mappings(read_json(read_text(scores, demo, _MOST_BYTES), kept=False), "models")
        told = {task: {**score, "folder": name} for task, score in mapping(model, "tasks").items()}
        rows.append({**_row(which), "scores": told})
        steps.append(
            {"identity": name, "name": f"evaluate {name}", "kind": "evaluate", "outcome": DONE, "folder": name}
        )
        place = folder / STEPS / name
        place.mkdir(parents=True)
        place.joinpath(EXAMPLES).write_bytes(read_bytes(scores.with_suffix(".examples.jsonl"), demo, _MOST_BYTES))
    curves = mapping(summary, "transfer_then_tune")
    for name, which in _CURVES.items():
        for point in mappings(curves, name):
            value = {"metric": "exact_match", "value": point["accuracy"], "n": curves["n"]}
            rows.append({**_row(which), "step": point["step"], "scores": {"instructions": value}})
    study = {"name": "demo", "notes": [_NOTE], "versions": ["v1", "v2", "v1 shuffled", "another family"]}
    document = {"format": RESULTS_FORMAT, "study": study, "results": rows, "steps": steps}
    (folder / RESULTS).write_text(json.dumps(document), encoding="utf-8")


def _row(which: tuple[str, str | None, str]) -> Mapping[str, Any]:
    kind, source, target = which
    tuning = None if kind == BASE else "sft"
    return {
        "kind": kind,
        "source": source,
        "target": target,
        "tuning": tuning,
        "step": None,
        "status": DONE,
        "error": None,
    }
