"""The verdict on a transfer before it is run: one word, its reasons, and what else to try.

Gates decide first. The rest is calibrated on families of tiny models (docs/verdict.md); outside their range the verdict
is `uncertain`, and the reasons say why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tuneport.comparison.calibration import Calibration, calibrations
from tuneport.comparison.gates import Gate

Word = Literal["likely", "uncertain", "unlikely"]
RANK: Mapping[str, int] = {"likely": 0, "uncertain": 1, "unlikely": 2}
# From this cosine of Δ and target − base on, the target moved in the fine-tuning's direction: in the families of docs/verdict.md every
# instruct model of the base was above it, and adding a second fine-tuning did harm; all other targets were below.
SHARED_WAY = 0.3
# docs/when-it-works.md, "Four things repeat": kinds of pairs of the lab, which are tiny models.
_USUAL = (
    "Usual distances (tiny models of the lab): 0.1 between neighbouring releases of one run, 0.2 to 0.3 across a change of its data, "
    "1 to an unrelated model."
)
OWN_BASE = "Take the target's own base as the target, or fine-tune the target itself."
TRY = "Transfer, evaluate the result on a few examples, and compare with the base."
OF_A_SUM = (
    "No calibration covers the sum of several fine-tunings, so there is no further prediction. `tuneport compare` judges "
    "each of them alone."
)
FURTHER = "Transfer, then fine-tune the result for part of the steps; compare with fine-tuning the target alone."


@dataclass(frozen=True)
class Verdict:
    """``gain`` and ``retention`` are predicted intervals (low, middle, high), None where there is no prediction.

    ``gain`` is the share of the fine-tuning's gain that is expected on the target, ``retention`` what is expected to stay of its
    perplexity on texts of its pretraining: exp(loss before − loss after). ``calibrated``: the pair lies in the range on which the predictor was fitted.
    """

    word: Word
    gain: tuple[float, float, float] | None
    retention: tuple[float, float, float] | None
    reasons: tuple[str, ...]
    remedy: str | None
    calibrated: bool

    def record(self) -> dict[str, Any]:
        """The verdict as JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def verdict_of(
    measures: Mapping[str, Any],
    gates: Sequence[Gate],
    kind: str | None = None,
    known: Sequence[Calibration] | None = None,
    *,
    several: bool = False,
) -> Verdict:
    """The verdict from the figures of a comparison (`MeasuredTensors.whole`), its gates and the target's `model_type`.

    ``known`` are the calibrations to ask, by default those of the package. ``several``: it is about the sum of several
    fine-tunings, which none of them covers.
    """
    failed = [gate for gate in gates if gate.status == "fail"]
    if failed:
        reasons = tuple(f"{gate.name}: {gate.reason}" for gate in failed)
        return Verdict("unlikely", None, None, reasons, None, calibrated=False)
    warned = tuple(f"{gate.name}: {gate.reason}" for gate in gates if gate.status == "warn")
    if several:
        return Verdict("uncertain", None, None, (*warned, OF_A_SUM), TRY, False)
    told, known = _told(measures), calibrations() if known is None else known
    outside = [calibration.outside(measures, kind) for calibration in known]
    inside = next((one for one, found in zip(known, outside, strict=True) if not found), None)
    if inside is not None:
        return _foreseen(inside, measures, (*warned, *told), doubted=bool(warned))
    nearest = min(outside, key=len, default=None)
    why = (
        "No calibration covers this pair yet, so there is no further prediction."
        if nearest is None
        else f"The calibration does not cover this pair: {'; '.join(nearest)}."
    )
    return Verdict("uncertain", None, None, (*warned, *told, why), OWN_BASE if _goes_along(measures) else TRY, False)


def _goes_along(measures: Mapping[str, Any]) -> bool:
    """Whether the target went where Δ goes."""
    return (measures["cosine_diff_shift"] or 0.0) >= SHARED_WAY


def _told(measures: Mapping[str, Any]) -> list[str]:
    """What the figures say by themselves."""
    distance = measures["relative_shift"]
    if distance is None or measures["relative_diff"] is None:
        return ["The distance of base and target was not measured."]
    found = [
        f"Base and target are {distance:.3g} of ‖base‖ apart; Δ is {measures['relative_diff']:.3g} of ‖base‖. The closer the "
        f"versions, the more a transfer recovers. {_USUAL}"
    ]
    if _goes_along(measures):
        found.insert(
            0,
            f"Δ and target − base share a direction (cosine {measures['cosine_diff_shift']:.2f}): the target may contain its own "
            "fine-tuning, as an instruct model does. Adding another one did harm in all measured cases.",
        )
    return found


def _foreseen(
    calibration: Calibration, measures: Mapping[str, Any], reasons: tuple[str, ...], *, doubted: bool
) -> Verdict:
    """What a calibration says of a pair that it covers; a gate that warns takes `likely` away."""
    found = calibration.foresee(measures)
    word: Word = "uncertain"
    if found.chance >= calibration.likely and not doubted:
        word = "likely"
    elif found.chance <= calibration.unlikely:
        word = "unlikely"
    succeeded, of = calibration.counted[word]
    told = (
        f"The chance that at least half of the gain is transferred is {found.chance:.0%}, by {calibration.source}. For pairs that it called "
        f"{word} in unseen families, this held for {succeeded} of {of}."
    )
    remedy = None if word == "likely" else TRY if word == "uncertain" else FURTHER
    if remedy is not None and _goes_along(measures):
        remedy = OWN_BASE
    return Verdict(word, found.gain, found.retention, (told, *reasons), remedy, True)
