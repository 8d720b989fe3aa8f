"""What each model did on each example: the scores that `evaluate` left beside its record, as arrays, and its answers.

In comes a step's folder, out come one array a task, and on demand the answers to some examples.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneport.files.json_text import read_json
from tuneport.files.opening import read_lines
from tuneport.reporting.tables.lenient import number_or
from tuneport.results.answered import Answered, answered

EXAMPLES = "scores.examples.jsonl"


def read_outcomes(folder: Path) -> dict[str, Answered]:
    """By task; empty where the file is missing, and without what cannot be read in it."""
    return answered(_lines(folder))


@dataclass(frozen=True)
class Answer:
    """What a model said to one example, whether it counted, what was asked, and what would have been right."""

    said: str
    score: float
    asked: str | None
    answer: str | None


def read_answers(folder: Path, wanted: Mapping[str, Collection[str]]) -> dict[tuple[str, str], Answer]:
    """The answers to the `wanted` examples (ids, by task) that were said in words."""
    found = {}
    for line in _lines(folder):
        task, id, said = str(line.get("task")), str(line.get("id")), line.get("said")
        if said is None or id not in wanted.get(task, ()):
            continue
        score = number_or(line.get("score"), None)
        if score is not None:
            asked, right = (None if line.get(name) is None else str(line[name]) for name in ("asked", "answer"))
            found[task, id] = Answer(str(said), score, asked, right)
    return found


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    """The objects of a step's file of examples, one a line."""
    file = folder / EXAMPLES
    if file.is_symlink() or folder.is_symlink():
        return  # a page is passed on: what lies elsewhere is not read into it
    with suppress(OSError), closing(read_lines(file, folder)) as lines:
        for text in lines:
            try:
                line = read_json(text.decode("utf-8", "replace"), kept=False)
            except ValueError:
                continue  # the torn end of a file; what is missing shows as examples that are not paired
            if isinstance(line, dict):
                yield line
