"""Score a saved model on the lab's questions with `tuneport evaluate`, as any user would.

Greedy, from the checkpoint in float32; the whole answer must match, including its written steps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuneport.examples.questions import read_tasks
from tuneport.files.opening import read_text
from tuneport.scoring.keeping import examples_file

MAX_NEW_TOKENS = 24
BATCH = 256


def ask(model: Path, questions: Path, out: Path, max_new_tokens: int = MAX_NEW_TOKENS, batch: int = BATCH) -> list[str]:
    """The model's answers to the questions of a file, in its order; the record and the outcomes stay at `out`."""
    _evaluate(model, questions, out, max_new_tokens=max_new_tokens, batch_size=batch)
    said = {(row["task"], row["id"]): row["said"] for row in _outcomes(out)}
    asked = [(task.name, example) for task in read_tasks([questions]) for example in task.examples]
    return [said[name, example.id] for name, example in sorted(asked, key=lambda pair: pair[1].line)]


def losses(model: Path, examples: Path, out: Path, *, loss: bool = False) -> list[float]:
    """Each example's loss a token, in the order of the file: of its `text`, or with `loss` of its answer."""
    _evaluate(model, examples, out, loss=loss, batch_size=1)
    return [row["score"] for row in _outcomes(out)]


def exact_matches(said: Sequence[str], expected: Sequence[str]) -> list[bool]:
    """Which answers are the expected ones to the letter."""
    return [given.strip() == wanted.strip() for given, wanted in zip(said, expected, strict=True)]


def _evaluate(model: Path, tasks: Path, out: Path, **choices: Any) -> None:
    from tuneport import evaluate

    # The demo's curves are read on a part of its test, and nothing is chosen by them (docs/design/tuning.md).
    evaluate([model], [tasks], out, allow_selection=True, **choices)


def _outcomes(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_text(examples_file(out), most=2**30).splitlines()]
