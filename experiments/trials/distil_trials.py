"""Trials of `tune --recipe distil` on families of tiny models: figures for docs/results/distil-trials.json.

    python -m experiments.trials.distil_trials --out DIR

What addition, and distillation from the tuned source on 64 and 512 prompts, give on the last version; what the learning of other
tokenizers' tokens as text costs, by taking the distribution away from a part of the tokens; what texts to keep cost and save. The
families (101 and 102) were seen before, when the recipe was tried out: nothing here is proof. What is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import numpy as np

import tuneport
from tuneport.families.versions import make_family
from tuneport.tuning.distillation import answer_lessons, distil_trainer

FAMILIES = (101, 102)
PAIRS = (("M4", 64), ("M4", 512), ("M3", 64), ("M3", 512))
FURTHER = (("M3", 512), ("M4", 64))  # where tokens are hidden and texts are kept
TARGET = "M5"
OPTIMIZER = {"batch_size": 32, "beta2": 0.95, "weight_decay": 0.01}
TUNING = {"recipe": "sft", "steps": 250, "learning_rate": 2e-3, "end_token": "<end>", **OPTIMIZER}
DISTIL = {"recipe": "distil", "steps": 50, "learning_rate": 1e-3, "max_completion_length": 32, **OPTIMIZER}
HIDDEN = (0.25, 1.0)  # shares of tokens
WEIGHTS = (0.1, 1.0, 10.0)
KEPT = 100  # texts to keep; the others are measured


def trials(folder: Path, family: int) -> dict[str, Any]:
    """Exact match of each model (the mean of three tasks, %), and its loss on held-out texts."""
    folder.mkdir(parents=True, exist_ok=True)
    lab = make_family(folder / "fam", family)
    write_files(folder, lab)
    found: dict[str, Any] = {TARGET: measured(folder, TARGET, lab / TARGET)}

    def tuned(version: str) -> Path:
        given = {"data": [lab / "instructions.jsonl"], "chat_template": lab / "chat.jinja", **TUNING}
        return tuneport.tune(lab / version, out=folder / f"{version}-tuned", **given).out

    def distilled(source: str, prompts: int, name: str, **more: Any) -> Path:
        given = {"data": [folder / f"prompts-{prompts}.jsonl"], "teacher": folder / f"{source}-tuned", **DISTIL, **more}
        return tuneport.tune(folder / f"{source}-{TARGET}", out=folder / name, **given).out

    for version in (TARGET, *dict(PAIRS)):
        found[f"{version} tuned"] = measured(folder, f"{version}-tuned", tuned(version))
    for source in dict(PAIRS):
        moved = folder / f"{source}-{TARGET}"
        if not moved.exists():
            tuneport.transfer(base=lab / source, tuned=folder / f"{source}-tuned", onto=lab / TARGET, out=moved)
        found[f"{source} add"] = measured(folder, moved.name, moved)
    for source, prompts in PAIRS:
        name = f"{source}-{TARGET}-distil-{prompts}"
        found[f"{source} distil {prompts}"] = measured(folder, name, distilled(source, prompts, name))
    for source, prompts in FURTHER:
        for share in HIDDEN:
            for left_out in (False, True) if share < 1 else (False,):
                name = f"u-{source}-{share}-{left_out}"
                with hidden(share, left_out=left_out):
                    made = distilled(source, prompts, name)
                how = "left out" if left_out else "as text"
                found[f"{source} distil {prompts}, {share:.0%} of tokens {how}"] = measured(folder, name, made)
        for weight in WEIGHTS:
            name = f"r-{source}-{weight}"
            made = distilled(source, prompts, name, retain=[folder / "texts-keep.jsonl"], retain_weight=weight)
            found[f"{source} distil {prompts}, texts kept at {weight:g}"] = measured(folder, name, made)
    return found


def write_files(folder: Path, lab: Path) -> None:
    """Prompts, which are nobody's training data, and texts."""
    rows = [json.loads(line) for line in (lab / "prompts.jsonl").read_text().splitlines()]
    random.Random(0).shuffle(rows)
    for count in {prompts for _, prompts in PAIRS}:
        lines = [json.dumps({"messages": row["prompt"]}) + "\n" for row in rows[:count]]
        (folder / f"prompts-{count}.jsonl").write_text("".join(lines))
    texts = (lab / "held-out-text.jsonl").read_text().splitlines(keepends=True)
    (folder / "texts-keep.jsonl").write_text("".join(texts[:KEPT]))
    (folder / "texts-test.jsonl").write_text("".join(texts[KEPT:]))


def measured(folder: Path, name: str, model: Path) -> dict[str, float]:
    """A model's scores, in %, and its loss on texts."""
    asked = evaluated(folder / f"scores-{name}.json", model, folder / "fam" / "questions.jsonl", max_new_tokens=24)
    (loss,) = evaluated(folder / f"texts-{name}.json", model, folder / "texts-test.jsonl", loss=True)
    return {"exact_match": round(100 * fmean(asked), 1), "text_loss": round(loss, 4)}


def evaluated(out: Path, model: Path, tasks: Path, **asking: Any) -> list[float]:
    """What `evaluate` says of each task."""
    if not out.exists():
        tuneport.evaluate(models=[model], tasks=[tasks], out=out, batch_size=256, **asking)
    (scored,) = json.loads(out.read_text())["models"]
    return [task["value"] for task in scored["tasks"].values()]


@contextmanager
def hidden(share: float, *, left_out: bool) -> Iterator[None]:
    """Within it a part of the answers' tokens has no partner, as with another tokenizer; ``left_out``: nor any loss."""
    drawn, lesson = np.random.default_rng(0), answer_lessons.Student.lesson
    losses: Callable[..., Any] = distil_trainer._losses

    def hiding(student: Any, prompt: Any, answer: Any, heard: Any, counts: Any) -> Any:
        found = lesson(student, prompt, answer, heard, counts)
        if found is not None:
            found.paired[drawn.random(len(found.paired)) < share] = False
        return found

    def leaving(logits: Any, tokens: Any, inputs: Any) -> Any:
        return losses(logits, tokens, inputs) * (inputs["paired"] if left_out else 1)

    with patch.object(answer_lessons.Student, "lesson", hiding), patch.object(distil_trainer, "_losses", leaving):
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    record = {str(family): trials(out / str(family), family) for family in FAMILIES}
    (out / "distil-trials.json").write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
