"""Predictors judged on families that they have not seen: leave one family out, and choose inside what is left.

In come the cases of one kind of task by family, out comes what each predictor, and the one that was chosen in each fold, foresaw.
Cases in which a gate failed are not foreseen: their word is `unlikely`. Families count alike, whatever number of cases they have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.verdict import fitting
from experiments.verdict.pair_cases import Case
from experiments.verdict.pair_predictors import CANDIDATES, Predictor
from tuneport.statistics import Matrix

MISSED = 0.1  # of the pairs that are called likely, at most so many may fail; of those called unlikely, succeed
_NEVER_LIKELY, _NEVER_UNLIKELY = 1.01, -0.01
Families = Mapping[int, Sequence[Case]]


@dataclass(frozen=True)
class Fit:
    """A predictor, fitted: lines for the chance, for the share of the gain and for the retention, and the two thresholds."""

    predictor: Predictor
    chance: Matrix
    gain: Matrix
    retention: Matrix
    likely: float = _NEVER_LIKELY
    unlikely: float = _NEVER_UNLIKELY
    rates: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of success, where it says likely, uncertain, unlikely

    def word(self, chance: float) -> str:
        """What is said at this chance."""
        return "likely" if chance >= self.likely else "unlikely" if chance <= self.unlikely else "uncertain"


@dataclass(frozen=True)
class Foreseen:
    """One case, and what was foreseen of it by a fit that had not seen its family."""

    case: Case
    chance: float
    gain: float  # in points
    share: float
    retention: float
    word: str
    rate: float  # how often pairs of this word succeeded where the word was chosen


def judged(families: Families) -> Families:
    """The cases with an outcome."""
    return {family: [case for case in cases if case.succeeded is not None] for family, cases in families.items()}


def fit(predictor: Predictor, families: Families) -> Fit:
    """The predictor's lines through the cases of these families that no gate stops."""
    cases = [case for of_family in families.values() for case in of_family if not case.gated]
    weights = np.array([1 / sum(not other.gated for other in families[case.family]) for case in cases]) * len(cases)
    weights = weights / len(families)
    features = predictor.of(cases)
    known = np.array([case.known for case in cases])
    succeeded = np.array([float(bool(case.succeeded)) for case in cases])
    share = np.array([case.gain for case in cases]) / known
    return Fit(
        predictor,
        fitting.logistic(features, succeeded, weights),
        fitting.straight(features, share, weights * known**2),  # least squares in points, so small gains say little
        fitting.straight(features, np.array([case.retention for case in cases]), weights),
    )


def foresee(fitted: Fit, cases: Sequence[Case]) -> list[Foreseen]:
    """What a fit says of cases."""
    features = np.nan_to_num(fitted.predictor.of(cases))  # only where a gate failed is a figure missing
    chances = fitting.chance(fitted.chance, features)
    shares = np.clip(fitting.at(fitted.gain, features), 0, 1)
    retentions = np.clip(fitting.at(fitted.retention, features), 0, 1)
    found = []
    for case, chance, share, retention in zip(cases, chances, shares, retentions, strict=True):
        if case.gated:
            found.append(Foreseen(case, 0.0, 0.0, 0.0, float(retention), "unlikely", 0.0))
            continue
        word = fitted.word(chance)
        rate = fitted.rates[("likely", "uncertain", "unlikely").index(word)]
        found.append(
            Foreseen(case, float(chance), float(share * case.known), float(share), float(retention), word, rate)
        )
    return found


def brier(foreseen: Sequence[Foreseen]) -> float:
    """Mean square of chance − outcome; families count alike."""
    return _over_families(foreseen, lambda one: (one.chance - float(bool(one.case.succeeded))) ** 2)


def brier_of_words(foreseen: Sequence[Foreseen]) -> float:
    """The same of the three words, each read as the rate at which it held where it was chosen."""
    return _over_families(foreseen, lambda one: (one.rate - float(bool(one.case.succeeded))) ** 2)


def off_in_points(foreseen: Sequence[Foreseen]) -> float:
    """Mean absolute error of the gain, in points (0 to 1)."""
    return _over_families(foreseen, lambda one: abs(one.gain - one.case.gain))


def off_in_retention(foreseen: Sequence[Foreseen]) -> float:
    """Mean absolute error of the retention."""
    return _over_families(foreseen, lambda one: abs(one.retention - one.case.retention))


def _over_families(foreseen: Sequence[Foreseen], measure: Callable[[Foreseen], float]) -> float:
    by_family: dict[int, list[float]] = {}
    for one in foreseen:
        by_family.setdefault(one.case.family, []).append(measure(one))
    return float(np.mean([np.mean(values) for values in by_family.values()]))


def one_out(predictor: Predictor, families: Families) -> list[Foreseen]:
    """Each family's cases, foreseen by a fit on all others. Needs two families."""
    found: list[Foreseen] = []
    for family, cases in families.items():
        others = {other: of for other, of in families.items() if other != family}
        found += foresee(fit(predictor, others), cases)
    return found


def choose(families: Families, candidates: Sequence[Predictor] = CANDIDATES) -> Fit:
    """The candidate with the smallest Brier score on families left out one at a time, its thresholds, and a fit on all.

    With one family there is nothing to leave out: the distance is taken, and nothing is ever called likely.
    """
    if len(families) < 2:
        return fit(candidates[0], families)
    inner = {predictor.name: one_out(predictor, families) for predictor in candidates}
    best = min(candidates, key=lambda predictor: brier(inner[predictor.name]))
    foreseen = [one for one in inner[best.name] if not one.case.gated]
    likely, unlikely = thresholds(foreseen)
    fitted = fit(best, families)
    words = Fit(best, fitted.chance, fitted.gain, fitted.retention, likely, unlikely)
    said = [words.word(one.chance) for one in foreseen]
    rates = []
    for word in ("likely", "uncertain", "unlikely"):
        outcomes = [float(bool(one.case.succeeded)) for one, of in zip(foreseen, said, strict=True) if of == word]
        rates.append((sum(outcomes) + 0.5) / (len(outcomes) + 1))
    return Fit(best, fitted.chance, fitted.gain, fitted.retention, likely, unlikely, (rates[0], rates[1], rates[2]))


def thresholds(foreseen: Sequence[Foreseen]) -> tuple[float, float]:
    """The lowest chance from which on at most `MISSED` failed, and the highest up to which at most as many succeeded."""
    chances = np.array([one.chance for one in foreseen])
    succeeded = np.array([bool(one.case.succeeded) for one in foreseen])
    likely, unlikely = _NEVER_LIKELY, _NEVER_UNLIKELY
    for level in np.round(np.arange(0.95, 0.49, -0.05), 2):
        called = chances >= level
        if called.any() and (~succeeded[called]).mean() <= MISSED:
            likely = float(level)
    for level in np.round(np.arange(0.05, 0.51, 0.05), 2):
        called = chances <= level
        if called.any() and succeeded[called].mean() <= MISSED:
            unlikely = float(level)
    return likely, min(unlikely, round(likely - 0.01, 2))


def chosen_in_fold(
    families: Families, candidates: Sequence[Predictor] = CANDIDATES
) -> tuple[list[Foreseen], dict[int, str]]:
    """Each family foreseen by what was chosen without it, and what that was. Needs three families."""
    found: list[Foreseen] = []
    names = {}
    for family, cases in families.items():
        fitted = choose({other: of for other, of in families.items() if other != family}, candidates)
        names[family] = fitted.predictor.name
        found += foresee(fitted, cases)
    return found, names
