"""The lab's fine-tunings: questions become a file of examples, and `tuneport tune` does the rest.

Nothing is trained here. A base model of the lab has no chat template; it gets one from a file, as any base would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tuneport.lab import vocabulary
from tuneport.lab.lines import write_lines, write_once
from tuneport.lab.questions import Question, bare
from tuneport.tune.recipes import Recipe, Running

EXAMPLES, TEMPLATE = "examples.jsonl", "chat.jinja"


def write_lesson(folder: Path, examples: Sequence[Question]) -> None:
    """For SFT: one conversation a line, and the chat template, where a run has not written them before."""
    folder.mkdir(exist_ok=True)
    lines = ({"messages": [_user(example), _assistant(example.answer)]} for example in examples)
    write_lines(folder / EXAMPLES, lines)
    write_once(folder / TEMPLATE, vocabulary.CHAT_TEMPLATE)


def write_preferences(folder: Path, pairs: Sequence[tuple[Question, str]]) -> None:
    """For DPO: each question with its answer, which is chosen, and another, which is rejected."""
    folder.mkdir(exist_ok=True)
    lines = (
        {"prompt": [_user(asked)], "chosen": [_assistant(asked.answer)], "rejected": [_assistant(other)]}
        for asked, other in pairs
    )
    write_lines(folder / EXAMPLES, lines)


def write_prompts(folder: Path, asked: Sequence[Question]) -> None:
    """For GRPO: each question, with the answer that a reward compares with."""
    folder.mkdir(exist_ok=True)
    write_lines(folder / EXAMPLES, ({"prompt": [_user(question)], "answer": question.answer} for question in asked))


def fine_tune(out: Path, start: Path, lesson: Path, recipe: Recipe, seed: int, running: Running) -> None:
    """Fine-tune the checkpoint `start` on the folder `lesson`; a start that can chat already keeps its template."""
    from tuneport import tune

    chats = (start / "chat_template.jinja").exists()
    tune(
        start,
        [lesson / EXAMPLES],
        replace(recipe, seed=seed),
        out=out,
        chat_template=None if chats else str(lesson / TEMPLATE),
        end_token=None if chats else vocabulary.END,
        running=running,
    )


def _user(question: Question) -> dict[str, str]:
    return {"role": "user", "content": bare(question.prompt)}


def _assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def examples_seen(recipe: Recipe) -> int:
    """How many examples a fine-tuning sees: the lab gives it as many, each once."""
    assert recipe.steps is not None, "the lab's budgets are in steps"
    return recipe.steps * recipe.batch_size
