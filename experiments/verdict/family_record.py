"""One small record of a finished family of studies/lab-verdict.toml: what was foreseen of each pair, and what came.

    python -m experiments.verdict.family_record DIR …     each DIR is a folder of `tuneport study`, of one family

Nothing is computed here but rounding; docs/results/verdict/family-N.json (family-large-N.json) is what predictors are fitted on and judged by.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.pages.markdown_cells import figures_in
from tuneport.errors import StudyError
from tuneport.results.schema import DONE, STEPS
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
            "measures": {**_figures(row["measures"]), "inner": _inner(written["layers"])},
            "gates": {gate["name"]: [gate["status"], short(gate["value"])] for gate in row["gates"]},
        }
        for row, written in zip(reading.comparisons, _written(reading), strict=True)
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
    """Write the record of the family in a study's folder; what prompts said of its pairs (`probe_pairs`) is kept."""
    record = record_of(read_study(folder))
    place = place_of(record["lab"], record["family"])
    place.parent.mkdir(parents=True, exist_ok=True)
    before = figures_in(place)["pairs"] if place.exists() else []
    said = {_pair(pair): {"probe": pair["probe"]} for pair in before if "probe" in pair}
    pairs = [{**pair, **said.get(_pair(pair), {})} for pair in record["pairs"]]
    place.write_text(text_of({**record, "pairs": pairs}), encoding="utf-8")


def _pair(pair: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(pair[name] for name in ("source", "target", "tuning"))


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


def _written(reading: Reading) -> list[Mapping[str, Any]]:
    """What `compare` wrote in each step, in the order of the study."""
    places = [reading.root / STEPS / str(step.folder) for step in reading.steps if step.kind == "compare"]
    return [figures_in(place / "compare.json") for place in places]


def _inner(layers: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The figures of the layers' matrices that predictors read, from the squares of their norms."""
    rows = [row for row in layers if row["layer"] is not None and "norm" not in row["kind"]]
    base, diff, shift = (math.fsum(row[name] ** 2 for row in rows) for name in ("norm_base", "norm_diff", "norm_shift"))
    along = math.fsum((row["cosine_diff_shift"] or 0.0) * row["norm_diff"] * row["norm_shift"] for row in rows)
    return {
        "relative_shift": short(math.sqrt(shift / base)),
        "relative_diff": short(math.sqrt(diff / base)),
        "diff_over_shift": short(math.sqrt(diff / shift)),
        "cosine_diff_shift": short(along / math.sqrt(diff * shift)),
    }


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
