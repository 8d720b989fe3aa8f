"""Compare models in pairs on the same examples: which differences are significant.

Makes the rows of `comparisons` for the chosen pairs. Right-or-wrong outcomes are tested by McNemar's exact test, others
by the paired bootstrap; p values are adjusted for all rows of the table by Holm's method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from tuneport import statistics
from tuneport.results.example_outcomes import TaskResult, paired

LEVEL = 0.05
MOST_IN_ALL_PAIRS = 3  # of more models most pairs answer no question, and each costs the others by Holm's adjustment
_FINEST = 200  # a bootstrap's least p, times the number of rows, has to stay well below the level


def pairs_of(names: Sequence[str], against: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Which models are compared: every other one with each of ``against``; unsaid all pairs of up to three, else each with the first."""
    if not against:
        return list(combinations(names, 2)) if len(names) <= MOST_IN_ALL_PAIRS else [(names[0], n) for n in names[1:]]
    found: list[tuple[str, str]] = []
    for one in dict.fromkeys(against):
        found += [(one, other) for other in names if other != one and (other, one) not in found]
    return found


def compare(
    results: Mapping[str, Sequence[TaskResult]], seed: int, pairs: Sequence[tuple[str, str]] | None = None
) -> list[dict[str, Any]]:
    """A row for each task and pair of models, the second minus the first; `results` are each model's, by task (``pairs``: `pairs_of`).

    Tasks without per-example scores, or asked differently, have no row.
    """
    names = list(results)
    pairs = pairs_of(names) if pairs is None else pairs
    tasks = len(next(iter(results.values()))) if names else 0
    resamples = max(4000, _FINEST * tasks * len(pairs))
    rows: list[dict[str, Any]] = []
    for place in range(tasks):
        of_task = {name: results[name][place] for name in names if results[name][place].summary is None}
        drawn: dict[str, Any] = {}
        for earlier, later in pairs:
            if earlier not in of_task or later not in of_task:
                continue
            one, other = of_task[earlier], of_task[later]
            if not paired(one, other):
                continue
            if earlier not in drawn or later not in drawn:
                drawn |= _drawn(of_task, one, seed, resamples)
            changes = drawn[later] - drawn[earlier]
            p, method = statistics.tested(
                np.array(one.scores),
                np.array(other.scores),
                changes,
                right_or_wrong=one.right_or_wrong and other.right_or_wrong,
            )
            rows.append(
                {
                    "models": [earlier, later],
                    "task": one.task,
                    "metric": one.metric,
                    "difference": _value(other) - _value(one),
                    "interval": list(statistics.central(changes)),
                    "p": p,
                    "method": method,
                    "n": len(one.outcomes),
                    **_across(one, other),
                }
            )
    for row, adjusted in zip(rows, statistics.holm([row["p"] for row in rows]), strict=True):
        row |= {"p_adjusted": adjusted, "significant": adjusted < LEVEL}
    return rows


def recovered(results: Mapping[str, Sequence[TaskResult]], roles: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """The recovered gain on each task, of target, transferred and tuned target (SEMANTICS, Measures)."""
    rows = []
    for target, moved, tuned in zip(*(results[name] for name in roles), strict=True):
        if target.summary is not None or not (paired(target, moved) and paired(moved, tuned)):
            continue
        share = statistics.recovered_gain(target.scores, moved.scores, tuned.scores, seed, target.weights)
        rows.append(
            {
                "task": target.task,
                "target": roles[0],
                "transferred": roles[1],
                "tuned_target": roles[2],
                "gain": _value(moved) - _value(target),
                "gain_of_tuned_target": _value(tuned) - _value(target),
                "recovered_gain": None if share is None else share.value,
                "interval": None if share is None else list(share.interval),
                "n": len(target.outcomes),
                **_across(target, moved, tuned),
            }
        )
    return rows


def _across(*results: TaskResult) -> dict[str, Any]:
    """A flag on what is computed across variants of a task: the gain is then partly the task's."""
    variants = [result.variant for result in results]
    return {"across_variants": variants} if len(set(variants)) > 1 else {}


def _drawn(of_task: Mapping[str, TaskResult], like: TaskResult, seed: int, resamples: int) -> dict[str, Any]:
    """Resampled values of all models that were asked the same, from one draw of examples."""
    alike = {name: result for name, result in of_task.items() if paired(like, result)}
    scores = np.array([result.scores for result in alike.values()], dtype=np.float64)
    weights = np.array(like.weights, dtype=np.float64)
    means = statistics.weighted_means(scores, weights, seed=seed, resamples=resamples)
    return dict(zip(alike, means.T, strict=True))


def _value(result: TaskResult) -> float:
    return sum(o.score * o.weight for o in result.outcomes) / sum(o.weight for o in result.outcomes)
