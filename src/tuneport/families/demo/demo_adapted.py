"""The demo's version 2 + diff vector, adapted on a few unlabelled prompts, and what that is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneport import statistics
from tuneport.families import corpus, family_scores, lesson_questions, lessons
from tuneport.families.lesson_questions import INSTRUCTION_TASKS, ORDERS, WORD_PROBLEMS, Question
from tuneport.files.writing import write_lines

PROMPTS, DECIDING = 64, 200
_FILES = ("prompts.jsonl", "select.jsonl", "test.jsonl")


def write_prompts(
    folder: Path,
    world: corpus.World,
    seed: int,
    shares: Mapping[str, float],
    asked: Sequence[Question],
    examples: Sequence[Question],
) -> None:
    """Prompts without answers to learn from, others to decide by, and some of the demo's questions to report."""
    folder.mkdir(exist_ok=True)
    fitted = _different(
        PROMPTS, lesson_questions.training_questions(world, f"prompts {seed}", 4 * PROMPTS, shares=shares, never=asked)
    )
    unseen = {WORD_PROBLEMS: 0.6, ORDERS: 0.4}
    never = [*asked, *examples, *fitted]
    drawn = lesson_questions.training_questions(world, f"select {seed}", 4 * DECIDING, shares=unseen, never=never)
    instructions = [question for question in asked if question.task in INSTRUCTION_TASKS]
    reported = instructions[:: max(1, len(instructions) // DECIDING)]
    parts = (fitted, _different(DECIDING, drawn), reported)
    for name, questions in zip(_FILES, parts, strict=True):
        rows = map(lessons.as_message, questions)
        kept = (
            {key: row[key] for key in (("messages", "answer") if name == "test.jsonl" else ("messages",))}
            for row in rows
        )
        write_lines(folder / name, kept)


def _different(count: int, questions: Sequence[Question]) -> list[Question]:
    return list({question.prompt: question for question in questions}.values())[:count]


def adapt_it(out: Path, base: Path, tuned: Path, onto: Path, folder: Path) -> None:
    """Distil the fine-tuned version 1 into version 2 + diff vector."""
    from tuneport import adapt

    prompts, select, test = (folder / name for name in _FILES)
    adapt(
        base,
        tuned,
        onto,
        out,
        prompts=prompts,
        select=select,
        test=test,
        rungs="distil",
        max_new_tokens=family_scores.MAX_NEW_TOKENS,
        eval_batch_size=family_scores.BATCH,
    )


def adapted(asked: Sequence[Question], said: Mapping[str, Sequence[str]], chosen: str, seed: int) -> dict[str, Any]:
    """The record: accuracy on all instructions, the difference to plain addition, and the recovered gain."""
    places = [place for place, question in enumerate(asked) if question.task in INSTRUCTION_TASKS]
    right = {
        model: family_scores.exact_matches(
            [answers[place] for place in places], [asked[place].answer for place in places]
        )
        for model, answers in said.items()
    }
    found = statistics.accuracy(right["v2-adapted"])
    change = statistics.difference(right["v2-adapted"], right["v2-transferred"], seed)
    share = statistics.recovered_gain(right["v2"], right["v2-adapted"], right["v2-tuned"], seed)
    return {
        "prompts": PROMPTS,
        "chosen": chosen,
        "n": len(places),
        "accuracy": found.value,
        "difference": change.value,
        "recovered_gain": None if share is None else share.value,
        "intervals": {
            "accuracy": list(found.interval),
            "difference": list(change.interval),
            **({} if share is None else {"recovered_gain": list(share.interval)}),
        },
    }


def claims(record: Mapping[str, Any]) -> dict[str, bool]:
    """What adaptation is to show."""
    low, _ = record["intervals"]["difference"]
    return {
        f"adapted on {record['prompts']} unlabelled prompts: no worse than addition (within 3 points)": low
        > -statistics.NO_HARM
    }
