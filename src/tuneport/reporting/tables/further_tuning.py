"""Models fine-tuned further, each twice against its rival: at the same steps for its version, and at the same total of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tuneport.reporting.tables.estimates import Change, Estimates, Shown, clear
from tuneport.reporting.tables.scored_models import BASE, DIRECT, ITERATIVE, THEN_TUNED, TUNED, Model, Run
from tuneport.reporting.tables.study_reading import Reading


@dataclass(frozen=True)
class Comparison:
    """A model fine-tuned from a transferred start, against plain fine-tuning at the same steps and same total."""

    model: Model
    task: str
    share: bool
    shown: Shown
    over_base: Change | None
    same_steps: Change | None
    same_total: Change | None
    total: int | None
    clearly: tuple[int, int]  # after Holm's adjustment within the task's table


def comparisons(reading: Reading, estimates: Estimates) -> list[Comparison]:
    """Every model that was fine-tuned from a transferred start stands twice against plain fine-tuning."""
    at_end = [run for run in reading.runs if run.step is None]
    models = {run.model: run.steps_total for run in at_end if run.model.kind in (THEN_TUNED, ITERATIVE, DIRECT)}
    known = {run.model for run in at_end if run.steps_total is not None}
    scored: dict[Model, list[Run]] = {}
    for run in at_end:
        scored.setdefault(run.model, []).extend([run] if run.scores else [])
    found = []
    for task in estimates.tasks:
        twice: dict[tuple[Model, int], Change | None] = {}
        for model, total in models.items():
            plain = Model(TUNED, None, model.target, model.tuning)
            longer = replace(plain, steps=total)
            alike = model.steps is None and _as_long(scored[model], scored.get(plain, []))
            twice[model, 0] = estimates.change(model, plain, task) if alike else None
            twice[model, 1] = (
                estimates.change(model, longer, task) if longer.steps is not None and longer in known else None
            )
        real = clear(twice)
        for model, total in models.items():
            shown = estimates.value(model, task)
            if shown is not None:
                clearly = (real.get((model, 0), 0), real.get((model, 1), 0))
                over_base = estimates.change(model, Model(BASE, None, model.target), task)
                of_total = (twice[model, 0], twice[model, 1], total, clearly)
                found.append(Comparison(model, task, shown.score.is_share, shown, over_base, *of_total))
    return found


def _as_long(further: Sequence[Run], plain: Sequence[Run]) -> bool:
    """Whether all that are compared are known to have had as many steps on their version."""
    pairs = [(one, other) for one in further for other in plain if one.goes_with(other)]
    return bool(pairs) and all(None is not one.steps_on_target == other.steps_on_target for one, other in pairs)


@dataclass(frozen=True)
class Recycled:
    """Iterative recycling minus direct recycling of the same version, at the same steps for this version and in all."""

    model: Model
    task: str
    share: bool
    same_steps: Change | None
    same_total: Change | None
    totals: tuple[int | None, int | None]  # steps that went into the iterative and the direct one, in all
    clearly: tuple[int, int]  # after Holm's adjustment within the task's table


def against_direct(reading: Reading, estimates: Estimates) -> list[Recycled]:
    """Each version's iterative recycling twice against its direct one; the first of a chain is one model for both, and left out."""
    at_end = [run for run in reading.runs if run.step is None]
    totals = {run.model: run.steps_total for run in at_end if run.model.kind in (ITERATIVE, DIRECT)}
    pairs = [(model, replace(model, kind=DIRECT)) for model in totals if model.kind == ITERATIVE]
    pairs = [
        (one, other)
        for one, other in pairs
        if other in totals and (totals[one] is None or totals[one] != totals[other])
    ]
    found = []
    for task in estimates.tasks:
        twice: dict[tuple[Model, int], Change | None] = {}
        for one, other in pairs:
            longer = replace(other, steps=totals[one])
            twice[one, 0] = estimates.change(one, other, task)
            twice[one, 1] = (
                estimates.change(one, longer, task)
                if longer.steps is not None and totals.get(longer) is not None
                else None
            )
        real = clear(twice)
        for one, other in pairs:
            shown = estimates.value(one, task)
            if shown is not None and (twice[one, 0] or twice[one, 1]):
                clearly = (real.get((one, 0), 0), real.get((one, 1), 0))
                both = (totals[one], totals[other])
                found.append(Recycled(one, task, shown.score.is_share, twice[one, 0], twice[one, 1], both, clearly))
    return found
