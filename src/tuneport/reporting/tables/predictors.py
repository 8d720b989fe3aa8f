"""What might predict how well a transfer works, compared with how well it did: distances, cosines and barriers.

Makes points from the paths, distances and recovered gains of a study, one for each pair of versions, and the rank
correlation of each predictor. Barriers come from the path on which they were measured, and are never computed here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuneport import statistics
from tuneport.reporting.tables.estimates import Estimates
from tuneport.reporting.tables.wording import DASH
from tuneport.results.compared_models import base_of, tuned_of
from tuneport.results.schema import TRANSFER, Model
from tuneport.results.study_reading import Reading
from tuneport.results.torn_json import number_or, text_or, whole
from tuneport.statistics import Estimate

FEWEST = 5  # points: fewer look like a trend whatever they are
# In the order in which they are shown: what is drawn, and in which unit.
PREDICTORS = {
    "distance": ("distance between the versions", "‖M_i − M_j‖"),
    "cosine": ("cosine of the two diff vectors", "cos(Δ_i, Δ_j)"),
    "barrier of bases": ("barrier between the versions", "nats per token"),
    "barrier of tuned": ("barrier between the tuned versions", "nats per token"),
    "barrier of transferred": ("barrier from target + Δ to the tuned target", "nats per token"),
    "apart": ("number of versions between them", "|i − j|"),
}
_WHICH = {"bases": "barrier of bases", "tuned": "barrier of tuned", "transferred to tuned": "barrier of transferred"}


@dataclass(frozen=True)
class PairPoint:
    """One pair of versions: a predictor's value, and how much of the target's gain Δ recovered."""

    source: str
    target: str
    tuning: str | None
    x: float
    y: Estimate
    families: int


@dataclass(frozen=True)
class Scatter:
    """One predictor on one task."""

    predictor: str
    task: str
    points: tuple[PairPoint, ...]
    rank_correlation: float | None


@dataclass(frozen=True)
class Line:
    """Loss along one path, of one family and seed."""

    name: str
    which: str
    target: str
    family: int | None
    seed: int | None
    alphas: tuple[float, ...]
    loss: tuple[float, ...]
    accuracy: tuple[float, ...] | None
    barrier: float | None
    interval: tuple[float, float] | None
    at: float | None
    threshold: float | None
    connected: bool | None
    n: int | None

    @property
    def verdict(self) -> str:
        """Whether it is connected, in words; a dash where no barrier was held against a threshold."""
        if self.connected is None and (self.interval is None or self.threshold is None):
            return DASH
        return {True: "yes", False: "no", None: "unclear"}[self.connected]


@dataclass(frozen=True)
class Apart:
    """How far two versions lie from each other, how long their diff vectors are, and how alike; None: not measured."""

    a: str
    b: str
    tuning: str | None
    family: int | None
    seed: int | None
    distance: float
    diff_norm_a: float | None
    diff_norm_b: float | None
    cosine: float | None


def scatters(reading: Reading, estimates: Estimates) -> list[Scatter]:
    """Each predictor against recovered gain, on each task where there is something to see."""
    values = _predicted(reading)
    transfers = dict.fromkeys(
        run.model for run in reading.at_end if run.model.kind == TRANSFER and run.model.scale == 1
    )
    found = []
    for task in estimates.tasks:
        gains = {}
        for model in transfers:
            gain = estimates.recovered(base_of(model), model, tuned_of(model), task)
            if gain is not None:
                gains[model] = gain
        for predictor in PREDICTORS:
            points = []
            for model, gain in gains.items():
                x = _of(values[predictor], model)
                if x:
                    points.append(
                        PairPoint(str(model.source), model.target, model.tuning, float(np.mean(x)), gain, len(x))
                    )
            if len(points) >= FEWEST:
                found.append(Scatter(predictor, task, tuple(points), rank_correlation(points)))
    # Versions apart is the rival to beat: it says nothing by itself.
    measured = {scatter.task for scatter in found if scatter.predictor != "apart"}
    return [scatter for scatter in found if scatter.task in measured]


def lines(reading: Reading) -> list[Line]:
    """All paths, as far as they can be drawn."""
    found = []
    for row in reading.paths:
        alphas, loss, accuracy, interval = (
            _numbers(row.get(name)) for name in ("alphas", "loss", "accuracy", "interval")
        )
        if not alphas or len(alphas) != len(loss):
            continue
        a, b = str(row.get("a", "A")), str(row.get("b", "B"))
        connected = row.get("connected")
        found.append(
            Line(
                name=f"{a} – {b}",
                which=text_or(row.get("which"), "between two models"),
                target=text_or(row.get("target"), b),
                family=whole(row.get("family")),
                seed=whole(row.get("seed")),
                alphas=alphas,
                loss=loss,
                accuracy=accuracy if len(accuracy) == len(alphas) else None,
                barrier=number_or(row.get("barrier"), None),
                interval=(interval[0], interval[1]) if len(interval) == 2 else None,
                at=number_or(row.get("at"), None),
                threshold=number_or(row.get("threshold"), None),
                connected=connected if isinstance(connected, bool) else None,
                n=whole(row.get("n")),
            )
        )
    return found


def distances(reading: Reading) -> list[Apart]:
    """All distances that were measured."""
    found = []
    for row in reading.distances:
        a, b, distance = row.get("a"), row.get("b"), number_or(row.get("distance"), None)
        if isinstance(a, str) and isinstance(b, str) and distance is not None:
            others = (number_or(row.get(name), None) for name in ("diff_norm_a", "diff_norm_b", "cosine"))
            which = (text_or(row.get("tuning"), None), whole(row.get("family")), whole(row.get("seed")))
            found.append(Apart(a, b, *which, distance, *others))
    return found


def rank_correlation(points: Sequence[PairPoint]) -> float | None:
    """Spearman's; None if one side is constant."""
    return statistics.rank_correlation([p.x for p in points], [p.y.value for p in points])


# Two versions, in the order (source, target) where that counts, and the tuning where that does.
Key = tuple[tuple[str, str] | frozenset[str], str | None]


def _predicted(reading: Reading) -> dict[str, dict[Key, list[float]]]:
    """By predictor and pair, the values of all families and seeds."""
    found: dict[str, dict[Key, list[float]]] = {predictor: defaultdict(list) for predictor in PREDICTORS}
    for row in reading.paths:
        predictor, barrier = _WHICH.get(str(row.get("which"))), number_or(row.get("barrier"), None)
        source, target = row.get("source"), row.get("target")
        if predictor is None or barrier is None or not isinstance(source, str) or not isinstance(target, str):
            continue
        directed = predictor == "barrier of transferred"
        pair = (source, target) if directed else frozenset((source, target))
        tuning = None if predictor == "barrier of bases" else text_or(row.get("tuning"), None)
        found[predictor][pair, tuning].append(barrier)
    for apart in distances(reading):
        pair = frozenset((apart.a, apart.b))
        found["distance"][pair, None].append(apart.distance)
        if apart.cosine is not None:
            found["cosine"][pair, apart.tuning].append(apart.cosine)
    place = {name: number for number, name in enumerate(reading.versions)}
    for run in reading.runs:
        source, target = run.model.source, run.model.target
        if run.model.kind == TRANSFER and source in place and target in place:
            found["apart"][frozenset((source, target)), None] = [float(abs(place[source] - place[target]))]
    return found


def _of(values: Mapping[Key, list[float]], model: Model) -> list[float]:
    """What is known of a transfer's pair, with its direction where that counts, and its tuning where that does."""
    assert model.source is not None
    for pair in ((model.source, model.target), frozenset((model.source, model.target))):
        for tuning in (model.tuning, None):
            if values.get((pair, tuning)):
                return values[pair, tuning]
    return []


def _numbers(value: Any) -> tuple[float, ...]:
    found = tuple(number_or(each, None) for each in value) if isinstance(value, list | tuple) else ()
    return tuple(each for each in found if each is not None) if None not in found else ()
