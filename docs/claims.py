"""The paper's claims beside what the lab's studies found: figures from their folders, and the section of docs/results.md.

    python docs/claims.py RESULTS_OUT     judge the studies in RESULTS_OUT/STUDY-family-N, write docs/results/claims.json

Families that are not finished are left out, and counted: a claim is judged by those that are there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tuneport.errors import StudyError
from tuneport.families import claims
from tuneport.families.judging import Claim, Judging, adjusted
from tuneport.families.study_evidence import Family, base, read_families
from tuneport.reporting.tables.wording import minus

FIGURES = Path(__file__).resolve().parent / "results" / "claims.json"
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
    return claims.claims_of_versions(Judging(families, TASKS, FEW_SHOT))


JUDGES: Mapping[str, Callable[[Sequence[Family]], list[Claim]]] = {
    "lab-olmo2": of_versions,
    "lab-olmo2-large": of_versions,
    "lab-stages": lambda families: [claims.stages_transfer(Judging(families, TASKS))],
    "lab-multilingual": lambda families: [claims.languages_transfer(Judging(families, ()), LANGUAGES, KNOWN_LANGUAGE)],
    "lab-llama": lambda families: [claims.backporting_gains_more(Judging(families, TASKS))],
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
        for model in family.rows:
            family.scores(model)
    return families


def _record(claim: Claim) -> dict[str, Any]:
    return asdict(claim) | {"findings": [asdict(finding) | {"verdict": finding.verdict} for finding in claim.findings]}


def _matrix(families: Sequence[Family], task: str) -> dict[str, Any]:
    """Mean accuracies over families, as in the paper's Table 3."""
    judging = Judging(families, TASKS)
    rows: dict[str, list[float | None]] = {"base": [], **{f"+ Δ({s})": [] for s in claims.VERSIONS}, "FT": []}

    def mean(model: Any) -> float:
        return float(sum(family.matrix([model], [task]).mean() for family in families) / len(families))

    for target in claims.VERSIONS:
        rows["base"].append(mean(base(target)))
        rows["FT"].append(mean(judging.tuned(target)))
        for source in claims.VERSIONS:
            rows[f"+ Δ({source})"].append(None if source == target else mean(judging.moved(source, target)))
    return {"task": task, "rows": rows}


def render(record: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    parts = [
        "## The paper's claims, over families of the lab\n\nTo repeat: `make results` (studies/lab-*.toml, each family a run of "
        "`tuneport study … --family N`). Each claim stands as the paper makes it, with what families of tiny models say to it. A "
        "family is one pretraining run; intervals are 95 %, from a crossed bootstrap over families and examples; p values are "
        "adjusted by Holm's method for all tests of this section together. *Holds*: clear on the claimed side. *Does not hold*: "
        "clear on the other. *Not shown*: neither. No harm means: at most 3 points lost, by the interval. Budgets were chosen on "
        "family 0 with an eye on its test scores (four variants of the pretraining, six of the fine-tuning), so it is left out; the "
        "families that are judged here had no part in any choice.",
        _families(record),
    ]
    for study, found in record["claims"].items():
        size = f", {SIZES[study]}" if study in SIZES else ""
        parts.append(f"### {study}.toml{size} ({_count(record['studies'][study]['families'])})")
        parts += [_claim(claim) for claim in found]
        parts += [_table_of(matrix) for matrix in record["matrices"].get(study, ())]
    return "\n\n".join(parts)


def _families(record: Mapping[str, Any]) -> str:
    missing = [
        f"{study}: {told['families']} of {told['wanted']}"
        for study, told in record["studies"].items()
        if told["families"] < told["wanted"]
    ]
    return (
        f"**Not all planned families are finished** ({'; '.join(missing)}). Verdicts are provisional: a bootstrap over a handful of "
        "families is surer than it should be, and one over a single family is about that family alone."
        if missing
        else "All planned families are in."
    )


def _count(families: int) -> str:
    return "one family" if families == 1 else f"{families} families"


def _claim(claim: Mapping[str, Any]) -> str:
    rows = ["| | found | 95 % | |", "| --- | ---: | --- | --- |"]
    for finding in claim["findings"]:
        value, (low, high) = finding["estimate"]["value"], finding["estimate"]["interval"]
        written = {"points": lambda x: f"{100 * x:+z.1f}", "nats": lambda x: f"{x:+z.2f}"}
        write = written.get(finding["unit"], lambda x: f"{x:z.2f}")
        shown = [minus(write(number)) for number in (value, low, high)]
        verdict = f"**{finding['verdict']}**" if finding["verdict"] else ""
        what = finding["what"].replace("|", "\\|")
        between = "one family" if finding["p"] is None and low == high else f"{shown[1]} to {shown[2]}"
        rows.append(f"| {what} | {shown[0]} | {between} | {verdict} |")
    remark = f"\n\n{claim['remark']}" if claim["remark"] else ""
    table = "\n".join(rows) if claim["findings"] else "Not asked in this study."
    return f"**({claim['number']}) {claim['said']}** ({claim['source']})\n\n{table}{remark}"


def _table_of(matrix: Mapping[str, Any]) -> str:
    lines = [f"| {matrix['task']}, % | {' | '.join(claims.VERSIONS)} |", "| --- |" + " ---: |" * len(claims.VERSIONS)]
    for name, values in matrix["rows"].items():
        lines.append(f"| {name} | {' | '.join('' if v is None else f'{100 * v:.1f}' for v in values)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    FIGURES.write_text(json.dumps(judge(Path(arguments[0])), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
