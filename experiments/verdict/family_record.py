"""One small record of a finished family of studies/lab-verdict.toml: what was foreseen of each pair, and what came.

    python -m experiments.verdict.family_record DIR …     each DIR is a folder of `tuneport study`, of one family

Nothing is computed here but rounding; docs/results/verdict/family-N.json (family-large-N.json) is what predictors are fitted on and judged by.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneport.errors import StudyError
from tuneport.results.schema import DONE
from tuneport.results.study_reading import Reading, read_study

RECORDS = Path(__file__).resolve().parents[2] / "docs" / "results" / "verdict"
FORMAT = "tuneport.verdict-family/1"


def record_of(reading: Reading) -> dict[str, Any]:
    """The record of a study's only family. Raises `StudyError` where something is missing."""
    if len(reading.families) != 1:
        raise StudyError(f"{reading.root} holds {len(reading.families)} families; give a folder of one.")
    undone = [step.name for step in reading.steps if step.outcome not in ("done", "dropped")]
    if undone:
        raise StudyError(f"{reading.root}: {len(undone)} steps are not done, the first is {undone[0]!r}. Run it again.")
    scores = [
        {
            **{name: getattr(run.model, name) for name in ("kind", "source", "target", "tuning")},
            "tasks": {task: [short(score.value), score.n] for task, score in run.scores.items()},
        }
        for run in reading.at_end
        if run.status == DONE
    ]
    pairs = [
        {
            **{name: row[name] for name in ("source", "target", "tuning")},
            "measures": _figures(row["measures"]),
            "gates": {gate["name"]: [gate["status"], short(gate["value"])] for gate in row["gates"]},
        }
        for row in reading.comparisons
    ]
    return {
        "format": FORMAT,
        "family": reading.families[0],
        "lab": _size(reading),
        "seconds": round(sum(step.seconds or 0 for step in reading.steps)),
        "steps": len(reading.steps),
        "scores": scores,
        "pairs": pairs,
    }


def place_of(lab: str, family: int | None) -> Path:
    """Where the record of a family is committed."""
    return RECORDS / (f"family-{family}.json" if lab == "small" else f"family-{lab}-{family}.json")


def write_record(folder: str | Path) -> None:
    """Write the record of the family in a study's folder."""
    record = record_of(read_study(folder))
    RECORDS.mkdir(parents=True, exist_ok=True)
    place_of(record["lab"], record["family"]).write_text(text_of(record), encoding="utf-8")


def text_of(record: Mapping[str, Any]) -> str:
    """A record as its file has it: a line for each score and pair."""
    return json.dumps(record, ensure_ascii=False).replace('}, {"', '},\n{"') + "\n"


def _size(reading: Reading) -> str:
    (made,) = [step.record for step in reading.steps if step.kind == "family"]
    return str((made or {})["choices"]["size"])


def _figures(measures: Mapping[str, Any]) -> dict[str, Any]:
    """All figures of all tensors, and of the matrices alone."""
    whole = {name: short(value) for name, value in measures.items() if not isinstance(value, Mapping)}
    return {**whole, "matrices": {name: short(value) for name, value in measures["matrices"].items()}}


def short(value: float | None) -> float | None:
    """Five digits of a number."""
    return value if value is None or isinstance(value, int) else float(f"{value:.5g}")


def main(arguments: Sequence[str]) -> int:
    """Write a record for each folder."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    for folder in arguments:
        write_record(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
