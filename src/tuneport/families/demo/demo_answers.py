"""What the demo prints: some answers of each model side by side, and a table with intervals.

Pure: a record, or questions and answers, to text. It shows the first question of each task, not a chosen one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuneport.families.lesson_questions import (
    INSTRUCTION_TASKS,
    NEW_FACTS,
    NEW_FACTS_COMPLETED,
    NEW_KNOWLEDGE_TASKS,
    Question,
)

_SHOWN = {
    "v1": "version 1",
    "v1-tuned": "version 1, fine-tuned",
    "v2": "version 2",
    "v2-transferred": "version 2 + diff vector",
    "v2-adapted": "the same, adapted",
    "v2-tuned": "version 2, fine-tuned",
}


def answers_side_by_side(asked: Sequence[Question], said: Mapping[str, Sequence[str]]) -> str:
    """The first question of every task with the answer of every model, a tick beside the right ones."""
    lines = []
    for task in (*INSTRUCTION_TASKS, *NEW_KNOWLEDGE_TASKS):
        index = next(index for index, question in enumerate(asked) if question.task == task)
        lines += ["", f"{task}: {asked[index].prompt}"]
        for model, name in _SHOWN.items():
            answer = said[model][index]
            lines.append(f"  {'✓' if answer == asked[index].answer else ' '} {name:24} {answer}")
    return "\n".join(lines)


def table(record: Mapping[str, Any]) -> str:
    """Accuracies in per cent with 95 % intervals, recovered gain, controls, and which claims held."""
    rows: list[tuple[str, ...]] = [
        ("", "n", "version 2", "version 2 + diff vector", "version 2, fine-tuned", "recovered gain")
    ]
    for name, scores in (("all instructions", record), *record["tasks"].items()):
        rows.append(_row(name, scores))
    rows.append(_row("backward transfer (onto version 1)", record["backport"]))
    adapted = record["adapted"]
    low, high = adapted["intervals"]["difference"]
    told_of_it = (
        f"Adapted on {adapted['prompts']} unlabelled prompts ({adapted['chosen']}): "
        f"{percent(adapted['accuracy'], adapted['intervals']['accuracy'])}, {100 * adapted['difference']:+.1f} points "
        f"[{100 * low:+.1f}, {100 * high:+.1f}] against version 2 + diff vector"
    )
    knowledge, controls = record["new_knowledge"], record["controls"]
    forms = knowledge["forms"]
    lines = ["", "Exact match on held-out questions, % [95 % interval]", *aligned(rows), told_of_it, ""]
    lines += [f"New knowledge, found only in version 2's text (n = {knowledge['n']})"]
    told: list[tuple[str, ...]] = [("", *_SHOWN.values())]
    for task in (NEW_FACTS, NEW_FACTS_COMPLETED):
        told.append(
            (
                task,
                *(percent(forms[task][model]["accuracy"], forms[task][model]["interval"]) for model in _SHOWN),
            )
        )
    lines += [*aligned(told), ""]
    for name, control in controls.items():
        share = control["share_of_real_gain"]
        lines.append(
            f"Control, {name.replace('_', ' ')}: "
            + percent(control["accuracy"], control["intervals"]["accuracy"])
            + (f", {100 * share:.1f} % of the real gain" if share is not None else "")
        )
        lines += [f"  warning of its transfer: {doubt['message']}" for doubt in control.get("doubts", ())]
    lines += ["", *_curves(record["transfer_then_tune"]), ""]
    lines.append(
        f"Length of the diff vector {record['diff_norm']:.2f}, distance between the versions {record['shift_norm']:.2f}"
    )
    lines += [
        "",
        *(f"{'held    ' if held else 'NOT HELD'}  {claim}" for claim, held in record["claims"].items()),
    ]
    return "\n".join(lines)


def _curves(record: Mapping[str, Any]) -> list[str]:
    """Accuracy against steps, from version 2 and from version 2 + diff vector."""
    rows: list[tuple[str, ...]] = [("after steps", *(str(point["step"]) for point in record["from_target"]))]
    for name, key in (("from version 2", "from_target"), ("from version 2 + diff vector", "from_transferred")):
        rows.append((name, *(f"{100 * point['accuracy']:.0f}" for point in record[key])))
    match = record["steps_to_match"]
    told = (
        f"not as good within {record['steps']} steps"
        if match is None
        else f"as good after {match} steps ({record['steps_fewer']} steps saved)"
    )
    return [
        f"Transfer, then fine-tune: exact match in % (n = {record['n']})",
        *aligned(rows),
        f"From version 2 + diff vector: {told}.",
    ]


def _row(name: str, scores: Mapping[str, Any]) -> tuple[str, ...]:
    intervals, recovered = scores["intervals"], scores["recovered_gain"]
    if recovered is None:
        share = "not defined"
    else:
        low, high = intervals["recovered_gain"]
        share = f"{recovered:.2f} [{low:.2f}, {high:.2f}]"
    models = ("target", "transferred", "tuned_target")
    return (name, str(scores["n"]), *(percent(scores[model], intervals[model]) for model in models), share)


def percent(share: float, interval: Sequence[float]) -> str:
    """A share and its interval in per cent."""
    return f"{100 * share:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines whose columns stand under one another."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
