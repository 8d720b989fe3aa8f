"""Run each model of a probe on the prompts (with or without answers) and texts.

A `Heard` has a loaded model's answer to each prompt, whether it was right, its losses on the tuned model's answers, and
its losses on the texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuneport.diagnosis.probing.probe_options import ProbeOptions
from tuneport.examples.questions import Example, OwnTask, read_tasks
from tuneport.results.example_outcomes import TaskResult
from tuneport.scoring.answers.answer_losses import AnswerLosses, Divergence, ExpectedTokens
from tuneport.scoring.answers.greedy_answers import given_prompts, need_room, said_tokens, stop_where_too_long
from tuneport.scoring.evaluate_options import Asking
from tuneport.scoring.question_tasks import ask_own

_LENGTH = "max_new_tokens"


@dataclass(frozen=True)
class Questions:
    """The tasks of prompts, and those of texts."""

    prompts: tuple[OwnTask, ...]
    texts: tuple[OwnTask, ...]

    @property
    def everything(self) -> tuple[OwnTask, ...]:
        """Prompts as they are asked, then texts."""
        return tuple(replace(task, kind="match") for task in self.prompts) + self.texts

    @property
    def examples(self) -> list[tuple[OwnTask, Example]]:
        """Each prompt with its task, in order."""
        return [(task, example) for task in self.prompts for example in task.examples]


def read_questions(given: ProbeOptions) -> Questions:
    """The files of ``probe`` and ``retain``. Raises `DataError` that lists every fault."""
    prompts = read_tasks(given.probe, asked=True, columns=given.columns, option="probe") if given.probe else []
    texts = read_tasks(given.retain, loss=True, columns=given.columns, option="retain") if given.retain else []
    return Questions(tuple(prompts), tuple(texts))


@dataclass(frozen=True)
class GreedyAnswer:
    """What the tuned model said to a prompt, as it stands behind it: its text, its tokens, and what the model expected."""

    text: str
    tokens: int
    expected: ExpectedTokens


@dataclass(frozen=True)
class Heard:
    """One model, prompt by prompt (None: no answer to judge by, or to find likely), and text by text.

    ``losses`` are nats of the tuned model's whole answer, ``divergences`` the KL from it.
    """

    said: tuple[str, ...]
    right: tuple[bool | None, ...]
    losses: tuple[float | None, ...]
    divergences: tuple[Divergence | None, ...]
    retained: tuple[TaskResult, ...] = ()


def hear_source(questions: Questions, model: Any, asking: Asking) -> tuple[Heard, tuple[GreedyAnswer | None, ...]]:
    """Ask the tuned model, whose answers the others are then given."""
    said, right = _ask(questions, model, asking)
    losses = AnswerLosses(model)
    answers: list[GreedyAnswer | None] = []
    own: list[float | None] = []
    for (text, rendered), words in zip(_prompts(questions, model), said, strict=True):
        found = _answer(losses, text, words, rendered) if words.strip() else None
        own.append(None if found is None else found[1])
        answers.append(None if found is None else found[0])
    none = (None,) * len(said)
    return Heard(tuple(said), tuple(right), tuple(own), none), tuple(answers)


def hear(questions: Questions, model: Any, asking: Asking, answers: Sequence[GreedyAnswer | None]) -> Heard:
    """Ask a model the prompts, give it the answers of the tuned one, and take its losses on the texts."""
    said, right = _ask(questions, model, asking)
    found: list[float | None] = [None] * len(answers)
    divergences: list[Divergence | None] = [None] * len(answers)
    losses = AnswerLosses(model) if questions.prompts else None
    too_long: list[str] = []
    for place, (text, rendered) in enumerate(_prompts(questions, model)):
        answer = answers[place]
        pair = None if answer is None or losses is None else losses.pair(text, answer.text, rendered=rendered)
        if answer is None or losses is None or pair is None or not pair.answer:
            continue
        if len(pair.prompt) + len(pair.answer) > model.max_length:
            task, example = questions.examples[place]
            too_long.append(f"{task.place(example)}: {len(pair.prompt) + len(pair.answer):,} tokens with the answer")
            continue
        logs = losses.logs(pair)
        found[place] = losses.loss(pair, logs)
        divergences[place] = losses.divergence(answer.expected, pair, logs)
    stop_where_too_long(model, too_long, "these prompts do not fit with the tuned model's answers", _LENGTH)
    retained = tuple(ask_own(task, model, asking) for task in questions.texts)
    return Heard(tuple(said), tuple(right), tuple(found), tuple(divergences), retained)


def _ask(questions: Questions, model: Any, asking: Asking) -> tuple[list[str], list[bool | None]]:
    """What a model generates, and whether it is right where there is an answer."""
    need_room(questions.prompts, model, _LENGTH)
    said: list[str] = []
    right: list[bool | None] = []
    for task in questions.prompts:
        results = ask_own(replace(task, kind="match"), model, asking, as_said=True)
        said += [outcome.said or "" for outcome in results.outcomes]
        if task.kind == "prompt":
            right += [None] * len(task.examples)
            continue
        judged = ask_own(task, model, asking) if task.kind == "choice" else results
        right += [outcome.score == 1.0 for outcome in judged.outcomes]
    return said, right


def _prompts(questions: Questions, model: Any) -> Iterator[tuple[str, bool]]:
    """Each prompt as the model is given it, and whether its chat template wrote it."""
    yield from given_prompts(model.tokenizer, [example for _, example in questions.examples])


def _answer(losses: AnswerLosses, prompt: str, words: str, rendered: bool) -> tuple[GreedyAnswer, float] | None:
    """The answer as its model said it, and its loss; None where it has no tokens."""
    found = said_tokens(losses, prompt, words, rendered=rendered)
    if found is None:
        return None
    text, pair, logs = found
    return GreedyAnswer(text, len(pair.answer), losses.expected(pair, logs)), losses.loss(pair, logs)
