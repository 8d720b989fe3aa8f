"""Scores, differences and recovered gains with 95 % intervals, all from one joint bootstrap.

Based on the runs of a study and their outcomes for each example. Within a family all models share each draw of
examples, so they are compared in pairs; families are drawn too (SEMANTICS, Measures: crossed bootstrap over families
and examples). Fine-tuning seeds are averaged first. If outcomes are missing, a model is drawn separately from its
values and standard errors; this makes differences wider, not narrower, as long as models err alike. Its seeds answer
the same examples, so they share that draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tuneport import statistics
from tuneport.results.example_scores import Answered, read_outcomes
from tuneport.results.schema import STEPS, TRANSFER, Model, Run, Score
from tuneport.statistics import Estimate, families_drawn

Array = npt.NDArray[np.float64]
Key = TypeVar("Key")
LEVEL = 0.05
_LEAST, _FOR_EACH = 4000, 200  # as in results/comparing.py: Holm has to leave something to say
_Z = 1.959963984540054


@dataclass(frozen=True)
class ShownScore:
    """A model's value on a task: with its interval where there is one, and what it rests on."""

    value: float
    interval: tuple[float, float] | None
    n: int
    families: int
    seeds: int
    score: Score  # metric and direction


@dataclass(frozen=True)
class Change:
    """A difference between two models, positive where the first is better."""

    value: float
    interval: tuple[float, float] | None
    p: float
    paired: bool


@dataclass
class _Cell:
    """One model on one task in one family: the mean over seeds, and its resampled values."""

    value: float
    drawn: Array | None
    group: int  # cells of one group were drawn on the same examples
    answered: Answered | None  # of a single run
    runs: int
    score: Score
    n: int


@dataclass(frozen=True)
class _Part:
    """One run on one task, resampled."""

    run: Run
    drawn: Array | None
    group: int
    answered: Answered | None


class Estimates:
    """Everything that can be said about the models of a study at the end of their training."""

    def __init__(self, runs: Iterable[Run], root: Path, seed: int = 0) -> None:
        """Read the outcomes of all `runs` and draw."""
        done = [run for run in runs if run.step is None and run.scores]
        transfers = len({run.model for run in done if run.model.kind == TRANSFER})
        self.resamples = max(_LEAST, _FOR_EACH * transfers)
        self._seed = seed
        self._cells: dict[tuple[Model, str], dict[int | None, _Cell]] = {}
        self.without_outcomes = 0
        for family in dict.fromkeys(run.family for run in done):
            self._draw_family(family, [run for run in done if run.family == family], root)
        self.tasks = tuple(dict.fromkeys(task for run in done for task in run.scores))
        self._chosen: dict[int, Array] = {}

    def value(self, model: Model, task: str) -> ShownScore | None:
        """The model's mean over families; None where it has no score."""
        cells = self._cells.get((model, task))
        if not cells:
            return None
        found = list(cells.values())
        first = found[0]
        value = float(np.mean([cell.value for cell in found]))
        if len(found) == 1 and first.runs == 1 and first.score.counts and first.n:
            interval = interval_of(first.score)
        else:
            drawn = self._over_families([cell.drawn for cell in found])
            interval = None if drawn is None else statistics.central(drawn)
        return ShownScore(value, interval, first.n, len(found), max(cell.runs for cell in found), first.score)

    def change(self, model: Model, than: Model, task: str) -> Change | None:
        """How much better `model` is than `than`, over the families that have both."""
        mine, theirs = self._cells.get((model, task), {}), self._cells.get((than, task), {})
        both = [family for family in mine if family in theirs]
        if not both:
            return None
        sign = 1.0 if mine[both[0]].score.higher_is_better else -1.0
        value = float(np.mean([mine[f].value - theirs[f].value for f in both]))
        paired = all(mine[f].group == theirs[f].group for f in both)
        drawn = self._over_families([_minus(mine[f].drawn, theirs[f].drawn) for f in both])
        if drawn is None:
            return Change(sign * value, None, 1.0, paired)
        drawn = sign * drawn
        one, other = (of[both[0]].answered if len(both) == 1 else None for of in (mine, theirs))
        if paired and one is not None and other is not None:
            exact = one.right_or_wrong and other.right_or_wrong
            p, _ = statistics.tested(other.scores, one.scores, drawn, right_or_wrong=exact)
        else:
            p = 1.0 if value == 0 and not drawn.any() else statistics.bootstrap_p(drawn)
        return Change(sign * value, statistics.central(drawn), p, paired)

    def recovered(self, target: Model, moved: Model, tuned: Model, task: str) -> Estimate | None:
        """(moved − target) / (tuned − target); None where the denominator's interval includes zero, or is unknown.

        None too where fine-tuning itself harms: a share of that would read as a gain.
        """
        cells = [self._cells.get((model, task), {}) for model in (target, moved, tuned)]
        families = [family for family in cells[0] if family in cells[1] and family in cells[2]]
        if not families:
            return None
        sides = [[of[family] for family in families] for of in cells]
        drawn = [d for side in sides if (d := self._over_families([cell.drawn for cell in side])) is not None]
        values = [float(np.mean([cell.value for cell in side])) for side in sides]
        sign = 1 if sides[0][0].score.higher_is_better else -1
        if len(drawn) < len(sides) or sign * (values[2] - values[0]) <= 0:
            return None
        return statistics.share_of_gain((values[0], values[1], values[2]), np.stack(drawn, axis=1))

    def _draw_family(self, family: int | None, runs: Sequence[Run], root: Path) -> None:
        """Resampled means of all models of a family; those asked the same examples share the draws."""
        alike: dict[tuple[str, tuple[str, ...], bytes], list[tuple[Run, Answered]]] = {}
        alone: list[tuple[Run, str]] = []
        for run in runs:
            by_folder = {folder: read_outcomes(root / STEPS / folder) for folder in run.folders}
            for task, score in run.scores.items():
                found = by_folder.get(score.folder or "", {}).get(score.asked_as or task)
                if found is not None and _agree(found, score):
                    alike.setdefault((task, found.ids, found.weights.tobytes()), []).append((run, found))
                else:
                    alone.append((run, task))
        parts: dict[tuple[Model, str], list[_Part]] = {}
        for group, ((task, _, _), members) in enumerate(alike.items()):
            scores = np.stack([found.scores for _, found in members])
            drawn = statistics.weighted_means(scores, members[0][1].weights, seed=self._seed, resamples=self.resamples)
            for column, (run, found) in enumerate(members):
                parts.setdefault((run.model, task), []).append(_Part(run, drawn[:, column], group, found))
        self.without_outcomes += len(alone)
        of_model: dict[tuple[Model, str], list[Run]] = {}
        for run, task in alone:
            of_model.setdefault((run.model, task), []).append(run)
        for number, ((model, task), seeds) in enumerate(of_model.items()):
            rng = np.random.default_rng([self._seed, number, len(alike) + 1])
            errors = rng.standard_normal(self.resamples)
            for run in seeds:
                drawn_alone = _by_error(run.scores[task], errors)
                parts.setdefault((model, task), []).append(_Part(run, drawn_alone, -1 - number, None))
        for (model, task), found_parts in parts.items():
            first = found_parts[0]
            scores_of = [part.run.scores[task] for part in found_parts]
            known = [part.drawn for part in found_parts if part.drawn is not None]
            self._cells.setdefault((model, task), {})[family] = _Cell(
                value=float(np.mean([score.value for score in scores_of])),
                drawn=np.mean(known, axis=0) if len(known) == len(found_parts) else None,
                group=first.group,
                answered=first.answered if len(found_parts) == 1 else None,
                runs=len(found_parts),
                score=scores_of[0],
                n=scores_of[0].n,
            )

    def _over_families(self, drawn: Sequence[Array | None]) -> Array | None:
        """The mean over families, drawn with replacement, of resampled values; one family stands for itself."""
        known = [values for values in drawn if values is not None]
        if len(known) < len(drawn):
            return None
        if len(known) == 1:
            return known[0]
        number = len(known)
        if number not in self._chosen:
            self._chosen[number] = families_drawn(np.random.default_rng([self._seed, number]), number, self.resamples)
        return np.asarray((self._chosen[number] * np.stack(known, axis=1)).sum(axis=1))


def clear(changes: Mapping[Key, Change | None]) -> dict[Key, int]:
    """Which changes of one table are real after Holm's adjustment: 1 for better, −1 for worse, 0 for neither."""
    known = {key: change for key, change in changes.items() if change is not None}
    adjusted = statistics.holm([change.p for change in known.values()])
    return {
        key: 0 if p >= LEVEL or change.interval is None else (1 if change.value > 0 else -1)
        for (key, change), p in zip(known.items(), adjusted, strict=True)
    }


def interval_of(score: Score) -> tuple[float, float] | None:
    """The interval of one result by itself: Wilson's for right answers, else by its standard error."""
    if score.counts and score.n:
        right = round(score.value * score.n)
        return statistics.accuracy([True] * right + [False] * (score.n - right)).interval
    if score.stderr is None:
        return None
    return score.value - _Z * score.stderr, score.value + _Z * score.stderr


def _by_error(score: Score, errors: Array) -> Array | None:
    """A result drawn from its value and standard error; None where that is not known."""
    if score.stderr is None and score.n > 0:
        return None
    return score.value + (score.stderr or 0.0) * errors


def _minus(one: Array | None, other: Array | None) -> Array | None:
    return None if one is None or other is None else one - other


def _agree(found: Answered, score: Score) -> bool:
    """Whether the mean of these outcomes is the value that was reported: some metrics are no mean over examples."""
    return float(found.weights.sum()) > 0 and math.isclose(found.value, score.value, abs_tol=1e-6)
