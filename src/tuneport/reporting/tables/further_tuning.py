"""Models fine-tuned further, each twice against its rival: at the same steps for its version, and at the same total of steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tuneport.reporting.tables.estimates import Change, Estimates, ShownScore, clear
from tuneport.results.compared_models import Rivals, base_of
from tuneport.results.schema import Model
from tuneport.results.study_reading import Reading

Twice = tuple[Change | None, Change | None]  # at the same steps, at the same total


@dataclass(frozen=True)
class Comparison:
    """A model against its rival, twice; `clearly` is after Holm's adjustment within the task's table."""

    model: Model
    task: str
    shown: ShownScore
    changes: Twice
    clearly: tuple[int, int]
    totals: tuple[int | None, ...]  # all steps that went into the model, and into a direct recycling beside it
    over_base: Change | None = None

    @property
    def share(self) -> bool:
        """Whether the scores are shares, shown in per cent."""
        return self.shown.score.is_share


def comparisons(reading: Reading, estimates: Estimates) -> list[Comparison]:
    """Every model that was fine-tuned from a transferred start, against plain fine-tuning."""
    rivals = Rivals(reading.runs)
    of = {model: (rivals.at_same_steps(model), rivals.at_same_total(model)) for model in rivals.further}
    return [
        Comparison(
            *(model, task, shown, changes, clearly, (rivals.total(model),)),
            over_base=estimates.change(model, base_of(model), task),
        )
        for model, task, shown, changes, clearly in _compared(of, estimates)
    ]


def against_direct(reading: Reading, estimates: Estimates) -> list[Comparison]:
    """Each version's iterative recycling against its direct one."""
    rivals = Rivals(reading.runs)
    pairs = dict(rivals.recycled())
    of = {model: (direct, rivals.direct_at_same_total(model)) for model, direct in pairs.items()}
    return [
        Comparison(model, task, shown, changes, clearly, (rivals.total(model), rivals.total(pairs[model])))
        for model, task, shown, changes, clearly in _compared(of, estimates)
        if any(changes)
    ]


def _compared(
    of: Mapping[Model, tuple[Model | None, Model | None]], estimates: Estimates
) -> Iterator[tuple[Model, str, ShownScore, Twice, tuple[int, int]]]:
    """Each model on each task with both changes against its rivals, and which are clear within the task's table."""
    for task in estimates.tasks:
        twice = {
            (model, which): None if rival is None else estimates.change(model, rival, task)
            for model, both in of.items()
            for which, rival in enumerate(both)
        }
        signs = clear(twice)
        for model in of:
            shown = estimates.value(model, task)
            if shown is not None:
                changes = twice[model, 0], twice[model, 1]
                yield model, task, shown, changes, (signs.get((model, 0), 0), signs.get((model, 1), 0))


def counted_clear(rows: Iterable[Comparison], which: int) -> tuple[int, int, int]:
    """Of the rows that have a rival: how many there are, how many are significantly above it, how many significantly below."""
    signs = [row.clearly[which] for row in rows if row.changes[which] is not None]
    return len(signs), signs.count(1), signs.count(-1)
