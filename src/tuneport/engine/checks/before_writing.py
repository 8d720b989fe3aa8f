"""Doubts and notes about a transfer before anything is written, and again once everything is measured.

`look` reads a sample of the weights, the names in the models' files, and whether two models are the same files;
`settle` replaces the sample's measures by those of the full pass. Both return doubts (warnings, which stop a run with
--strict) and notes. The loss by rounding is predicted from the same sample and measured again in the full pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.hub import RangesError
from tuneport.comparison.model_roles import Doubt, Figures, doubts
from tuneport.engine.checks.named_parents import named_doubts
from tuneport.engine.checks.rounding_loss import RoundingSample, expected_loss, sample_rounding
from tuneport.engine.checks.sampling import Sample, opened_for_samples, take_samples
from tuneport.engine.plan import Plan
from tuneport.errors import named, recorded

ZERO_DIFF = (
    "The diff vector is zero: base and tuned have the same weights in every tensor involved. "
    f"Is {named('tuned')} the fine-tuned model, and {named('base')} the model it was fine-tuned from?"
)


@dataclass(frozen=True)
class Note:
    """A note that is not a doubt: its kind and its text."""

    kind: str
    message: str


@dataclass(frozen=True)
class RolesVerdict:
    """What is known of the roles. ``whole`` is None before the whole pass, ``refusals`` what makes a run senseless.

    ``samples`` are by the role that brings the difference: the tuned model's, or each diff vector's. ``rounding`` is what was
    seen of it before the whole pass, ``losses`` says so where it takes too much. ``taken_away`` are roles with a negative scale.
    """

    samples: Mapping[str, Sample]
    whole: Figures | None
    doubts: tuple[Doubt, ...]
    notes: tuple[Note, ...] = ()
    refusals: tuple[str, ...] = ()
    rounding: RoundingSample | None = None
    losses: tuple[str, ...] = ()
    taken_away: frozenset[str] = frozenset()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The doubts in words, and what rounding is seen to take."""
        return (*(doubt.message for doubt in self.doubts), *self.losses)

    def record(self) -> dict[str, Any]:
        """The verdict as written in a manifest and a plan."""
        return {
            "samples": {role: sample.record() for role, sample in self.samples.items()},
            "whole": None if self.whole is None else asdict(self.whole),
            "doubts": [doubt.record() for doubt in self.doubts],
            "notes": [{**asdict(note), "message": recorded([note.message])[0]} for note in self.notes],
        }


def look(plan: Plan) -> RolesVerdict:
    """What a sample and the small files say. A refused plan is not looked at. Raises `HubError` where no answer comes."""
    if plan.refusals:
        return RolesVerdict({}, None, ())
    given = {checkpoint.role: checkpoint for checkpoint in plan.inputs}
    notes: list[Note] = []
    pairs = [(one.base, one.role) for one in plan.added if one.base is not None]
    refusals = (ZERO_DIFF,) if any(_same_files(given, base, tuned) for base, tuned in pairs) else ()
    if any(_same_files(given, base, "target") for base, _ in pairs):
        notes.append(_SAME_TARGET)
    samples: dict[str, Sample] = {}
    rounding = None
    try:
        with opened_for_samples(plan.inputs) as opened:
            samples = take_samples(plan, opened)
            rounding = sample_rounding(plan, opened)
    except RangesError as error:
        notes.append(Note("not-sampled", f"The weights could not be sampled beforehand: {error}"))
    for sample in samples.values():
        if sample.unchanged and not refusals:
            notes.append(_NO_DIFFERENCE)
        if sample.same and _SAME_TARGET not in notes:
            notes.append(_NO_DRIFT)
    # Whose difference is subtracted; rules for some tensors do not count.
    away = frozenset(one.role for one in plan.added if one.scale < 0)
    found = [
        replace(doubt, message=f"{given[role].label}: {doubt.message}") if len(plan.added) > 1 else doubt
        for role, sample in samples.items()
        for doubt in doubts(sample.figures, sample.error, taken_away=role in away)
    ]
    of_names = (named_doubts(given[base], given[tuned], given.get("target")) for base, tuned in pairs)
    doubted = (*found, *itertools.chain.from_iterable(of_names))
    return RolesVerdict(samples, None, doubted, tuple(notes), refusals, rounding, expected_loss(plan, rounding), away)


def settle(seen: RolesVerdict, measured: Figures, shift_norm: float | None) -> RolesVerdict:
    """The verdict after the whole pass, whose figures take the place of the sample's wherever it has them."""
    seen = replace(seen, rounding=None, losses=())
    known: dict[str, Any] = {name: value for name, value in measured.cosines().items() if value is not None}
    notes = [note for note in seen.notes if note.kind == "not-sampled"]
    if shift_norm == 0:
        notes.append(_SAME_TARGET)
    if not known:
        return replace(seen, notes=tuple(notes))
    sample = seen.samples.get("tuned")
    joined = measured if sample is None else replace(measured, **{**sample.figures.cosines(), **known})

    def error(name: str) -> float:
        return 0.0 if name in known or sample is None else sample.error(name)

    named = (doubt for doubt in seen.doubts if doubt.kind in _NAMED)
    found = doubts(joined, error, taken_away="tuned" in seen.taken_away)
    return replace(seen, whole=measured, doubts=(*found, *named), notes=tuple(notes))


_NAMED = ("base-names-tuned", "tuned-names-target", "target-names-tuned")
_NO_DIFFERENCE = Note(
    "no-difference-seen",
    "A sample shows no difference between base and tuned; if there is none at all, the run will stop.",
)
_NO_DRIFT = Note("same-target-seen", "A sample shows no difference between base and target.")
_SAME_TARGET = Note(
    "target-is-base",
    "Base and target have the same weights: the output will be the tuned model with the target's files.",
)


def _same_files(given: dict[str, Checkpoint], one: str, other: str) -> bool:
    """Whether two models are the very same files: one folder, or the same contents by the Hub's own hashes."""
    if one not in given or other not in given:
        return False
    first, second = given[one], given[other]
    if first.adapter is not None or second.adapter is not None or first.files.keys() != second.files.keys():
        return False
    return all(_same_file(first, second, name) for name in first.files)


def _same_file(first: Checkpoint, second: Checkpoint, name: str) -> bool:
    hashes = first.files[name].hub_digest, second.files[name].hub_digest
    if hashes[0] is not None and hashes[0] == hashes[1]:
        return True
    places = [checkpoint.path / name for checkpoint in (first, second)]
    return all(place.is_file() for place in places) and places[0].samefile(places[1])
