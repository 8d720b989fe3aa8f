"""The two versions of a finished demo, for experiments that pretrain nothing.

In comes the folder that `tuneport demo` left; out come its base models, its world, and the questions that no training
may hold.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tuneport.errors import UsageError
from tuneport.families import corpus, order_questions
from tuneport.families.corpus import World
from tuneport.families.order_questions import Question
from tuneport.files.opening import read_text
from tuneport.output.workdir import PLAN

_FORMAT = "tuneport-demo-1"


@dataclass(frozen=True)
class Grown:
    """A family: both base versions, the seed of everything about it, and what its models are asked."""

    v1: Path
    v2: Path
    seed: int
    world: World
    asked: tuple[Question, ...]

    def asked_about(self, tasks: tuple[str, ...]) -> list[Question]:
        """The questions of these tasks, task by task."""
        return [question for task in tasks for question in self.asked if question.task == task]


def open_family(folder: Path) -> Grown:
    """The family of a finished demo. Raises `UsageError` where `folder` is none."""
    try:
        plan = json.loads(read_text(folder / PLAN))
        if plan["format"] != _FORMAT or not (folder / "summary.json").is_file():
            raise ValueError("begun as something else, or not finished")
        seed = int(plan["seed"])
        asked = tuple(order_questions.read_questions(folder / "questions.jsonl"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--family {folder} is no finished demo ({error}). Make one: tuneport demo --out {folder}, or leave "
            "--family out."
        ) from None
    models = folder / "models"
    return Grown(models / "v1", models / "v2", seed, corpus.make_world(seed), asked)
