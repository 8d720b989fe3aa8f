"""Turn examples into prompts: texts unchanged, messages through the model's chat template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tuneport.errors import RenderingError
from tuneport.examples.questions import Example, OwnTask
from tuneport.examples.rendering import Unwritten, render


def prompts_of(tokenizer: Any, examples: Sequence[Example]) -> list[str]:
    """The prompt of each example. Raises `RenderingError` at the first one that the template does not write."""
    return [
        example.prompt or "" if example.messages is None else render(tokenizer, example.messages, ask=True)
        for example in examples
    ]


def check_written(tokenizer: Any, tasks: Iterable[OwnTask], whose: str, remedy: str, limit: int | None = None) -> None:
    """Raise `RenderingError` that lists all messages of ``tasks`` that the template of ``whose`` name does not write."""
    unwritten = Unwritten(whose, remedy)
    for task in tasks:
        for example in task.examples[:limit]:
            try:
                prompts_of(tokenizer, [example])
            except RenderingError as error:
                unwritten.note(task.file, f"{task.where} {example.line}", error)
    unwritten.check()


def left_out(examples: Sequence[Example], prompts: Sequence[str]) -> int:
    """In how many examples the system's message is missing from the prompt, though the template wrote it."""
    return sum(
        any(m["role"] == "system" and m["content"].strip() not in prompt for m in example.messages or ())
        for example, prompt in zip(examples, prompts, strict=True)
    )
