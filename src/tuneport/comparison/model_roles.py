"""Check from their matrices whether base, tuned and target have the right roles.

Three models form a triangle: base–tuned is the fine-tuning, base–target is the difference between versions. With the
right roles these two are unrelated, so the angle at the base is nearly a right angle. If another angle is right, or two
models are unrelated, the roles may be wrong. docs/design/comparison.md says what this can and cannot show;
docs/results.md on which models the bounds were chosen.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from statistics import median, pstdev
from typing import Any, Literal

import numpy as np

from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.floats import Floats
from tuneport.comparison.rounding import total
from tuneport.errors import named, recorded
from tuneport.files.lazy_sequences import LazySequence

# Two versions of one model have a cosine well above this in the median matrix, two pretraining runs about 0.
UNRELATED = 0.1
# At the base, with the right roles, the cosine of the two differences is below this in the median matrix.
SHARED = 0.3
# An angle whose cosine is below this counts as a right one, where the one at the base is not.
UPRIGHT = 0.2
# Matrices of less than this part of the largest one's elements say nothing of a model.
SMALL = 1 / 256

Kind = Literal[
    "base-and-target-unrelated",
    "base-and-tuned-unrelated",
    "base-unrelated",
    "all-unrelated",
    "swapped-with-tuned",
    "swapped-with-target",
    "target-holds-it",
    "base-names-tuned",
    "tuned-names-target",
    "target-names-tuned",
]


@dataclass(frozen=True, slots=True)  # one for each matrix
class MatrixSums:
    """What was measured of one matrix, as sums over its elements. NaN: not measured.

    ``diff`` is ‖Δ‖², ``drift`` ‖target − base‖², ``along`` Δ·(target − base); the others are ‖base‖², ‖tuned‖², ‖target‖².
    """

    elements: int
    diff: float = math.nan
    drift: float = math.nan
    along: float = math.nan
    base: float = math.nan
    tuned: float = math.nan
    target: float = math.nan


@dataclass(frozen=True)
class Figures:
    """What the matrices say of three models: medians over the matrices. None: not measured.

    ``base_target``, ``base_tuned`` and ``tuned_target`` are cosines of weights; ``at_base``, ``at_tuned`` and ``at_target``
    those of the triangle's angles: at the base, of tuned − base and target − base.
    """

    matrices: int
    elements: int
    base_target: float | None = None
    base_tuned: float | None = None
    tuned_target: float | None = None
    at_base: float | None = None
    at_tuned: float | None = None
    at_target: float | None = None

    def cosines(self) -> dict[str, float | None]:
        """The medians by name."""
        return {name: getattr(self, name) for name in _READ}


@dataclass(frozen=True)
class Doubt:
    """A doubt about the roles: its kind, a message, and the measures it is based on."""

    kind: Kind
    message: str

    def record(self) -> dict[str, Any]:
        """The doubt as JSON."""
        return {"kind": self.kind, "message": recorded([self.message])[0]}


def sums_of(base: Floats, diff: Floats | None, target: Floats | None) -> MatrixSums:
    """The sums of some elements, in float64; None: not read."""
    base = base.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        found = MatrixSums(base.size, base=float(base @ base))
        if diff is not None:
            diff = diff.astype(np.float64)
            tuned = base + diff
            found = replace(found, diff=float(diff @ diff), tuned=float(tuned @ tuned))
        if target is not None:
            target = target.astype(np.float64)
            drift = target - base
            found = replace(found, target=float(target @ target), drift=float(drift @ drift))
            if diff is not None:
                found = replace(found, along=float(diff @ drift))
        return found


def together(parts: Sequence[MatrixSums]) -> MatrixSums:
    """The sums of several pieces of one matrix."""
    names = [field.name for field in fields(MatrixSums) if field.name != "elements"]
    added = {name: total(getattr(part, name) for part in parts) for name in names}
    return MatrixSums(sum(part.elements for part in parts), **added)


def is_matrix(dtype: str, shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape is a matrix of floats (of whatever number of dimensions, those of 1 left out)."""
    return DTYPES[dtype].kind == "float" and sum(extent > 1 for extent in shape) > 1


def of_size(sizes: Sequence[int]) -> list[bool]:
    """Which matrices are large enough to say something of the model, by their numbers of elements."""
    largest = max(sizes, default=0)
    return [size > 0 and size >= SMALL * largest for size in sizes]


class MatrixColumns:
    """What was measured of many matrices, as columns of numbers."""

    def __init__(self) -> None:
        """None yet."""
        self._elements = array("Q")
        self._sums = {field.name: array("d") for field in fields(MatrixSums) if field.name != "elements"}

    def append(self, matrix: MatrixSums) -> None:
        """Add one."""
        self._elements.append(matrix.elements)
        for name, column in self._sums.items():
            column.append(getattr(matrix, name))

    def large(self) -> Sequence[MatrixSums]:
        """Those that are large enough to say something of the model."""
        places = array("Q", (place for place, counts in enumerate(of_size(self._elements)) if counts))
        columns = list(self._sums.values())

        def make(number: int) -> MatrixSums:
            place = places[number]
            return MatrixSums(self._elements[place], *(column[place] for column in columns))

        return LazySequence(len(places), make)


def pooled_cosines(matrices: Iterable[MatrixSums]) -> tuple[float | None, float | None]:
    """Over all matrices together: the cosine of Δ and target − base, and that of base and target."""
    angles, related = [array("d"), array("d"), array("d")], [array("d"), array("d"), array("d")]
    for m in matrices:
        if not math.isfinite(m.along + m.diff + m.drift):
            continue
        for column, value in zip(angles, (m.along, m.diff, m.drift), strict=True):
            column.append(value)
        if math.isfinite(m.base + m.target):
            for column, value in zip(related, ((m.base + m.target - m.drift) / 2, m.base, m.target), strict=True):
                column.append(value)
    return _cosine(*map(total, angles)), _cosine(*map(total, related))


def figures(matrices: Sequence[MatrixSums]) -> Figures:
    """The medians of what each matrix says."""
    found = {name: _median(map(read, matrices)) for name, read in _READ.items()}
    return Figures(len(matrices), sum(m.elements for m in matrices), **found)


def margin(matrices: Sequence[MatrixSums], name: str) -> float:
    """How far a median of a sample of matrices, each sampled, may be from that of all: three standard errors."""
    known = [value for m in matrices if (value := _READ[name](m)) is not None]
    if not known:
        return math.inf
    spread = (
        1.2533 * pstdev(known) / math.sqrt(len(known))
    )  # of a median, where the values are as a normal law has them
    return 3 * math.hypot(spread, 1 / math.sqrt(sum(m.elements for m in matrices)))


def doubts(
    found: Figures, error: Callable[[str], float] = lambda name: 0.0, *, taken_away: bool = False
) -> tuple[Doubt, ...]:
    """Doubts about the roles from the measures; at most one of each kind.

    ``error`` bounds, for a sample, how far a figure may be from that of all elements: what is within it is not doubted. With
    ``taken_away`` (a negative scale) the difference is to be undone, and a target that holds it is what it should be.
    """
    chance = 2 / math.sqrt(max(found.elements, 1))  # two random directions have a cosine of 1/√elements or so
    strange = {
        name: value is not None and value + error(name) < UNRELATED + chance
        for name, value in (
            ("base_target", found.base_target), ("base_tuned", found.base_tuned), ("tuned_target", found.tuned_target),
        )
    }  # fmt: skip
    if strange["base_target"] or strange["base_tuned"]:
        return (_unrelated(found, strange),)
    if found.at_base is not None and found.at_base - error("at_base") > SHARED + chance:
        shared = _shared(found)
        return () if taken_away and shared.kind in ("target-holds-it", "swapped-with-tuned") else (shared,)
    return ()


def _unrelated(found: Figures, strange: dict[str, bool]) -> Doubt:
    """Models that do not descend from one pretraining."""
    told = [
        f"{words} {value:.3f}"
        for words, value in (
            ("base and target", found.base_target), ("base and tuned", found.base_tuned),
            ("tuned and target", found.tuned_target),
        )
        if value is not None
    ]  # fmt: skip
    measured = f"Cosines of their weights (median of {found.matrices} matrices): {', '.join(told)}. Versions of one model have "
    measured += f"far more than {UNRELATED}; models of two pretraining runs have about 0."
    if not strange["base_tuned"]:
        return Doubt(
            "base-and-target-unrelated",
            f"base and target look unrelated. {measured} A diff vector has no meaning on an unrelated model: check "
            f"that {named('base')} and {named('onto')} are versions of one model.",
        )
    if not strange["base_target"]:
        return Doubt(
            "base-and-tuned-unrelated",
            f"base and tuned look unrelated. {measured} Then their difference is not a fine-tuning: check that "
            f"{named('tuned')} was fine-tuned from {named('base')}.",
        )
    if found.tuned_target is not None and not strange["tuned_target"]:
        return Doubt(
            "base-unrelated",
            f"base looks unrelated to tuned and target, which are related to each other. {measured} Check that "
            f"{named('base')} is the model that {named('tuned')} was fine-tuned from.",
        )
    return Doubt(
        "all-unrelated",
        f"base looks unrelated to tuned and to target. {measured} Check that all three descend from one model.",
    )


def _shared(found: Figures) -> Doubt:
    """Tuned and target moved from the base in one direction: the other right angles suggest why."""
    assert found.at_base is not None
    measured = (
        f"tuned − base and target − base point the same way (cosine {found.at_base:.2f}, median of {found.matrices} "
        "matrices; with the right roles about 0)"
    )
    others = [
        (abs(value), name)
        for name, value in (("tuned", found.at_tuned), ("target", found.at_target))
        if value is not None
    ]
    upright = min(others, default=(math.inf, ""))
    if upright[0] < UPRIGHT and upright[1] == "tuned":
        return Doubt(
            "swapped-with-tuned",
            f"base and tuned look swapped, or the target was made from the tuned model: {measured}. Seen from the "
            f"tuned model, the other two lie in unrelated directions (cosine {found.at_tuned:.2f}). Check "
            f"{named('base')} and {named('tuned')}, and that {named('onto')} does not contain the fine-tuning already.",
        )
    if upright[0] < UPRIGHT:
        return Doubt(
            "swapped-with-target",
            f"base and target look swapped, or the tuned model was made from the target: {measured}. Seen from the "
            f"target, the other two lie in unrelated directions (cosine {found.at_target:.2f}). Check that "
            f"{named('tuned')} was fine-tuned from {named('base')}, and not from {named('onto')}.",
        )
    return Doubt(
        "target-holds-it",
        f"the target seems to contain some of this fine-tuning already: {measured}. Check that {named('base')} is the "
        f"model that "
        f"{named('tuned')} was fine-tuned from, and that {named('onto')} was not fine-tuned for the same task.",
    )


def _weights(one: str, other: str, apart: Callable[[MatrixSums], float]) -> Callable[[MatrixSums], float | None]:
    """The cosine of two models' weights, from their lengths and their distance."""

    def read(m: MatrixSums) -> float | None:
        squares = getattr(m, one), getattr(m, other)
        return _cosine((squares[0] + squares[1] - apart(m)) / 2, *squares)

    return read


def _across(m: MatrixSums) -> float:
    """‖target − tuned‖², the side that lies opposite to the base."""
    return m.diff + m.drift - 2 * m.along


_READ: dict[str, Callable[[MatrixSums], float | None]] = {
    "base_target": _weights("base", "target", lambda m: m.drift),
    "base_tuned": _weights("base", "tuned", lambda m: m.diff),
    "tuned_target": _weights("tuned", "target", _across),
    "at_base": lambda m: _cosine(m.along, m.diff, m.drift),
    "at_tuned": lambda m: _cosine(m.diff - m.along, m.diff, _across(m)),
    "at_target": lambda m: _cosine(m.drift - m.along, m.drift, _across(m)),
}
assert _READ.keys() == {field.name for field in fields(Figures)} - {"matrices", "elements"}


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(median(known)) if known else None


def _cosine(product: float, one: float, other: float) -> float | None:
    length = math.sqrt(one) * math.sqrt(other) if one >= 0 and other >= 0 else math.nan
    return product / length if length > 0 and math.isfinite(length) and math.isfinite(product) else None
