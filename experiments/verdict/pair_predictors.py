"""What may foresee a transfer's success: figures of `compare`, and the rivals that any of them has to beat.

A predictor is a list of features of a case; a rival's need no weights, or the distance alone. Features that `compare` prints are
`Feature`s of the package, so that a fit can become its calibration. Those from prompts (`probe_pairs`) stand beside; what is chosen
is from weights, so that a verdict needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from experiments.verdict.pair_cases import Case
from tuneport.comparison.calibration import Feature
from tuneport.statistics import Matrix


@dataclass(frozen=True)
class Predictor:
    """A name, and what it reads: features of the weights, or (a rival) what is known without them."""

    name: str
    features: tuple[Feature, ...] = ()
    known: Callable[[Case], float] | None = field(default=None, compare=False)

    @property
    def rival(self) -> bool:
        """Whether it stands here to be beaten."""
        return self.name in RIVALS

    def of(self, cases: Sequence[Case]) -> Matrix:
        """Cases × features."""
        rows = [
            [
                *(feature.of(case.figures) for feature in self.features),
                *([] if self.known is None else [self.known(case)]),
            ]
            for case in cases
        ]
        return np.array(rows, dtype=np.float64).reshape(len(cases), -1)


_SHIFT, _DIFF = Feature("relative_shift", "log"), Feature("relative_diff", "log")
_ALONG, _OPPOSED = Feature("cosine_diff_shift"), Feature("opposed_share")
_MATRICES = Feature("matrices.relative_shift", "log")
_INNER, _INNER_ALONG = Feature("inner.relative_shift", "log"), Feature("inner.cosine_diff_shift")
_INNER_DIFF = Feature("inner.relative_diff", "log")
RIVALS = ("constant", "same block", "|i − j|", "tokens between", "distance alone")
PREDICTORS = (
    Predictor("constant"),
    Predictor("same block", known=lambda case: float(case.same_block)),
    Predictor("|i − j|", known=lambda case: float(case.places_between)),
    Predictor("tokens between", known=lambda case: math.log(case.steps_between)),
    Predictor("distance alone", (_SHIFT,)),
    Predictor("distance of the matrices", (_MATRICES,)),
    Predictor("distance within the layers", (_INNER,)),
    Predictor("distance within the layers, cosine of Δ and shift there", (_INNER, _INNER_ALONG)),
    Predictor("distance within the layers, ‖Δ‖ and cosine of Δ and shift there", (_INNER, _INNER_DIFF, _INNER_ALONG)),
    Predictor("1 − cosine of the versions", (Feature("cosine_base_target", "log one minus"),)),
    Predictor("‖Δ‖ against the distance", (Feature("diff_over_shift", "log"),)),
    Predictor("distance and ‖Δ‖", (_SHIFT, _DIFF)),
    Predictor("distance and cosine of Δ and shift", (_SHIFT, _ALONG)),
    Predictor("distance, ‖Δ‖ and cosine of Δ and shift", (_SHIFT, _DIFF, _ALONG)),
    Predictor("distance and share opposed", (_SHIFT, _OPPOSED)),
)
_ALIKE, _LEFT = Feature("probe.alike"), Feature("probe.loss_left", "log of a tenth and more")
FROM_PROMPTS = (
    Predictor("prompts: answered alike", (_ALIKE,)),
    Predictor("prompts: loss left of the answers", (_LEFT,)),
    Predictor("prompts: answered alike, and distance", (_ALIKE, _SHIFT)),
)
BY_NAME = {predictor.name: predictor for predictor in PREDICTORS}
CANDIDATES = tuple(predictor for predictor in PREDICTORS if predictor.features)


def measured_in(cases: Iterable[Case]) -> tuple[Predictor, ...]:
    """Those whose figures all of these cases have: all from weights, and those from prompts where prompts were asked."""
    asked = [case for case in cases if not case.gated]
    return (*PREDICTORS, *(each for each in FROM_PROMPTS if asked and bool(np.isfinite(each.of(asked)).all())))
