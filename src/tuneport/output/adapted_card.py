"""The section of a model card on how `adapt` chose: the rungs that were tried, with their figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuneport.output.model_card import label, table

ADAPTED = "adapt.json"
NAMES = {
    "add": "add: target + Δ",
    "scale": "scale: target + α·Δ",
    "layers": "layers: an α for each kind of tensor in each layer",
    "distil": "distil: from the tuned source",
    "tune": "tune: on examples",
}
MEASURES = {
    "quality": "right answers",
    "agreement": "answers that agree with the tuned source's (agreement, not quality)",
}


def rows_of(record: Mapping[str, Any]) -> list[list[str]]:
    """The rungs as rows, and the models that they are compared with; figures are of the test part."""
    rows = [["", "test", "95 % interval", "against add", "loss of texts", "answers that end", "status"]]
    for name, found in record["references"].items():
        rows.append([{"target": "the target", "source": "the tuned source"}[name], *_figures(found), "–"])
    return rows + [[NAMES[rung["name"]], *_figures(rung), rung["status"]] for rung in record["rungs"]]


def _figures(found: Mapping[str, Any]) -> list[str]:
    test, kept = found["test"], found["retention"]
    if test is None:
        return ["–"] * 5
    low, high = test["interval"]
    change = test["difference"]
    return [
        f"{test['value']:.1%}",
        f"{low:.1%} to {high:.1%}",
        "–" if change is None else f"{100 * change['value']:+.1f}",
        "–" if kept is None or kept["loss"] is None else f"{kept['loss']:.3f}",
        "–" if kept is None else f"{kept['ended']:.0%}",
    ]


def measured_in_words(record: Mapping[str, Any]) -> str:
    """What the figures of the test part count."""
    return f"Test: {MEASURES[record['measure']['test']]}."


def parents_of(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Base, tuned and target of a manifest's adaptation: the folder's own parents are rungs, which are gone."""
    found: Sequence[Mapping[str, Any]] = (record.get("adapted") or {}).get("inputs") or ()
    return found


def adapted(record: Mapping[str, Any] | None) -> list[str]:
    """The section, from what a manifest holds of adapt.json; nothing where it holds nothing."""
    if not record:
        return []
    head, *rows = rows_of(record)
    return [
        "",
        "## How it was adapted",
        "",
        *(f"- **{entry['role']}**: {label(entry['name'], entry['revision'])}" for entry in record.get("inputs", ())),
        "",
        f"By `tuneport adapt`; chosen: {record['chosen']}. {measured_in_words(record)} {ADAPTED} has all figures.",
        "",
        *table(head, rows),
    ]
