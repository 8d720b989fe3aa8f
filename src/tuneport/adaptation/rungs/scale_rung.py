"""One α for all of Δ: target + α·Δ. Nothing is written until α is chosen: the target's weights are moved in memory.

The user's own scale is that of plain addition, and the grid is relative to it. α is where most of the prompts that are fitted
on are answered as the tuned source answers them (among equals: where its answers have the lowest loss). The gate then asks prompts that had no part in the choice.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from tuneport.adaptation.answer_fit import answered, nats_per_token
from tuneport.adaptation.climb import Attempt, Climb, Declined, parents
from tuneport.adaptation.rung_measures import RungMeasures, judged_by, share
from tuneport.checkpoint.open_model import fetched
from tuneport.checkpoint.reading import readers_by_role
from tuneport.diagnosis.probing.carried_weights import carry
from tuneport.diagnosis.probing.prompt_probe import small_files
from tuneport.engine.plan import Plan
from tuneport.engine.summands.pair_summand import plan_transfer
from tuneport.scoring.devices import free_memory
from tuneport.scoring.models import Seat, find_models, load

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # times that of plain addition


def attempt(climb: Climb) -> Attempt | Declined:
    """Choose α, and measure it; nothing is to be judged where plain addition is the best."""
    models, plain = parents(climb.given), climb.given.choices.scale
    scales = tuple(dict.fromkeys(plain if each == 1 else float(f"{plain * each:.6g}") for each in SCALES))

    def planned(scale: float) -> Plan:
        found = plan_transfer(*models, replace(climb.given.choices, scale=scale))
        return replace(found, inputs=tuple(fetched(checkpoint) for checkpoint in found.inputs))

    with small_files(planned(plain)) as folder:
        (seat,) = find_models([os.fspath(climb.given.onto)])
        model = load(seat, climb.loading, climb.warnings.extend)
        moved = Seat(f"{seat.name} + α·Δ", folder)
        few = replace(climb.parts.fit, examples=climb.parts.fit.examples[: len(climb.fit_answers)])
        judged, _ = judged_by(few, climb.fit_answers, climb.asked.asking.match)
        agreed: dict[float, float] = {}
        losses: dict[float, float] = {}
        for number, scale in enumerate(scales):
            climb.progress.note = f"scale: α = {scale:g}"
            model = _moved(climb, model, planned(scale), moved, fresh=number == 0)
            losses[scale] = nats_per_token(model, answered(model, few.examples, climb.fit_answers))
            agreed[scale] = share(climb.asked.ask(judged, model)).value if judged.examples else 0.0
        best = min(scales, key=lambda scale: (-agreed[scale], losses[scale], scale != plain))
        measured: RungMeasures | None = None
        if best != plain:
            model = _moved(climb, model, planned(best), moved, fresh=False)
            measured = climb.measure(model)
    del model
    free_memory()
    tried = {repr(scale).removesuffix(".0"): {"agreement": agreed[scale], "loss": losses[scale]} for scale in scales}
    if measured is None:
        why = f"α = {plain:g}, plain addition, agrees best with the tuned source on the prompts that are fitted on."
        return Declined(why, {"scale": plain, "tried": tried})
    return Attempt(
        measured,
        climb.folder / "scale",
        keep=lambda: climb.write("scale", planned(best)),
        examples=len(climb.fit_answers),
        more={"scale": best, "tried": tried},
    )


def _moved(climb: Climb, model: Any, plan: Plan, seat: Seat, *, fresh: bool) -> Any:
    """The model at another α; ``fresh``: its weights are the target's."""
    with readers_by_role(plan.inputs) as readers:
        carry(model.model, seat.name, plan, readers, climb.given.running.workers, fresh=fresh)
        for reader in readers.values():
            reader.check_unchanged()
    return load(seat, climb.loading, climb.warnings.extend, weights=model.model)
