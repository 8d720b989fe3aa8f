"""Models side by side: how each does on each task, and which differences there are on the same questions.

Pure: right and wrong answers in, records for `summary.json` out, and text for the eyes. Every number has its n and its
95 % interval beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuneport import statistics
from tuneport.families.family_scores import Right
from tuneport.families.showing import aligned, percent

INTERVALS = "95 %; Wilson for an accuracy, joint bootstrap over the same questions otherwise"
MARGIN = 0.03  # "no harm" is non-inferiority within it, not a test that found nothing


def side_by_side(right: Mapping[str, Right], names: Mapping[str, str]) -> dict[str, Any]:
    """Accuracies of all models on all tasks; `names` says what each model is, in the order of the table."""
    tasks = list(dict.fromkeys(task for of_model in right.values() for task in of_model))
    return {
        "models": {model: names[model] for model in names if model in right},
        "tasks": {
            task: {
                "n": next(len(right[model][task]) for model in names if task in right.get(model, {})),
                "models": {model: _accuracy(right[model][task]) for model in names if task in right.get(model, {})},
            }
            for task in tasks
        },
    }


def difference(right: Mapping[str, Right], tasks: Sequence[str], after: str, before: str, seed: int) -> dict[str, Any]:
    """Accuracy of `after` minus that of `before` on the questions of `tasks` together; p is exact McNemar's."""
    one, other = (flags_on(right[model], tasks) for model in (after, before))
    found = statistics.difference(one, other, seed)
    return {
        "after": after,
        "before": before,
        "tasks": list(tasks),
        "n": len(one),
        "difference": found.value,
        "interval": list(found.interval),
        "p": statistics.mcnemar(other, one),
    }


def recovered(
    right: Mapping[str, Right], tasks: Sequence[str], target: str, transferred: str, tuned: str, seed: int
) -> dict[str, Any]:
    """The recovered gain on the questions of `tasks` together; None where fine-tuning may have gained nothing."""
    before, moved, trained = (flags_on(right[model], tasks) for model in (target, transferred, tuned))
    found = statistics.recovered_gain(before, moved, trained, seed)
    return {
        "target": target,
        "transferred": transferred,
        "tuned_target": tuned,
        "tasks": list(tasks),
        "n": len(before),
        "recovered_gain": found.value if found else None,
        "interval": list(found.interval) if found else None,
    }


def flags_on(right: Right, tasks: Sequence[str]) -> list[bool]:
    """Right or wrong on the questions of several tasks, one task after another."""
    return [flag for task in tasks for flag in right[task]]


def gains(row: Mapping[str, Any]) -> bool:
    """Whether a difference is a gain beyond chance."""
    return bool(row["interval"][0] > 0)


def does_no_harm(row: Mapping[str, Any]) -> bool:
    """Whether a difference is at worst a loss of `MARGIN`, by its interval."""
    return bool(row["interval"][0] > -MARGIN)


def table(record: Mapping[str, Any]) -> str:
    """Accuracies, differences, recovered gains and claims of a record, as text."""
    tasks, names = record["tasks"], record["models"]
    rows: list[tuple[str, ...]] = [("", *(f"{task} (n = {told['n']})" for task, told in tasks.items()))]
    for model, name in names.items():
        rows.append((name, *(_cell(told["models"].get(model)) for told in tasks.values())))
    lines = ["", "Right answers to held-out questions, % [95 % interval]", *aligned(rows), ""]
    told = [("", "n", "difference, points")]
    for row in record["differences"]:
        what = f"{names[row['after']]} − {names[row['before']]}: {', '.join(row['tasks'])}"
        told.append((what, str(row["n"]), percent(row["difference"], row["interval"])))
    lines += [*aligned(told), ""]
    for row in record.get("recovered", ()):
        lines.append(f"recovered gain, {', '.join(row['tasks'])}: {share(row)}")
    held = (f"{'held    ' if held else 'NOT HELD'}  {claim}" for claim, held in record["claims"].items())
    return "\n".join([*lines, "", *held])


def share(row: Mapping[str, Any]) -> str:
    """A recovered gain with its interval, in words where it is not defined."""
    if row["recovered_gain"] is None:
        return "not defined"
    low, high = row["interval"]
    return f"{row['recovered_gain']:.2f} [{low:.2f}, {high:.2f}]"


def _accuracy(flags: Sequence[bool]) -> dict[str, Any]:
    estimate = statistics.accuracy(flags)
    return {"accuracy": estimate.value, "interval": list(estimate.interval)}


def _cell(told: Mapping[str, Any] | None) -> str:
    return "–" if told is None else percent(told["accuracy"], told["interval"])
