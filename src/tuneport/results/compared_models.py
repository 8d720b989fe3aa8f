"""Which model of a study is compared with which: the paper's questions, asked in one place.

| question | of | against | where |
| --- | --- | --- | --- |
| gain over the base | every model except bases | M_i | Tables 1, 3, 6, 11, 13 |
| gain over its start | transfer-then-tune | M_i + Δ_j | Tables 4, 12 |
| recovered gain | transfer | M_i and FT(M_i) | SEMANTICS, Measures |
| at the same steps | transfer-then-tune, recycling | FT(M_i), as many steps for this version | the paper's comparison |
| at the same total | transfer-then-tune, recycling | FT(M_i), as many steps as went into it in all | |
| iterative against direct | recycle-iterative | recycle-direct, at the same steps and at the same total | Table 6 |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tuneport.results.schema import BASE, DIRECT, FURTHER, ITERATIVE, TRANSFER, TUNED, Model, Run


def base_of(model: Model) -> Model:
    """M_i."""
    return Model(BASE, None, model.target)


def tuned_of(model: Model) -> Model:
    """FT(M_i) for the study's own number of steps."""
    return Model(TUNED, None, model.target, model.tuning)


def start_of(model: Model) -> Model:
    """M_i + Δ_j, from which transfer-then-tune goes on."""
    return Model(TRANSFER, model.source, model.target, model.tuning)


def direct_of(model: Model) -> Model:
    """The direct recycling beside an iterative one."""
    return replace(model, kind=DIRECT)


class Rivals:
    """What the models of a study that were fine-tuned further are compared with, by the steps that went into each."""

    def __init__(self, runs: Iterable[Run]) -> None:
        """Look at all results at the end of training."""
        self._runs: dict[Model, list[Run]] = {}
        for run in runs:
            if run.step is None:
                self._runs.setdefault(run.model, []).append(run)
        self.further = [model for model in self._runs if model.kind in FURTHER]

    def total(self, model: Model) -> int | None:
        """All fine-tuning steps that went into a model, as far as they are known."""
        return next((run.steps_total for run in self._runs.get(model, ()) if run.steps_total is not None), None)

    def at_same_steps(self, model: Model) -> Model | None:
        """FT(M_i), where all that are compared are known to have had as many steps on their version."""
        plain = tuned_of(model)
        pairs = [
            (one, other)
            for one in self._runs[model]
            for other in self._runs.get(plain, ())
            if one.scores and other.scores and one.goes_with(other)
        ]
        alike = all(None is not one.steps_on_target == other.steps_on_target for one, other in pairs)
        return plain if pairs and alike and model.steps is None else None

    def at_same_total(self, model: Model) -> Model | None:
        """FT(M_i) for as many steps as went into the model in all, where there is one."""
        return self._of_total(tuned_of(model), model)

    def direct_at_same_total(self, model: Model) -> Model | None:
        """Direct recycling for as many steps as went into the iterative one in all, where there is one."""
        return self._of_total(direct_of(model), model)

    def _of_total(self, rival: Model, model: Model) -> Model | None:
        total = self.total(model)
        longer = replace(rival, steps=total)
        return longer if total is not None and self.total(longer) is not None else None

    def recycled(self) -> list[tuple[Model, Model]]:
        """Iterative recyclings with their direct ones; the first of a chain is one model for both, and left out."""
        pairs = [(model, direct_of(model)) for model in self.further if model.kind == ITERATIVE]
        return [
            (one, other)
            for one, other in pairs
            if other in self._runs and (self.total(one) is None or self.total(one) != self.total(other))
        ]
