"""What is asked of every model on the ladder, and what it said: select and test, and what it still can of what the target could."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from tuneport import statistics
from tuneport.examples.questions import Example, OwnTask
from tuneport.results.example_outcomes import TaskResult, as_json, from_json
from tuneport.scoring.answers.answer_shapes import AnswerShape
from tuneport.scoring.evaluate_options import USUAL_ANSWER, Asking
from tuneport.scoring.question_tasks import ask_own, extracted
from tuneport.statistics import Estimate


@dataclass(frozen=True)
class AskedParts:
    """What every model is asked: prompts with the answer that counts as right, and texts. ``usual`` is the most tokens of an
    answer where the context has room and nobody says how many.
    """

    select: OwnTask
    test: OwnTask
    texts: tuple[OwnTask, ...]
    asking: Asking
    usual: int = USUAL_ANSWER

    @property
    def everything(self) -> tuple[OwnTask, ...]:
        """All of it."""
        return (self.select, self.test, *self.texts)

    def ask(self, task: OwnTask, model: Any) -> TaskResult:
        """A loaded model's outcomes on some of it."""
        return ask_own(task, model, self.asking, usual=self.usual)


@dataclass(frozen=True)
class RungMeasures:
    """One model's outcomes. ``shapes`` are of its answers to the select part."""

    select: TaskResult
    test: TaskResult
    texts: tuple[TaskResult, ...]
    shapes: tuple[AnswerShape, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it, for a later run."""
        return {
            "select": as_json(self.select),
            "test": as_json(self.test),
            "texts": [as_json(text) for text in self.texts],
            "shapes": [asdict(shape) for shape in self.shapes],
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> RungMeasures:
        """What `to_json` gave."""
        texts = tuple(from_json(text) for text in found["texts"])
        shapes = tuple(AnswerShape(**shape) for shape in found["shapes"])
        return cls(from_json(found["select"]), from_json(found["test"]), texts, shapes)


def measure(model: Any, asked: AskedParts) -> RungMeasures:
    """Ask a loaded model of the harness everything."""
    model.shapes = []
    select = asked.ask(asked.select, model)
    shapes, model.shapes = tuple(model.shapes), None
    test = asked.ask(asked.test, model)
    return RungMeasures(select, test, tuple(asked.ask(text, model) for text in asked.texts), shapes)


def judged_by(part: OwnTask, answers: Sequence[str], match: str | None) -> tuple[OwnTask, int]:
    """A part of prompts without answers, judged by what the source said to them; and how many could not be judged.

    Left out are prompts to which the source said nothing, or nothing that ``match`` finds.
    """
    kept: list[Example] = []
    for example, said in zip(part.examples, answers, strict=True):
        answer = extracted(said, match)
        if answer:
            kept.append(replace(example, answer=answer))
    return replace(part, kind="match", examples=tuple(kept)), len(part.examples) - len(kept)


@dataclass(frozen=True)
class Retention:
    """What is left of what the target could: nats per token of its texts, and how its answers look.

    ``loss`` counts the target's tokens, also for a longer vocabulary; None without texts. ``ended`` and ``repeated`` are
    shares, ``length`` is in tokens.
    """

    loss: float | None
    ended: float
    length: float
    repeated: float

    def record(self) -> dict[str, float | None]:
        """As JSON."""
        return asdict(self)


def retention(of: RungMeasures, target: RungMeasures) -> Retention:
    """What a model retains; ``target`` is the target itself, whose tokens count."""
    tokens = [outcome.weight for text in target.texts for outcome in text.outcomes]
    nats = [outcome.score * outcome.weight for text in of.texts for outcome in text.outcomes]
    shapes = of.shapes
    return Retention(
        sum(nats) / sum(tokens) if tokens else None,
        fmean(shape.ended for shape in shapes),
        fmean(shape.tokens for shape in shapes),
        fmean(shape.repeated for shape in shapes),
    )


def right(result: TaskResult) -> list[bool]:
    """Of each prompt whether it was answered as wanted."""
    return [score == 1.0 for score in result.scores]


def share(result: TaskResult) -> Estimate:
    """How many prompts were answered as wanted."""
    return statistics.accuracy(right(result))


def difference(one: TaskResult, other: TaskResult) -> Estimate:
    """How many more were than by another model, prompt by prompt."""
    return statistics.difference(right(one), right(other))
