"""The lab's fine-tunings: write questions to a file of examples, and run `tuneport tune` on it.

A base model of the lab has no chat template; it gets one from a file, as any base would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuneport.families import word_tokenizers
from tuneport.families.lesson_questions import Question, bare
from tuneport.files.writing import write_lines, write_once
from tuneport.tuning.recipes import Recipe, TuningRun

EXAMPLES, TEMPLATE = "examples.jsonl", "chat.jinja"


def write_lesson(folder: Path, examples: Sequence[Question], template: str = word_tokenizers.CHAT_TEMPLATE) -> None:
    """For SFT: one conversation a line, and the chat template, where a run has not written them before."""
    folder.mkdir(exist_ok=True)
    write_lines(folder / EXAMPLES, map(as_conversation, examples))
    write_once(folder / TEMPLATE, template)


def as_message(question: Question) -> dict[str, Any]:
    """A question as `tuneport evaluate` takes it when each model's own chat template is to be used."""
    return {"task": question.task, "messages": [_user(question)], "answer": question.answer}


def as_conversation(example: Question) -> dict[str, Any]:
    """A question and its answer, as SFT takes them."""
    return {"messages": [_user(example), _assistant(example.answer)]}


def as_preference(asked: Question, other: str) -> dict[str, Any]:
    """A question, its answer and another one, as DPO takes them."""
    return {"prompt": [_user(asked)], "chosen": [_assistant(asked.answer)], "rejected": [_assistant(other)]}


def as_prompt(asked: Question) -> dict[str, Any]:
    """A question and the answer to compare with, as GRPO takes them."""
    return {"prompt": [_user(asked)], "answer": asked.answer}


def fine_tune(out: Path, start: Path, lesson: Path, recipe: Recipe, seed: int, running: TuningRun) -> None:
    """Fine-tune the checkpoint `start` on the folder `lesson`; a start that can chat already keeps its template."""
    from tuneport import tune

    chats = (start / "chat_template.jinja").exists()
    tune(
        start,
        [lesson / EXAMPLES],
        replace(recipe, seed=seed),
        out=out,
        chat_template=None if chats else str(lesson / TEMPLATE),
        end_token=None if chats else word_tokenizers.END,
        **vars(running),
    )


def _user(question: Question) -> dict[str, str]:
    return {"role": "user", "content": bare(question.prompt)}


def _assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def examples_seen(recipe: Recipe) -> int:
    """How many examples a fine-tuning sees: the lab gives it as many, each once."""
    assert recipe.steps is not None, "the lab's budgets are in steps"
    return recipe.steps * recipe.batch_size
