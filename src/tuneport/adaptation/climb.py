"""What every rung is given: the models, the parts, the best so far, and how models are loaded and asked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from tuneport.adaptation.adapt_options import AdaptOptions
from tuneport.adaptation.prompt_parts import Parts
from tuneport.adaptation.rung_measures import AskedParts, RungMeasures, measure
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.engine.plan import Plan
from tuneport.engine.run import execute
from tuneport.examples.questions import Example
from tuneport.files.json_text import read_json
from tuneport.files.opening import MOST_RECORD_BYTES, read_bytes
from tuneport.files.writing import write_lines, write_whole
from tuneport.options import Place
from tuneport.progress import Progress
from tuneport.scoring.devices import free_memory
from tuneport.scoring.harness import in_words
from tuneport.scoring.measured_tokens import answers_of
from tuneport.scoring.models import Loading, Seat, find_models, load, look_over, tokenizer_of

Value = TypeVar("Value")
MOST_FITTED = 128  # prompts that one α, or one for each layer, is fitted on; a wrong choice costs nothing but time


@dataclass(frozen=True)
class Attempt:
    """What a rung made: its measures, where its checkpoint is (``keep`` writes it where that is still to be done)."""

    measured: RungMeasures
    place: Path
    keep: Callable[[], None]
    steps: int = 0
    examples: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Declined:
    """A rung that has nothing to judge: why, and what it tried."""

    why: str
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """The best so far."""

    rung: str
    place: Path
    measured: RungMeasures


@dataclass
class Climb:
    """One run of the ladder. ``teacher`` is a folder of what the tuned source answered to the prompts to fit on."""

    given: AdaptOptions
    folder: Path
    parts: Parts
    loading: Loading
    asked: AskedParts
    teacher: Path
    fit_answers: tuple[str, ...]
    near: tuple[Example, ...]
    progress: Progress
    warnings: list[str]
    best: Standing | None = None
    added: Standing | None = None

    @property
    def standing(self) -> Standing:
        """The best so far; `add` comes first."""
        assert self.best is not None, "add is the first rung"
        return self.best

    def measured(self, name: str, place: Place, *, template_of: Place | None = None) -> RungMeasures:
        """A checkpoint's measures, from an earlier run or from the model; its chat template may be another's."""
        return kept(
            self.folder / f"{name}.measured.json",
            lambda: self._measure(place, template_of),
            RungMeasures.to_json,
            RungMeasures.from_json,
        )

    def _measure(self, place: Place, template_of: Place | None) -> RungMeasures:
        with loaded(place, self.loading, self.asked, self.warnings, template_of) as model:
            return self.measure(model)

    def measure(self, model: Any) -> RungMeasures:
        """A loaded model's measures."""
        with in_words(f"{model.name} could not be asked"):
            return measure(model, self.asked)

    def write(self, name: str, plan: Plan) -> None:
        """A transfer into the folder of a rung."""
        execute(plan, self.folder / name, replace(self.given.running, overwrite=False))

    def fit_file(self, *, answered: bool) -> Path:
        """The prompts to fit on as a file that `tune` reads, with their answers where it needs them."""
        place = self.folder / f"fit{'-answered' if answered else ''}.jsonl"
        write_rows(place, self.parts.fit.examples, answered=answered)
        return place

    def fitted_answers(self) -> tuple[tuple[Example, ...], tuple[str, ...]]:
        """Prompts to fit on with answers: the user's where there are any, else the source's to the first of them."""
        examples = self.parts.fit.examples
        if self.given.examples:
            few = examples[:MOST_FITTED]
            return few, tuple(_completed(example) for example in few)
        return examples[: len(self.fit_answers)], self.fit_answers

    def near_file(self) -> Path | None:
        """The texts on which a rung that trains stays near the target; None without them."""
        if not self.near or self.given.fitting.without_retain:
            return None
        place = self.folder / "near.jsonl"
        write_lines(place, ({"text": example.answer} for example in self.near))
        return place


def parents(given: AdaptOptions) -> tuple[Checkpoint, Checkpoint, Checkpoint]:
    """Base, tuned and target, opened."""
    base, tuned = open_checkpoint(given.base, "base"), open_checkpoint(given.tuned, "tuned")
    return base, tuned, open_checkpoint(given.onto, "target")


def write_rows(place: Path, examples: Iterable[Example], *, answered: bool) -> None:
    """Examples as `tune` reads them."""
    write_lines(place, (_row(example, answered) for example in examples))


def _row(example: Example, answered: bool) -> dict[str, Any]:
    if example.messages is not None:
        messages = [dict(message) for message in example.messages]
        return {"messages": [*messages, {"role": "assistant", "content": example.answer}] if answered else messages}
    if not answered:
        return {"prompt": example.prompt}
    return {"prompt": example.prompt or "", "completion": _completed(example)}


def _completed(example: Example) -> str:
    """The right answer, as it stands behind the prompt."""
    return example.answer if example.messages is not None else answers_of(example, example.prompt or "")[0]


@contextmanager
def loaded(
    place: Place, loading: Loading, asked: AskedParts, warnings: list[str], template_of: Place | None = None
) -> Iterator[Any]:
    """The harness's model of a checkpoint while the block runs; its memory is given back after it."""
    (seat,) = find_models([os.fspath(place)])
    if template_of is None:
        warnings += look_over(seat, loading, asked.everything).warnings
    model = load(seat, loading, warnings.extend)
    if not model.tokenizer.chat_template and template_of is not None:
        model.tokenizer.chat_template = tokenizer_of(Seat("", os.fspath(template_of))).chat_template
    try:
        yield model
    finally:
        del model
        free_memory()


def kept(
    file: Path, make: Callable[[], Value], to_json: Callable[[Value], Any], from_json: Callable[[Any], Value]
) -> Value:
    """What an earlier run left in ``file``; else it is made, and left there whole."""
    if file.is_file():
        return from_json(read_json(read_bytes(file, file.parent, MOST_RECORD_BYTES)))
    made = make()
    write_whole(file, json.dumps(to_json(made)))
    return made
