"""The section of docs/results.md on the paper's claims, from what `experiments.claims.judge_studies` found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.claims.judge_studies import SIZES
from experiments.claims.paper_claims import VERSIONS
from tuneport.reporting.tables.wording import minus


def render(record: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    parts = [
        "## The paper's claims, over families of the lab\n\nTo repeat: `make results` (studies/lab-*.toml, each family a run of "
        "`tuneport study … --family N`). Each claim is quoted from the paper, with the result of families of tiny "
        "models. A "
        "family is one pretraining run; intervals are 95 %, from a crossed bootstrap over families and examples; p values are "
        "adjusted by Holm's method for all tests of this section together. *Holds*: clear on the claimed side. *Does not hold*: "
        "clear on the other. *Not shown*: neither. No harm means: at most 3 points lost, by the interval. Budgets were chosen on "
        "family 0 while looking at its test scores (four variants of the pretraining, six of the fine-tuning), so it "
        "is left out; the "
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
    lines = [f"| {matrix['task']}, % | {' | '.join(VERSIONS)} |", "| --- |" + " ---: |" * len(VERSIONS)]
    for name, values in matrix["rows"].items():
        lines.append(f"| {name} | {' | '.join('' if v is None else f'{100 * v:.1f}' for v in values)} |")
    return "\n".join(lines)
