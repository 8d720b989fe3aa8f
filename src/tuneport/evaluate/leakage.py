"""Test questions that stand in what a model was trained or chosen on, found by digest.

In come the test's examples and folders or files of training data (JSONL, or the digests that `tune` leaves beside a
model), out comes which examples occur there. Only digests are held, so training data may be large.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneport.errors import UsageError
from tuneport.evaluate.examples import Example, OwnTask
from tuneport.tune.leakage import example_digest

HASHES = "tune-hashes.txt"  # what `tune` leaves beside a model: a digest a line
_DIGEST = re.compile(r"[0-9a-f]{32}")


def leaked(tasks: Sequence[OwnTask], trained_on: Sequence[str | Path]) -> list[dict[str, Any]]:
    """For each task, the ids of its examples that occur in the training data, and in which of it.

    An example counts as seen if its question, or its question with the answer, is a training text up to case and
    blanks. Raises `UsageError` where there is nothing to read.
    """
    if not trained_on:
        return []
    wanted: dict[str, list[tuple[int, str]]] = {}
    for place, task in enumerate(tasks):
        for example in task.examples:
            for text in _asked(example):
                wanted.setdefault(example_digest(text), []).append((place, example.id))
    rows = []
    for source in trained_on:
        path, seen = Path(source).expanduser(), set[tuple[int, str]]()
        for digest in _digests(path):
            seen.update(wanted.get(digest, ()))
        for place, task in enumerate(tasks):
            ids = [example.id for example in task.examples if (place, example.id) in seen]
            if ids:
                found = {"task": task.name, "data": path.name, "count": len(ids), "of": len(task.examples)}
                rows.append({**found, "ids": ids})
    return rows


def _asked(example: Example) -> set[str]:
    """The texts by which a test example may be found: its question, the last turn of it, either with the answer."""
    if not example.question:
        return {example.answer}
    questions = {example.asked}
    if example.messages is not None:
        questions.add(example.messages[-1]["content"])
    return questions | {f"{question} {example.answer}" for question in questions}


def in_words(row: Mapping[str, Any]) -> str:
    """A row of `leaked` as a warning."""
    shown = ", ".join(row["ids"][:5]) + (", …" if row["count"] > 5 else "")
    return (
        f"{row['count']:,} of {row['of']:,} examples of {row['task']} stand in the training data {row['data']} "
        f"({shown}): scores on them measure memory. Leave them out of the one or the other."
    )


def _digests(path: Path) -> Iterator[str]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix == ".jsonl" or file.name == HASHES)
    elif path.is_file():
        files = [path]
    else:
        raise UsageError(f"--trained-on {path}: no such file or folder.")
    if not files:
        raise UsageError(f"--trained-on {path}: holds no .jsonl file and no {HASHES}.")
    for file in files:
        yield from _of_file(file)


def _of_file(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text:
                continue
            if _DIGEST.fullmatch(text):
                yield text
                continue
            try:
                row = json.loads(text)
            except ValueError:
                raise UsageError(f"--trained-on {file.name}:{number}: neither JSON nor a digest.") from None
            if isinstance(row, dict):
                yield from map(example_digest, _texts(row))


def _texts(row: Mapping[str, Any]) -> Iterator[str]:
    """What a training example may be found by: its question, its question with the answer, its text."""
    if isinstance(row.get("text"), str):
        yield row["text"]
    answer = row.get("completion", row.get("answer", row.get("chosen")))
    prompt, messages = row.get("prompt"), row.get("messages")
    if isinstance(prompt, list):  # a conversation, as preference data has it
        messages, prompt = prompt, None
    if isinstance(messages, list):
        contents = [str(message.get("content", "")) for message in messages if isinstance(message, dict)]
        roles = [message.get("role") for message in messages if isinstance(message, dict)]
        for end, role in enumerate(roles):  # every turn of the user's asks something
            if role == "user":
                yield contents[end]
                yield "\n".join(contents[: end + 1])
                if end + 1 < len(contents):
                    yield f"{contents[end]} {contents[end + 1]}"
    if isinstance(prompt, str):
        yield prompt
        if isinstance(answer, str | int | float):
            yield f"{prompt} {answer}"
