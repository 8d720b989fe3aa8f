"""Recycle or not: what a transfer is worth against its new base, against fine-tuning, and against the old fine-tuned
model.

A `Worth` for each transfer and task, and the one for the first screen: the newest version with the fine-tuning of the
version before it. The study's order chooses it, not the results.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tuneport.reporting.tables.estimates import Change, Estimates, ShownScore, clear
from tuneport.reporting.tables.matrix import Cell, Matrix
from tuneport.results.compared_models import base_of, tuned_of
from tuneport.results.schema import TUNED, Model
from tuneport.results.study_reading import Reading
from tuneport.statistics import NO_HARM

BETTER, WORSE, MIXED, HARMLESS, OPEN = "better", "worse", "mixed", "harmless", "open"


@dataclass(frozen=True)
class Worth:
    """One transfer on one task. Signs are 1, −1 or 0, after Holm's adjustment among the transfers of the task."""

    cell: Cell
    matrix: Matrix  # the table that it is a cell of
    base: ShownScore | None
    tuned: ShownScore | None  # the target's own fine-tuning, where it was asked for
    old: ShownScore | None  # the old version, fine-tuned: what there was before the new base came out
    base_over_old: Change | None
    base_clearly: int
    over_old: Change | None
    clearly_over_old: int

    @property
    def model(self) -> Model:
        """The transfer."""
        return self.cell.model

    @property
    def harmless(self) -> bool:
        """Whether it is no worse than its base by 3 points: non-inferiority, where scores are shares."""
        interval = None if self.cell.gain is None else self.cell.gain.interval
        return self.matrix.share and interval is not None and interval[0] > -NO_HARM


def worths(estimates: Estimates, transfers: Sequence[Matrix]) -> list[Worth]:
    """Every transfer on every task, in the tables' order."""
    found = []
    for matrix in transfers:
        cells = [cell for cell in matrix.deltas if cell.model.source is not None]
        old = {cell.model: Model(TUNED, None, str(cell.model.source), cell.model.tuning) for cell in cells}
        behind = {m: estimates.change(base_of(m), before, matrix.task) for m, before in old.items()}
        ahead = {m: estimates.change(m, before, matrix.task) for m, before in old.items()}
        behind_signs, ahead_signs = clear(behind), clear(ahead)
        for cell in cells:
            model = cell.model
            base, tuned, before = (
                estimates.value(each, matrix.task) for each in (base_of(model), tuned_of(model), old[model])
            )
            signs = behind_signs.get(model, 0), ahead_signs.get(model, 0)
            found.append(Worth(cell, matrix, base, tuned, before, behind[model], signs[0], ahead[model], signs[1]))
    return found


def newest(found: Iterable[Worth], reading: Reading) -> list[Worth]:
    """Of each fine-tuning the transfer that the question is about, on each of its tasks.

    A recycling before a backport, the newest target, the nearest source.
    """
    place = {name: number for number, name in enumerate(reading.versions)}

    def rank(model: Model) -> tuple[bool, int, int]:
        source, target = place.get(str(model.source), 0), place.get(model.target, 0)
        return source < target, target, -abs(target - source)

    chosen: dict[str | None, Model] = {}
    every = list(found)
    for worth in every:
        model = worth.model
        if model.tuning not in chosen or rank(model) > rank(chosen[model.tuning]):
            chosen[model.tuning] = model
    return [worth for worth in every if worth.model == chosen[worth.model.tuning]]


def judged(found: Sequence[Worth]) -> str | None:
    """The verdict of all tasks of one transfer against the new base; None if none of them is scored."""
    known = [worth for worth in found if worth.cell.shown is not None and worth.cell.gain is not None]
    better, worse = (any(worth.cell.clearly == sign for worth in known) for sign in (1, -1))
    if not known:
        return None
    if better or worse:
        return MIXED if better and worse else BETTER if better else WORSE
    return HARMLESS if all(worth.harmless for worth in known) else OPEN
