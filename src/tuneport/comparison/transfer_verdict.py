"""The verdict on a transfer, before it is run: a word, its reasons, and what else to try.

Gates come first. What is between them was calibrated on families of tiny models (docs/verdict.md); outside the range that these
cover, the word is `uncertain`, and the reasons say why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tuneport.comparison.gates import Gate

Word = Literal["likely", "uncertain", "unlikely"]
RANK: Mapping[str, int] = {"likely": 0, "uncertain": 1, "unlikely": 2}


@dataclass(frozen=True)
class Verdict:
    """``gain`` and ``retention`` are predicted intervals (low, middle, high), None where there is no prediction.

    ``gain`` is the share of the fine-tuning's gain that is expected on the target, ``retention`` the share of what the target could
    do that is expected to stay. ``calibrated``: the pair lies in the range on which the predictor was fitted.
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


def verdict_of(measures: Mapping[str, Any], gates: Sequence[Gate]) -> Verdict:
    """The verdict from the figures of a comparison (`MeasuredTensors.whole`) and its gates."""
    failed = [gate for gate in gates if gate.status == "fail"]
    if failed:
        reasons = tuple(f"{gate.name}: {gate.reason}" for gate in failed)
        return Verdict("unlikely", None, None, reasons, None, calibrated=False)
    warned = tuple(f"{gate.name}: {gate.reason}" for gate in gates if gate.status == "warn")
    distance = measures["relative_shift"]
    told = (
        "The distance of base and target was not measured."
        if distance is None
        else (
            f"Base and target lie {distance:.3g} of ‖base‖ apart, and Δ is {measures['relative_diff']:.3g} of it; the smaller the "
            "distance, the more carries over."
        )
    )
    reasons = (*warned, told, "No calibration covers this pair yet, so nothing more is said.")
    return Verdict(
        "uncertain", None, None, reasons, "Transfer, evaluate on a few examples, and compare with the base.", False
    )
