"""Writes the folder of a study that never was: right and wrong answers drawn as often as a test says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims.paper_claims import VERSIONS
from experiments.claims.study_evidence import base
from tuneport.results.schema import FURTHER, LOSS, Model

TASKS, UNSEEN = ("word-problems", "orders"), ("facts-completed",)
STEPS = 100
Share = Callable[[Model, int, str, int], float]  # model, its steps in all, task, family → share of right answers


def models() -> Iterator[tuple[Model, int]]:
    """Every model that a study of all pairs scores, with all steps that went into it."""
    for place, version in enumerate(VERSIONS):
        yield base(version), 0
        for times in range(1, 6):
            yield Model("tuned", None, version, "sft", steps=None if times == 1 else times * STEPS), times * STEPS
        for source in VERSIONS:
            if source != version:
                yield Model("transfer", source, version, "sft"), STEPS
                yield Model("transfer-then-tune", source, version, "sft"), 2 * STEPS
        if place:
            yield Model("recycle-iterative", VERSIONS[place - 1], version, "sft"), (place + 1) * STEPS
            for steps in dict.fromkeys((2 * STEPS, (place + 1) * STEPS)):
                longer = None if steps == 2 * STEPS else steps
                yield Model("recycle-direct", VERSIONS[place - 1], version, "sft", steps=longer), steps


def write_study(
    folder: Path,
    share: Share,
    families: int = 4,
    n: int = 250,
    saved: float = 0.5,
    scored: Iterable[tuple[Model, int]] | None = None,
    tasks: Sequence[str] = (*TASKS, *UNSEEN),
) -> Path:
    """A folder with results.json and the examples of every evaluation; `saved` is the share of steps saved."""
    rng, every = np.random.default_rng(0), list(models() if scored is None else scored)
    document: dict[str, Any] = {
        "study": {"families": list(range(families))}, "results": [], "paths": [], "distances": [],
    }  # fmt: skip
    for family in range(families):
        for number, (model, steps) in enumerate(every):
            places = {task: f"evaluate-{'loss-' if task.endswith(LOSS) else ''}{family}-{number}" for task in tasks}
            for place in sorted(set(places.values())):
                (folder / "steps" / place).mkdir(parents=True)
                lines = [
                    {
                        "task": task.removesuffix(LOSS),
                        "id": str(example),
                        "score": float(rng.random() < share(model, steps, task, family)),
                    }
                    for task in tasks
                    for example in range(n if places[task] == place else 0)
                ]
                text = "".join(json.dumps(line) + "\n" for line in lines)
                (folder / "steps" / place / "scores.examples.jsonl").write_text(text)
            told = {**vars(model), "family": family, "seed": 0, "steps_total": steps, "status": "done"}
            scores = {
                task: {**_score(0.5), "folder": place, "asked_as": task.removesuffix(LOSS)}
                for task, place in places.items()
            }
            document["results"].append({**told, "step": None, "scores": scores})
            for step, value in _curve(model, saved) if model.steps is None else ():
                document["results"].append({**told, "step": step, "scores": {TASKS[0]: _score(value)}})
        for place, a in enumerate(VERSIONS):
            for b in VERSIONS[place + 1 :]:
                apart = abs(VERSIONS.index(a) - VERSIONS.index(b))
                document["distances"].append(
                    {"a": a, "b": b, "family": family, "distance": float(apart), "cosine": 1 / (1 + apart)}
                )
                document["paths"].append(
                    {"which": "bases", "source": a, "target": b, "family": family, "barrier": 0.01, "connected": True}
                )
    (folder / "results.json").write_text(json.dumps(document))
    return folder


def _score(value: float) -> dict[str, Any]:
    return {"metric": "exact_match", "value": value, "stderr": None, "n": 4, "higher_is_better": True}


def _curve(model: Model, saved: float) -> list[tuple[int, float]]:
    """FT(M) grows to 0.8; what was fine-tuned from a transferred start has that when so many steps are saved."""
    if model.kind == "tuned":
        return [(0, 0.1), (STEPS, 0.8)]
    return [(0, 0.3), (round((1 - saved) * STEPS), 0.8), (2 * STEPS, 0.9)] if model.kind in FURTHER else []
