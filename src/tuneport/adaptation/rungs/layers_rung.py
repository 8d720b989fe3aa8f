"""An α for each kind of tensor in each layer: target + α_g·Δ, fitted on the loss of the source's answers, or of given ones.

Most of the prompts fit the α by gradient descent from plain addition (or from the scale that was kept); the others say how far
to go, and may say: not at all. Weights are moved in memory; what is written is an ordinary transfer with a rule for each group.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tuneport.adaptation.answer_fit import answered, nats_per_token
from tuneport.adaptation.climb import Attempt, Climb, Declined, parents
from tuneport.adaptation.layer_scales import Alphas, LayerScales, batches, loss_of
from tuneport.checkpoint.open_model import fetched
from tuneport.checkpoint.reading import readers_by_role
from tuneport.diagnosis.probing.carried_weights import carry
from tuneport.diagnosis.probing.prompt_probe import small_files
from tuneport.engine.pieces import Readers
from tuneport.engine.plan import Plan
from tuneport.engine.summands.pair_summand import plan_transfer
from tuneport.files.opening import MOST_RECORD_BYTES, read_bytes
from tuneport.scoring.devices import free_memory
from tuneport.scoring.models import Seat, find_models, load

STEPS, RATE = 60, 0.05  # of Adam, as in the trial that this rung was built from (docs/adapt.md)
_LOOK = 5  # steps between two looks at the prompts that are not fitted on
_PATIENCE = 4  # looks without a better loss, after which more steps are not tried
_CHECKED = 4  # every so many-th prompt is not fitted on
_BOUNDS = (0.0, 4.0)
_MOMENTS, _TINY = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class _Look:
    """The α after so many steps, and the loss of the prompts that are not fitted on, in nats per token."""

    steps: int
    alphas: Alphas
    loss: float


def attempt(climb: Climb) -> Attempt | Declined:
    """Fit the α, and measure the model that has them; nothing is to be judged where none is better than the start."""
    models, choices = parents(climb.given), climb.given.choices
    plan = plan_transfer(*models, choices)
    plan = replace(plan, inputs=tuple(fetched(checkpoint) for checkpoint in plan.inputs))
    scales = LayerScales.of(plan)
    if not scales.groups:
        return Declined("Nothing is added to any tensor: its scale is 0 everywhere.")
    start = _kept_scale(climb)
    with small_files(plan) as folder, readers_by_role(plan.inputs) as readers:
        (seat,) = find_models([os.fspath(climb.given.onto)])
        moving = _Moving(climb, load(seat, climb.loading, climb.warnings.extend), Seat(f"{seat.name} + α·Δ", folder))
        if moving.model.backend == "seq2seq":
            return Declined("For models with an encoder this rung is not built; scale is.")
        moving.to(scales.scaled(np.full(len(scales.groups), start)), readers)
        pairs = answered(moving.model, *climb.fitted_answers())
        if len(pairs) <= _CHECKED:
            return Declined(f"Only {len(pairs)} prompts have an answer that fits into the model; it needs more.")
        checked = pairs[::_CHECKED]
        looks = _fitted(
            climb, moving, scales, readers, [p for i, p in enumerate(pairs) if i % _CHECKED], checked, start
        )
        best = min(looks, key=lambda look: look.loss)
        tried = {
            "start": start,
            "looks": [{"steps": look.steps, "loss": look.loss} for look in looks],
            "layers": _told(scales, best.alphas),
        }
        measured = None
        if best.steps:
            moving.to(scales.scaled(best.alphas), readers)
            measured = climb.measure(moving.model)
        for reader in readers.values():
            reader.check_unchanged()
    del moving
    free_memory()
    if measured is None:
        why = "On the prompts that were not fitted on, no α for each layer is better than one for all."
        return Declined(why, tried)
    wanted = replace(choices, rules=(*choices.rules, *scales.rules(best.alphas)))
    return Attempt(
        measured,
        climb.folder / "layers",
        keep=lambda: climb.write("layers", plan_transfer(*models, wanted)),
        steps=looks[-1].steps,
        examples=len(pairs),
        more=tried,
    )


@dataclass
class _Moving:
    """The target in memory, which becomes target + α·Δ."""

    climb: Climb
    model: Any
    seat: Seat
    fresh: bool = True

    def to(self, plan: Plan, readers: Readers) -> None:
        """Its weights as this plan would write them."""
        carry(self.model.model, self.seat.name, plan, readers, self.climb.given.running.workers, fresh=self.fresh)
        if self.fresh:
            self.model = load(self.seat, self.climb.loading, self.climb.warnings.extend, weights=self.model.model)
        self.fresh = False


def _fitted(
    climb: Climb,
    moving: _Moving,
    scales: LayerScales,
    readers: Readers,
    pairs: Sequence[Any],
    checked: Sequence[Any],
    start: float,
) -> list[_Look]:
    """The looks on the way; the first is the start."""
    alphas = np.full(len(scales.groups), start)
    first, second = np.zeros_like(alphas), np.zeros_like(alphas)
    looks = [_Look(0, alphas.copy(), nats_per_token(moving.model, checked))]
    ordered = batches(pairs)
    with scales.slopes(moving.model.model, readers) as slopes:
        for step in range(1, STEPS + 1):
            climb.progress.note = f"layers: step {step} of {STEPS}"
            slopes[:] = 0
            loss_of(moving.model.model, moving.model.device, ordered[step % len(ordered)]).backward()
            first += (1 - _MOMENTS[0]) * (slopes - first)
            second += (1 - _MOMENTS[1]) * (slopes**2 - second)
            moved = first / (1 - _MOMENTS[0] ** step) / (np.sqrt(second / (1 - _MOMENTS[1] ** step)) + _TINY)
            alphas = np.clip(alphas - RATE * moved, *_BOUNDS)
            moving.to(scales.scaled(alphas), readers)
            if step % _LOOK == 0:
                looks.append(_Look(step, alphas.copy(), nats_per_token(moving.model, checked)))
                best = min(range(len(looks)), key=lambda place: looks[place].loss)
                if len(looks) - 1 - best >= _PATIENCE:
                    break
    return looks


def _kept_scale(climb: Climb) -> float:
    """The one α that was kept for all, where it was, as a multiple of the user's own."""
    if climb.standing.rung != "scale":
        return 1.0
    kept = json.loads(read_bytes(climb.folder / "scale.rung.json", climb.folder, MOST_RECORD_BYTES))["record"]["scale"]
    return float(kept) / climb.given.choices.scale


def _told(scales: LayerScales, alphas: Alphas) -> list[dict[str, Any]]:
    return [
        {"layer": group.layer, "kind": group.kind, "alpha": round(float(alpha), 6)}
        for group, alpha in zip(scales.groups, alphas, strict=True)
    ]
