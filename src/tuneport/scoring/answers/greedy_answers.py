"""What a model says to prompts, as it says it: greedily, through its own template, with the tokens of each answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from tuneport.errors import DataError, listing, named
from tuneport.examples.questions import Example, OwnTask
from tuneport.scoring.answers.answer_losses import AnswerLosses
from tuneport.scoring.evaluate_options import Asking
from tuneport.scoring.measured_tokens import Pair
from tuneport.scoring.prompts import prompts_of
from tuneport.scoring.question_tasks import ask_own


def answers_as_said(task: OwnTask, model: Any, asking: Asking) -> list[str]:
    """The answer to every prompt of a task, with the blanks around it."""
    asked = ask_own(replace(task, kind="match"), model, asking, as_said=True)
    return [outcome.said or "" for outcome in asked.outcomes]


def given_prompts(tokenizer: Any, examples: Sequence[Example]) -> Iterator[tuple[str, bool]]:
    """Each prompt as the tokenizer's model is given it, and whether its chat template wrote it."""
    for example in examples:
        yield prompts_of(tokenizer, [example])[0], example.messages is not None


def said_tokens(
    losses: AnswerLosses, prompt: str, words: str, *, rendered: bool, after: bool = False
) -> tuple[str, Pair, Any] | None:
    """An answer as its model said it, its tokens and their log-probabilities; None where it has no tokens.

    ``after``: with a last row of log-probabilities, for what follows the answer.
    Some tokenizers lose the blank that an answer begins with: then both are tried, and the likelier one was said.
    """
    lost = not rendered and not words[:1].isspace() and not prompt[-1:].isspace()
    best: tuple[str, Pair, Any] | None = None
    least = float("inf")
    for text in [words, f" {words}"] if lost else [words]:
        pair = losses.pair(prompt, text, rendered=rendered)
        if not pair.answer:
            continue
        logs = losses.logs(pair, after=after)
        if (loss := losses.loss(pair, logs)) < least:
            best, least = (text, pair, logs), loss
    return best


def prompt_lengths(model: Any, examples: Sequence[Example]) -> list[int]:
    """The number of tokens of each prompt, as the model is given it."""
    return [
        len(model.plain_ids(text) if rendered else model.tok_encode(text))
        for text, rendered in given_prompts(model.tokenizer, examples)
    ]


def need_room(tasks: Sequence[OwnTask], model: Any, option: str) -> None:
    """Raise `DataError` where a prompt leaves no room for an answer: the harness would cut off its beginning.

    ``option`` bounds the answers' length.
    """
    faults = [
        f"{task.place(example)}: the prompt has {count:,} tokens"
        for task in tasks
        for example, count in zip(task.examples, prompt_lengths(model, task.examples), strict=True)
        if count >= model.max_length
    ]
    stop_where_too_long(model, faults, "these prompts leave no room for an answer", option)


def stop_where_too_long(model: Any, faults: Sequence[str], what: str, option: str) -> None:
    """Raise `DataError` for what the model's context does not hold."""
    if faults:
        raise DataError(
            f"model {model.name}: its context has {model.max_length:,} tokens, and {what}:{listing(list(faults))}\n"
            f"Shorten them, or lower {named(option)}."
        )
