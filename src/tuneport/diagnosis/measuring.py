"""What to measure at each point of the line: the loss of each example, and its answer if one is wanted.

The second model is loaded once, at the first point that has no result yet, and moved from point to point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuneport.checkpoint.reading import TensorReader
from tuneport.diagnosis.line import LineBetween, laid
from tuneport.errors import (
    ABSENT,
    DataError,
    DoubtError,
    Fault,
    NumericsError,
    UsageError,
    listing,
    named,
)
from tuneport.examples.questions import OwnTask, read_tasks
from tuneport.pairing.common_tensors import Shared
from tuneport.progress import Progress
from tuneport.results.example_outcomes import TaskResult
from tuneport.scoring.evaluate_options import Asking
from tuneport.scoring.harness import in_words
from tuneport.scoring.keeping import Kept
from tuneport.scoring.models import Loading, Seat, load
from tuneport.scoring.question_tasks import ask_own

_FEWEST = 4  # two examples to locate a peak, two to measure it


@dataclass(frozen=True)
class Data:
    """The examples as they are asked: the loss of each, and its answer where that is wanted."""

    losses: tuple[OwnTask, ...]
    answers: tuple[OwnTask, ...]

    @property
    def everything(self) -> tuple[OwnTask, ...]:
        """Losses first, then answers."""
        return self.losses + self.answers

    @property
    def tasks(self) -> list[str]:
        """The task of each example, in order."""
        return [task.name for task in self.losses for _ in task.examples]


@dataclass(frozen=True)
class Point:
    """What was measured at one point: each example's loss a token and its tokens, and whether its answer was right."""

    results: tuple[TaskResult, ...]
    count: int  # how many of the results are losses

    @property
    def losses(self) -> NDArray[np.float64]:
        """Nats a token, of each example."""
        return np.array([score for result in self.results[: self.count] for score in result.scores])

    @property
    def tokens(self) -> NDArray[np.float64]:
        """How many tokens each loss is the mean of."""
        return np.array([weight for result in self.results[: self.count] for weight in result.weights])

    @property
    def right(self) -> list[bool]:
        """Whether each answer was right."""
        return [score == 1.0 for result in self.results[self.count :] for score in result.scores]


def read_examples(data: Sequence[Any], loss_only: bool, columns: Mapping[str, str] | None = None) -> Data:
    """The files' examples. Raises `TuneportError` where they are not of one kind, or too few for two halves."""
    if not data:
        remedy = "Name a file of texts, or of questions with answers"
        raise UsageError(Fault("data", ABSENT, "is missing", remedy))
    losses = tuple(read_tasks(data, loss=True, columns=columns, option="data"))
    kinds = {bool(task.examples[0].question) for task in losses}
    if len(kinds) > 1:
        named = "; ".join(f"{task.name}: {'answers' if task.examples[0].question else 'texts'}" for task in losses)
        raise DataError(f"The data mixes texts and questions with answers ({named}). Measure them in two runs.")
    count = sum(len(task.examples) for task in losses)
    if count < _FEWEST:
        raise DataError(f"The data holds {count} examples; a barrier needs at least {_FEWEST} (two in each half).")
    answered = () if loss_only or kinds == {False} else tuple(replace(task, kind="match") for task in losses)
    return Data(losses, answered)


@dataclass
class Measuring:
    """Measures points; the model is loaded for the first one that an earlier run has not measured."""

    seat: Seat
    loading: Loading
    shared: Shared
    readers: tuple[TensorReader, TensorReader]
    examples: Data
    asking: Asking
    kept: Kept | None
    warnings: list[str]
    progress: Progress
    strict: bool = False
    done: int = 0
    loaded: tuple[Any, LineBetween] | None = None

    def at(self, alpha: float) -> Point:
        """Everything asked at one point. Points are measured in the same order by every run of a plan."""
        results = []
        there = False
        for number, task in enumerate(self.examples.everything):
            earlier = None if self.kept is None else self.kept.get(self.done, number)
            if earlier is None:
                model, line = self._model()
                if not there:
                    line.put(alpha)
                    there = True
                self.progress.note = f"α = {alpha:g}: {task.name}"
                before = len(self.warnings)
                with in_words(f"{task.name} could not be measured at α = {alpha:g}"):
                    result = ask_own(task, model, self.asking)
                earlier = result, self.warnings[before:]
                if self.kept is not None:
                    self.kept.put(self.done, number, *earlier)
            else:
                self.warnings += earlier[1]
            results.append(earlier[0])
        self.done += 1
        if not there:
            self.progress.taken_up(1)
        self.progress.add()
        point = Point(tuple(results), len(self.examples.losses))
        if not np.isfinite(point.losses).all():
            raise NumericsError(
                f"At α = {alpha:g} the loss is NaN or infinite. Choose points closer to the two models."
            )
        return point

    def _tell(self, found: list[str]) -> None:
        if self.strict and found:
            raise DoubtError(f"{named('strict')} stopped measuring, because of these warnings:{listing(found)}")
        self.warnings.extend(found)

    def _model(self) -> tuple[Any, LineBetween]:
        if self.loaded is None:
            model = load(self.seat, self.loading, self._tell)
            self.loaded = model, laid(model.model, f"B {self.seat.name}", self.shared, self.readers)
        return self.loaded
