"""Writes the folder of a study that never was: right and wrong answers drawn as often as a test says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims.paper_claims import VERSIONS
from experiments.claims.study_evidence import Model, base
from tuneport.results.answered import LOSS

TASKS, UNSEEN = ("word-problems", "orders"), ("facts-completed",)
STEPS = 100
Share = Callable[[Model, int, str, int], float]  # model, its steps in all, task, family → share of right answers


def models() -> Iterator[tuple[Model, int]]:
    """Every model that a study of all pairs scores, with all steps that went into it."""
    for place, version in enumerate(VERSIONS):
        yield base(version), 0
        for times in range(1, 6):
            yield Model("tuned", None, version, "sft"), times * STEPS
        for source in VERSIONS:
            if source != version:
                yield Model("transfer", source, version, "sft"), STEPS
                yield Model("transfer-then-tune", source, version, "sft"), 2 * STEPS
        if place:
            yield Model("recycle-iterative", VERSIONS[place - 1], version, "sft"), (place + 1) * STEPS
            for steps in dict.fromkeys((2 * STEPS, (place + 1) * STEPS)):
                yield Model("recycle-direct", VERSIONS[place - 1], version, "sft"), steps


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
        "study": {"families": list(range(families))}, "results": [], "convergence": [], "paths": [], "distances": [],
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
            told = {**model._asdict(), "name": f"{model} for {steps} steps", "family": family, "seed": 0}
            document["results"].append(
                {
                    **told, "step": None, "steps_total": steps, "split": "test", "status": "done",
                    "scores": {task: {"evaluation": place} for task, place in places.items()},
                    "evaluations": [
                        {"identity": place, "folder": place, "status": "done"} for place in sorted(set(places.values()))
                    ],
                }
            )  # fmt: skip
            if model.kind in ("transfer-then-tune", "recycle-iterative", "recycle-direct"):
                longer = model.kind == "recycle-direct" and steps > 2 * STEPS  # of which nothing is asked
                matched = {"level": 0.8, "steps_of_reference": STEPS}
                matched["steps_to_match"] = 0 if longer else round((1 - saved) * STEPS)
                document["convergence"].append({**told, "task": TASKS[0], **matched})
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
