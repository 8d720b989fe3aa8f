"""Accuracy against steps: fine-tuning from a base, and from bases that a diff vector was added to (Figures 2, 3 and 4).

A panel for each target and task, from the runs with a `step`: one curve per start, the mean over families and seeds
with its interval, its peak, and how many steps it needs to match plain fine-tuning's end. All of it comes from the data
of the curves, which is validation data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tuneport import statistics
from tuneport.reporting.tables.estimates import interval_of
from tuneport.results import curves as following
from tuneport.results.schema import RECYCLED, THEN_TUNED, TUNED, Model, Run, Score
from tuneport.results.study_reading import Reading

_RESAMPLES = 2000


@dataclass(frozen=True)
class CurvePoint:
    """A model after so many steps."""

    step: int
    value: float
    interval: tuple[float, float] | None
    n: int
    results: int


@dataclass(frozen=True)
class Curve:
    """One start on its way; `to_match` is the first step from which on it is as good as plain fine-tuning's end."""

    model: Model
    points: tuple[CurvePoint, ...]
    to_match: int | None = None
    peak: CurvePoint | None = None


@dataclass(frozen=True)
class Panel:
    """All curves of one target on one task; `reference` is where plain fine-tuning ends."""

    target: str
    task: str
    tuning: str | None
    kinds: str  # "further fine-tuning" or "recycling"
    share: bool
    higher_is_better: bool
    curves: tuple[Curve, ...]
    reference: CurvePoint | None
    gains: bool  # whether plain fine-tuning gains anything on this task; where it does not there is nothing to match


def panels(reading: Reading) -> list[Panel]:
    """The curves of a study, by target and task, plain fine-tuning beside what began from a transfer."""
    on_curve = [run for run in reading.runs if run.step is not None and run.scores]
    groups: dict[tuple[str, str, str | None, str], list[Run]] = defaultdict(list)
    for run in on_curve:
        for kinds, members in (
            ("further fine-tuning", (TUNED, THEN_TUNED)),
            ("recycling", (TUNED, *RECYCLED)),
        ):
            if run.model.kind in members:
                for task in run.scores:
                    groups[kinds, task, run.model.tuning, run.model.target].append(run)
    order = {name: place for place, name in enumerate(reading.versions)}
    found = []
    for (kinds, task, tuning, target), runs in sorted(groups.items(), key=lambda g: (g[0][0], order.get(g[0][3], 0))):
        models = list(dict.fromkeys(run.model for run in runs))
        if len(models) < 2 or all(model.kind == TUNED for model in models):
            continue  # nothing to hold it against
        models.sort(key=lambda m: (m.kind != TUNED, order.get(m.source or "", -1), -m.rate, m.steps or 0))
        score = next(run.scores[task] for run in runs if task in run.scores)
        curves = [_curve(model, [run for run in runs if run.model == model], task) for model in models]
        plain = next((c for c in curves if c.model.kind == TUNED and c.model.steps is None and c.points), None)
        reference = plain.points[-1] if plain else None
        gains = plain is not None and following.gains(_values(plain), score.higher_is_better)
        found.append(
            Panel(
                target=target,
                task=task,
                tuning=tuning,
                kinds=kinds,
                share=score.is_share,
                higher_is_better=score.higher_is_better,
                curves=tuple(_judged(curve, reference, gains, score.higher_is_better) for curve in curves),
                reference=reference,
                gains=gains,
            )
        )
    return found


def _curve(model: Model, runs: Sequence[Run], task: str) -> Curve:
    by_step: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        if task in run.scores and run.step is not None:
            by_step[run.step].append(run)
    return Curve(model, tuple(_point(step, by_step[step], task) for step in sorted(by_step)))


def _point(step: int, runs: Sequence[Run], task: str) -> CurvePoint:
    by_family: dict[int | None, list[Score]] = defaultdict(list)
    for run in runs:
        by_family[run.family].append(run.scores[task])
    means = [float(np.mean([score.value for score in scores])) for scores in by_family.values()]
    first = runs[0].scores[task]
    interval = interval_of(first) if len(runs) == 1 else _interval(list(by_family.values()), step)
    return CurvePoint(step, float(np.mean(means)), interval, first.n, len(runs))


def _interval(families: Sequence[Sequence[Score]], step: int) -> tuple[float, float] | None:
    """By drawing families, and in each a mean of its seeds that errs as its examples do: curves keep no outcomes."""
    if any(score.stderr is None for scores in families for score in scores):
        return None
    rng = np.random.default_rng([0, step])
    # Seeds answer the same examples, so their errors go together: the mean of seeds errs like one of them.
    drawn = np.stack(
        [
            rng.normal(np.mean([s.value for s in scores]), np.mean([s.stderr or 0.0 for s in scores]), _RESAMPLES)
            for scores in families
        ],
        axis=1,
    )
    if len(families) > 1:
        number = len(families)
        drawn = drawn * rng.multinomial(number, np.full(number, 1 / number), size=_RESAMPLES)
    low, high = statistics.central(drawn.mean(axis=1))
    first = families[0][0]
    return (max(0.0, low), min(1.0, high)) if first.is_share else (low, high)


def _judged(curve: Curve, reference: CurvePoint | None, gains: bool, higher_is_better: bool) -> Curve:
    points = _values(curve)
    to_match = following.steps_to_match(points, reference.value, higher_is_better) if reference and gains else None
    place = following.peak(points, higher_is_better)
    return replace(curve, to_match=to_match, peak=None if place is None else curve.points[place])


def _values(curve: Curve) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in curve.points]


def steps_saved(panel: Panel, curve: Curve) -> int | None:
    """How many steps a start saves against plain fine-tuning until it is as good; None where it never is."""
    if panel.reference is None or curve.to_match is None:
        return None
    return panel.reference.step - curve.to_match


def with_match(found: Iterable[Panel]) -> tuple[int, int, int]:
    """Of the transferred starts with something to match: how many there are, how many do, how many do so sooner.

    A start that is fine-tuned for several numbers of steps counts once, with the study's own.
    """
    judged = [
        (panel, curve)
        for panel in found
        if panel.gains
        for curve in panel.curves
        if curve.model.kind != TUNED and curve.model.steps is None
    ]
    matched = [(panel, curve) for panel, curve in judged if curve.to_match is not None]
    sooner = [1 for panel, curve in matched if (steps_saved(panel, curve) or 0) > 0]
    return len(judged), len(matched), len(sooner)
