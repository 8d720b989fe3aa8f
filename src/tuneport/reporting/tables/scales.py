"""target + α·Δ: what each α scores."""

from __future__ import annotations

from dataclasses import dataclass

from tuneport.reporting.tables.estimates import Estimates, Shown
from tuneport.reporting.tables.scored_models import TRANSFER, Model
from tuneport.reporting.tables.study_reading import Reading


@dataclass(frozen=True)
class Scaled:
    """target + α·Δ for several α: what each scores."""

    source: str
    target: str
    tuning: str | None
    task: str
    shown: tuple[tuple[float, Shown | None], ...]


def scaled(reading: Reading, estimates: Estimates) -> list[Scaled]:
    """Every transfer that was done at several scales, on each task."""
    moved = [run.model for run in reading.runs if run.step is None and run.model.kind == TRANSFER]
    scales = sorted({model.scale for model in moved})
    if len(scales) < 2:
        return []
    found = []
    for task in estimates.tasks:
        for source, target, tuning in dict.fromkeys((model.source, model.target, model.tuning) for model in moved):
            models = [Model(TRANSFER, source, target, tuning, scale) for scale in scales]
            shown = tuple((model.scale, estimates.value(model, task)) for model in models)
            if any(each for _, each in shown):
                found.append(Scaled(str(source), target, tuning, task, shown))
    return found
