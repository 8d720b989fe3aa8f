"""Predict whether a transfer of a pair succeeds, from transfers in families of models.

calibration.json holds it: of each calibration the range in which it holds, which figures it reads, and its coefficients.
`experiments/verdict` fits them; docs/verdict.md shows how well they foresaw families that had no part in the fit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

FORMAT = "tuneport.calibration/1"
Interval = tuple[float, float, float]
_TRANSFORMS: Mapping[str, Callable[[float], float]] = {
    "plain": lambda value: value,
    "log": lambda value: math.log(value) if value > 0 else math.nan,
    "log of a tenth and more": lambda value: math.log(0.1 + max(value, 0.0)),
    "log one minus": lambda value: math.log(1 - value) if value < 1 else math.nan,
}


@dataclass(frozen=True)
class Feature:
    """A figure of a comparison, and how it enters: plain or as a logarithm. ``PART.NAME`` is one of a part, as of ``matrices``."""

    figure: str
    transform: str = "plain"

    def of(self, figures: Mapping[str, Any]) -> float:
        """Its value; NaN where the figure was not measured."""
        part, _, name = self.figure.rpartition(".")
        value = ((figures.get(part) or {}) if part else figures).get(name)
        return math.nan if value is None else _TRANSFORMS[self.transform](float(value))


@dataclass(frozen=True)
class StraightLine:
    """A straight line in the features, the constant first; ``below`` and ``above`` are how far off it was, at ``level``."""

    coefficients: tuple[float, ...]
    below: float = 0.0
    above: float = 0.0
    level: float = 0.0

    def at(self, values: Sequence[float]) -> float:
        """Its value at these features."""
        first, *others = self.coefficients
        return first + math.fsum(c * v for c, v in zip(others, values, strict=True))

    def interval(self, values: Sequence[float]) -> Interval:
        """Low, middle and high, within 0 to 1."""
        middle = self.at(values)
        low, mid, high = (min(max(x, 0.0), 1.0) for x in (middle - self.below, middle, middle + self.above))
        return low, mid, high


@dataclass(frozen=True)
class Foreseen:
    """What a calibration says of a pair: the chance that it succeeds, and intervals of gain and retention."""

    chance: float
    gain: Interval
    retention: Interval


@dataclass(frozen=True)
class Calibration:
    """One fit, and where it holds.

    ``families`` took part in it, ``confirmed`` had no part and were asked once. ``ranges`` are by figure, lowest and highest seen.
    A chance of ``likely`` or more is called so, one of ``unlikely`` or less too. ``counted`` says of each word how many of the pairs
    that it was said of succeeded, in families that had no part in the fit.
    """

    source: str
    families: tuple[int, ...]
    confirmed: tuple[int, ...]
    kinds: tuple[str, ...]
    ranges: Mapping[str, tuple[float, float]]
    features: tuple[Feature, ...]
    chance: StraightLine
    gain: StraightLine
    retention: StraightLine
    likely: float
    unlikely: float
    counted: Mapping[str, tuple[int, int]]

    def outside(self, figures: Mapping[str, Any], kind: str | None) -> list[str]:
        """Messages for what is outside the calibration's range; empty if it covers the pair."""
        found = []
        if kind not in self.kinds:
            found.append(f"its models are {' or '.join(self.kinds)}, these are {kind or 'of an unknown kind'}")
        for name, (low, high) in self.ranges.items():
            value = Feature(name).of(figures)
            if not low <= value <= high:
                shown = "not measured" if math.isnan(value) else f"{value:.3g}"
                found.append(f"{name} is {shown}, but the range is {low:.3g} to {high:.3g}")
        return found

    def foresee(self, figures: Mapping[str, Any]) -> Foreseen:
        """Its prediction for a pair inside the range."""
        values = [feature.of(figures) for feature in self.features]
        chance = 1 / (1 + math.exp(-max(-50.0, min(50.0, self.chance.at(values)))))
        return Foreseen(chance, self.gain.interval(values), self.retention.interval(values))

    def record(self) -> dict[str, Any]:
        """The calibration as JSON."""
        return asdict(self)


def parse_calibration(found: Mapping[str, Any]) -> Calibration:
    """A calibration from its JSON."""
    lines = {name: _line(found[name]) for name in ("chance", "gain", "retention")}
    return Calibration(
        source=found["source"],
        families=tuple(found["families"]),
        confirmed=tuple(found["confirmed"]),
        kinds=tuple(found["kinds"]),
        ranges={name: (low, high) for name, (low, high) in found["ranges"].items()},
        features=tuple(Feature(**feature) for feature in found["features"]),
        likely=found["likely"],
        unlikely=found["unlikely"],
        counted={word: (succeeded, of) for word, (succeeded, of) in found["counted"].items()},
        **lines,
    )


def _line(found: Mapping[str, Any]) -> StraightLine:
    return StraightLine(**{**found, "coefficients": tuple(found["coefficients"])})


@cache
def calibrations() -> tuple[Calibration, ...]:
    """Those that the package holds, none if nothing was confirmed yet."""
    content = json.loads((files("tuneport.comparison") / "calibration.json").read_text(encoding="utf-8"))
    assert content["format"] == FORMAT
    return tuple(map(parse_calibration, content["calibrations"]))
