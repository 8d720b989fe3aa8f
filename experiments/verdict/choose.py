"""Write down what was chosen on the families for choosing; after that, and only then, confirm it once on the others.

    python -m experiments.verdict.choose            families 1 to 8 with a record → docs/results/verdict/choice.json
    python -m experiments.verdict.choose --confirm  asks families from 9 on that have a record, and puts the calibration into the package

Commit choice.json before a record of a family from 9 on is made. A choice is not made again once one has been looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.verdict.family_record import RECORDS
from experiments.verdict.one_family_out import Families, Fit, Foreseen, choose, foresee, judged, one_out
from experiments.verdict.pair_cases import ALL, LARGE_FROM, families_in
from experiments.verdict.pair_predictors import Predictor
from tuneport.comparison.calibration import FORMAT, Calibration, StraightLine, parse_calibration

CHOICE = RECORDS / "choice.json"
PACKAGE = Path(__file__).resolve().parents[2] / "src" / "tuneport" / "comparison" / "calibration.json"
FOR_CHOOSING = range(1, 9)
FOR_CONFIRMING = (*range(9, 21), *(LARGE_FROM + family for family in range(3, 6)))
# Figures whose range is kept: outside it nothing is foreseen.
RANGED = ("parameters", "relative_shift", "relative_diff", "changed_share", "cosine_diff_shift")
_MOST = 0.9  # of a family's pairs lie inside the intervals, in all families but one in so many


def parts(families: Families) -> tuple[Families, Families]:
    """The families for choosing, and those for confirming."""
    chosen, kept = ({n: of for n, of in families.items() if n in some} for some in (FOR_CHOOSING, FOR_CONFIRMING))
    return chosen, kept


def of_kind(families: Families, kind: str) -> Families:
    """The cases of one kind of task that have an outcome."""
    return judged({family: [case for case in cases if case.kind == kind] for family, cases in families.items()})


def calibration_of(families: Families) -> Calibration:
    """What is chosen on these families, fitted on all of them. Needs two."""
    fitted = choose(families)
    left_out = [one for one in one_out(fitted.predictor, families) if not one.case.gated]
    cases = [case for of in families.values() for case in of if not case.gated]
    ranges = {}
    for name in RANGED:
        values = [float(case.figures[name]) for case in cases if case.figures[name] is not None]
        ranges[name] = (min(values), max(values))
    level = len(families) / (len(families) + 1)

    def line(coefficients: Sequence[float], off: Callable[[Foreseen], float] | None = None) -> StraightLine:
        numbers = tuple(float(f"{number:.6g}") for number in coefficients)
        if off is None:
            return StraightLine(numbers)
        below, above = _widest(left_out, off), _widest(left_out, lambda one: -off(one))
        return StraightLine(numbers, below, above, round(level, 3))

    return Calibration(
        source=f"docs/verdict.md ({len(families)} families of models of 0.3 M parameters)",
        families=tuple(families),
        confirmed=(),
        kinds=("llama",),
        ranges=ranges,
        features=fitted.predictor.features,
        chance=line(list(fitted.chance)),
        gain=line(list(fitted.gain), lambda one: one.share - one.case.gain / one.case.known),
        retention=line(list(fitted.retention), lambda one: one.retention - one.case.retention),
        likely=fitted.likely,
        unlikely=fitted.unlikely,
        counted={},
    )


def _widest(foreseen: Sequence[Foreseen], off: Callable[[Foreseen], float]) -> float:
    """The largest, over families, of the bound below which `_MOST` of a family's errors lie; not below 0."""
    by_family: dict[int, list[float]] = {}
    for one in foreseen:
        by_family.setdefault(one.case.family, []).append(off(one))
    return round(max(0.0, *(float(np.quantile(values, _MOST)) for values in by_family.values())), 4)


def as_fit(calibration: Calibration) -> Fit:
    """A written choice as a fit, to ask other families with."""
    chance, gain, kept = (np.array(line.coefficients) for line in _lines(calibration))
    predictor = Predictor("as chosen", calibration.features)
    return Fit(predictor, chance, gain, kept, calibration.likely, calibration.unlikely)


def _lines(calibration: Calibration) -> tuple[StraightLine, StraightLine, StraightLine]:
    return calibration.chance, calibration.gain, calibration.retention


def confirmed(calibration: Calibration, families: Families) -> Calibration:
    """The calibration with what it said of families that had no part in it, counted by word; what gates said apart."""
    said = [one for cases in families.values() for one in foresee(as_fit(calibration), cases) if not one.case.gated]
    counted = {}
    for word in ("likely", "uncertain", "unlikely"):
        outcomes = [bool(one.case.succeeded) for one in said if one.word == word]
        counted[word] = (sum(outcomes), len(outcomes))
    return replace(calibration, confirmed=tuple(families), counted=counted)


def written_choice() -> Calibration | None:
    """The choice that is written down, if there is one."""
    return parse_calibration(json.loads(CHOICE.read_text(encoding="utf-8"))) if CHOICE.exists() else None


def _text(found: Mapping[str, Any]) -> str:
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Choose, or confirm."""
    parser = argparse.ArgumentParser(description="Choose a predictor, or confirm the chosen one.")
    parser.add_argument("--confirm", action="store_true", help="ask the families from 9 on, once")
    options = parser.parse_args(arguments)
    chosen, kept = (of_kind(some, ALL) for some in parts(families_in()))
    if not options.confirm:
        if kept:
            parser.error("a family from 9 on has a record: what was chosen without it stays")
        if len(chosen) < 2:
            parser.error(f"{len(chosen)} families are recorded; choosing needs two, and judging the choice three")
        CHOICE.write_text(_text(calibration_of(chosen).record()), encoding="utf-8")
        return 0
    calibration = written_choice()
    if calibration is None or not kept:
        parser.error("there is no choice.json, or no record of a family from 9 on")
    found = confirmed(calibration, kept)
    PACKAGE.write_text(_text({"format": FORMAT, "calibrations": [found.record()]}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
