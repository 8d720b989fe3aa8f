"""Decide, before anything is loaded, who answers which prompts; then have them answered and make the lessons.

One model is in memory at a time: the teacher answers and is given back, then the start reads the texts that it is to keep, then
the student is loaded and trained. What they said is kept on disk between.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.open_model import fetched, open_checkpoint
from tuneport.errors import CheckpointError, DataError, listing, named
from tuneport.examples.leakage import example_digests
from tuneport.examples.questions import Example, OwnTask, digest_of_task, read_tasks
from tuneport.examples.training_data import DataSource
from tuneport.files.opening import content_digest, opened, resolved
from tuneport.options import Place
from tuneport.scoring.answers.greedy_answers import given_prompts, need_room
from tuneport.scoring.devices import free_memory
from tuneport.scoring.measured_tokens import Pairing
from tuneport.scoring.models import Loading, Seat, find_models, load, look_over, need_device
from tuneport.scoring.prompts import check_written
from tuneport.tuning.distillation import recording
from tuneport.tuning.distillation.answer_lessons import Lesson, LessonCounts, Lessons, Student, need_lessons
from tuneport.tuning.distillation.record_answers import record_answers, record_texts, text_of
from tuneport.tuning.recipes import DistilRecipe

ANSWERS, TEXTS = "answers", "texts"  # folders in that of the run
_SECONDS = 0.5  # between two looks


@dataclass(frozen=True)
class Teaching:
    """The teacher (a model, or what one recorded), the prompts that it answers, and the texts that are to be kept."""

    model: Seat | None
    recorded: Path | None
    tasks: tuple[OwnTask, ...]
    texts: tuple[OwnTask, ...]
    longest: int
    checkpoint: Checkpoint | None
    warnings: tuple[str, ...]
    keeper: Seat | None = None  # whose distribution on the texts is kept; None: the start's

    @property
    def prompts(self) -> int:
        """How many there are."""
        return sum(len(task.examples) for task in self.tasks)

    def plan(self) -> dict[str, Any]:
        """The teacher, by its contents, and the texts: what makes two runs the same."""
        if self.recorded is not None:
            about = recording.about_of(self.recorded).get("teacher")
            teacher: dict[str, Any] = {
                "name": about if isinstance(about, str) else self.recorded.name,
                "digest": recording.recording_digest(self.recorded),
            }
        else:
            assert self.model is not None, "a teacher is a model or what one recorded"
            about = {key: value for key, value in self.model.identity.items() if key not in ("name", "changed", "base")}
            teacher = {"name": self.name, **about, "digest": _content(self.model)}
        texts = [{"name": task.file, "digest": digest_of_task(task)} for task in self.texts]
        kept = (
            {} if self.keeper is None else {"retain_from": {"name": self.keeper.name, "digest": _content(self.keeper)}}
        )
        return {"teacher": teacher, **({"retain": texts} if texts else {}), **kept}

    def text_digests(self) -> frozenset[str]:
        """Of the texts, on which a run trains too."""
        return frozenset(d for task in self.texts for example in task.examples for d in example_digests(example))

    @property
    def name(self) -> str:
        """The teacher's name, without a path."""
        if self.model is None:
            assert self.recorded is not None, "a teacher is a model or what one recorded"
            return self.recorded.name
        return self.model.name if self.model.revision is not None else self.model.name.rpartition("/")[2]


def find_teaching(
    recipe: DistilRecipe,
    sources: Sequence[DataSource],
    kept: Sequence[Sequence[bool]],
    start: Checkpoint,
    tokenizer: Any,
) -> Teaching:
    """Who answers what. Raises `TuneportError` for a teacher that cannot, and for texts that cannot be read."""
    need_device(Loading())
    assert recipe.teacher is not None, "the recipe checks that there is one"
    tasks = tuple(_task(source, fits) for source, fits in zip(sources, kept, strict=True))
    texts = tuple(read_tasks(recipe.retain, loss=True, option="retain")) if recipe.retain else ()
    whose = f"{named('retain')}: the chat template"
    check_written(tokenizer, texts, whose, f"choose another {named('chat_template')}")
    warnings = [told for task in texts for told in (*task.warnings, *task.notes)]
    keeper = None if recipe.retain_from is None else _keeper(recipe.retain_from)
    place = Path(os.path.expanduser(recipe.teacher))
    if recording.is_recording(place):
        recording.about_of(place)
        return Teaching(None, place, tasks, texts, recipe.max_completion_length, None, tuple(warnings), keeper)
    try:
        (seat,) = find_models([os.fspath(recipe.teacher)])
        checkpoint = open_checkpoint(seat.source + (f"@{seat.revision}" if seat.revision else ""), "teacher")
    except CheckpointError as error:
        raise CheckpointError(f"{named('teacher')}: {error}") from error
    at_hub = (seat.source, seat.revision) == (start.hub_id, start.revision)
    if seat.adapter is None and (at_hub or resolved(place) == resolved(start.path)):
        warnings.append(
            f"The teacher is the model itself ({start.label}): there is nothing to learn from it. Give another "
            f"{named('teacher')}."
        )
    warnings += look_over(seat, Loading(), tasks).warnings
    return Teaching(seat, None, tasks, texts, recipe.max_completion_length, checkpoint, tuple(warnings), keeper)


def _keeper(place: Place) -> Seat:
    try:
        return find_models([os.fspath(place)])[0]
    except CheckpointError as error:
        raise CheckpointError(f"{named('retain_from')}: {error}") from error


def answer_all(teaching: Teaching, start: Checkpoint, tokenizer: Any, folder: Path, length: int) -> list[str]:
    """Have all prompts answered and all texts read, into ``folder``; what is there already is not asked again.

    Returns the warnings of both, which their records keep.
    """
    if teaching.model is not None and not recording.is_recording(folder / ANSWERS):
        told: list[str] = []
        assert teaching.checkpoint is not None, "a model has one"
        fetched(teaching.checkpoint)
        model = load(teaching.model, Loading(), told.extend)
        need_room(teaching.tasks, model, "max_completion_length")
        about = {"teacher": teaching.name, "warnings": told}
        record_answers(model, teaching.tasks, folder / ANSWERS, longest=teaching.longest, about=about)
        del model
        free_memory()
    if teaching.texts and not recording.is_recording(folder / TEXTS):
        told = []
        seat = teaching.keeper or find_models([start.path])[0]
        if teaching.keeper is not None:
            fetched(open_checkpoint(seat.source + (f"@{seat.revision}" if seat.revision else ""), "retain-from"))
        model = load(seat, Loading(), told.extend)
        model.tokenizer.chat_template = tokenizer.chat_template  # that of the run, which a base may not have
        about = {"teacher": start.label if teaching.keeper is None else seat.name, "warnings": told}
        record_texts(model, teaching.texts, folder / TEXTS, most=length, about=about)
        del model
        free_memory()
    places = [folder / name for name in (ANSWERS, TEXTS) if recording.is_recording(folder / name)]
    kept = [warning for place in places for warning in recording.about_of(place)["warnings"]]
    return list(dict.fromkeys(kept))


def wait_for_answers(teaching: Teaching, folder: Path) -> None:
    """Wait until another process has done `answer_all`; a barrier would give up after ten minutes (NCCL's limit)."""
    wanted = [] if teaching.recorded is not None else [folder / ANSWERS]
    wanted += [folder / TEXTS] if teaching.texts else []
    while not all(map(recording.is_recording, wanted)):
        time.sleep(_SECONDS)


def lessons_of(teaching: Teaching, folder: Path, tokenizer: Any, end_id: int, length: int) -> Lessons:
    """What was said and expected, in the student's tokens. Raises `DataError` for prompts without a recorded answer."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    pairing = _pairing(tokenizer)
    student = Student(vocabulary, {id: text for text, id in vocabulary.items()}, end_id, length)
    counts = LessonCounts()
    answers: list[Lesson] = []
    place = folder / ANSWERS if teaching.recorded is None else teaching.recorded
    for prompt, rendered, _, heard in _heard(place, teaching.tasks, tokenizer):
        text = heard.spoken.text
        found = None
        if text:
            pair = pairing.paired(prompt, [text], rendered=rendered).pairs[0]
            found = student.lesson(pair.prompt, pair.answer, heard, counts)
        counts.empty += not text
        if found is not None:
            counts.answers += 1
            counts.endless += not heard.spoken.ended
            answers.append(found)
    need_lessons(answers, counts)
    texts: list[Lesson] = []
    for prompt, rendered, example, heard in _heard(folder / TEXTS, teaching.texts, tokenizer):
        pair = pairing.paired(prompt, [text_of(example, prompt)], rendered=rendered).pairs[0]
        found = student.lesson(pair.prompt, pair.answer[: len(heard.spoken.tokens)], heard, LessonCounts())
        if found is not None:
            texts.append(found)
    return Lessons(tuple(answers), tuple(texts), counts)


def _heard(
    place: Path, tasks: Sequence[OwnTask], tokenizer: Any
) -> Iterator[tuple[str, bool, Example, recording.Recorded]]:
    """Each prompt as the student is given it, and what was recorded of it."""
    if not tasks:
        return
    found = recording.read_recording(place)
    examples = [(task, example) for task in tasks for example in task.examples]
    lacking = [task.place(example) for task, example in examples if recording.key_of(example) not in found]
    if lacking:
        raise DataError(f"{place} has no answer to {len(lacking):,} of {len(examples):,} prompts:{listing(lacking)}")
    prompts = given_prompts(tokenizer, [example for _, example in examples])
    for (_, example), (prompt, rendered) in zip(examples, prompts, strict=True):
        yield prompt, rendered, example, found[recording.key_of(example)]


def _task(source: DataSource, fits: Sequence[bool]) -> OwnTask:
    """The prompts of a source that leave room for an answer."""
    examples = []
    for place, (row, fit) in enumerate(zip(source.rows, fits, strict=True)):
        asked = row["prompt"] if "prompt" in row else row["messages"]
        way: dict[str, Any] = {"prompt": asked} if isinstance(asked, str) else {"messages": tuple(asked)}
        if fit:
            examples.append(Example(str(place), source.numbers[place], **way))
    return OwnTask(source.stem or source.name, "prompt", tuple(examples), source.name, source.where)


def _content(seat: Seat) -> str:
    """BLAKE3 over the weight files of a model, and of an adapter on it; of the Hub's models the revision says it."""
    whole = blake3()
    for place in (seat.source, seat.adapter):
        if place is not None and Path(place).is_dir():
            for name in sorted(open_checkpoint(place, "teacher").files):
                with opened(Path(place) / name) as weights:
                    whole.update(f"{name}\0{content_digest(weights)}\0".encode())
        else:
            whole.update(f"{place}@{seat.revision}\0".encode())
    return f"files:{whole.hexdigest()}"


def _pairing(tokenizer: Any) -> Pairing:
    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    return Pairing.of(tokenizer, encode)
