"""Judges the paper's claims by the lab's studies: what their folders hold, as figures for docs/results.md.

    python -m experiments.claims.judge_studies RESULTS_OUT     the studies in RESULTS_OUT/STUDY-family-N → docs/results/claims.json

Families that are not finished are left out, and counted: a claim is judged by those that are there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.claims import paper_claims
from experiments.claims.judging import Claim, Judging, adjusted
from experiments.claims.study_evidence import Family, base, read_families
from tuneport.errors import StudyError

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "results" / "claims.json"
TASKS = ("word-problems", "known-facts", "orders")
FEW_SHOT = ("sums-completed", "stories-completed", "worked-completed", "facts-completed")
LANGUAGES, KNOWN_LANGUAGE = ("malu", "sira", "taku"), "taku"
SIZES = {"lab-olmo2": "small families", "lab-olmo2-large": "larger families"}
# The families of each study, by seed. Budgets were chosen on family 0, which is left out.
FAMILIES: Mapping[str, range] = {
    "lab-olmo2": range(1, 9),
    "lab-olmo2-large": range(1, 3),
    "lab-stages": range(1, 9),
    "lab-multilingual": range(1, 9),
    "lab-llama": range(1, 9),
}


def of_versions(families: Sequence[Family]) -> list[Claim]:
    return paper_claims.claims_of_versions(Judging(families, TASKS, FEW_SHOT))


JUDGES: Mapping[str, Callable[[Sequence[Family]], list[Claim]]] = {
    "lab-olmo2": of_versions,
    "lab-olmo2-large": of_versions,
    "lab-stages": lambda families: [paper_claims.stages_transfer(Judging(families, TASKS))],
    "lab-multilingual": lambda families: [
        paper_claims.languages_transfer(Judging(families, ()), LANGUAGES, KNOWN_LANGUAGE)
    ],
    "lab-llama": lambda families: [paper_claims.backporting_gains_more(Judging(families, TASKS))],
}


def judge(out: Path) -> dict[str, Any]:
    """Every claim that the finished studies in `out` allow, adjusted together."""
    found, judged, matrices = {}, {}, {}
    for study, seeds in FAMILIES.items():
        families, unfinished = [], []
        for seed in seeds:
            try:
                families += _finished(out / f"{study}-family-{seed}")
            except StudyError:
                unfinished.append(seed)
        found[study] = {"families": len(families), "wanted": len(seeds), "unfinished": unfinished}
        if families:
            judged[study] = JUDGES[study](families)
            if study in SIZES:
                matrices[study] = [_matrix(families, task) for task in TASKS]
    together = iter(adjusted([claim for of_study in judged.values() for claim in of_study]))
    return {
        "studies": found,
        "claims": {study: [_record(next(together)) for _ in of_study] for study, of_study in judged.items()},
        "matrices": matrices,
    }


def _finished(folder: Path) -> list[Family]:
    families = read_families([folder])
    for family in families:
        for model in family.models:
            family.scores(model)
    return families


def _record(claim: Claim) -> dict[str, Any]:
    return asdict(claim) | {"findings": [asdict(finding) | {"verdict": finding.verdict} for finding in claim.findings]}


def _matrix(families: Sequence[Family], task: str) -> dict[str, Any]:
    """Mean accuracies over families, as in the paper's Table 3."""
    judging = Judging(families, TASKS)
    rows: dict[str, list[float | None]] = {"base": [], **{f"+ Δ({s})": [] for s in paper_claims.VERSIONS}, "FT": []}

    def mean(model: Any) -> float:
        return float(sum(family.matrix([model], [task]).mean() for family in families) / len(families))

    for target in paper_claims.VERSIONS:
        rows["base"].append(mean(base(target)))
        rows["FT"].append(mean(judging.tuned(target)))
        for source in paper_claims.VERSIONS:
            rows[f"+ Δ({source})"].append(None if source == target else mean(judging.moved(source, target)))
    return {"task": task, "rows": rows}


def write_figures(out: Path) -> None:
    """Judge the studies in `out`, and keep what was found."""
    FIGURES.write_text(json.dumps(judge(out), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    write_figures(Path(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
