"""One family: every pair climbed, what it is compared with at equal information, and curves over the number of prompts.

A family is that of the verdict's study (families/kin.py): five checkpoints of one pretraining run, branches of the last one, and
a foreign model. Each source is fine-tuned for 250 steps; distilling takes 50. Scores are exact matches on 450 questions, a
third of each kind, which no training saw. Everything is resumed where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tuneport
from tuneport.families import corpus, family_scores, lessons
from tuneport.families.kin import PREFIX, SIZES, make_kin
from tuneport.families.lesson_questions import KNOWN_FACTS, ORDERS, WORD_PROBLEMS, Question, bare, training_questions
from tuneport.families.syllabus import VALIDATED_NAMES
from tuneport.files.writing import write_lines, write_whole

FORMAT = "tuneport.ladder-family/1"
PAIRS = (
    ("M4", "M5"), ("M3", "M5"), ("M2", "M5"), ("M1", "M5"), ("M5", "M3"), ("M5", "longer"), ("M5", "foreign"), ("M5", "domain"),
)  # fmt: skip
COMPARED = (("M4", "M5"), ("M3", "M5"), ("M2", "M5"))  # pairs with controls and curves
PROMPTS, CURVE = 512, (16, 64, 256, 1024)
SELECT, EACH = 200, 150
TUNED: dict[str, Any] = {"steps": 250, "learning_rate": 2e-3, "batch_size": 32, "beta2": 0.95, "weight_decay": 0.01}
SHORT: dict[str, Any] = {"steps": 50, "learning_rate": 1e-3, "batch_size": 32}
LORA, LORA_RATE = "rank=16,save=lm_head", 5e-3


@dataclass(frozen=True)
class Trial:
    """Where a family's files are."""

    place: Path
    seed: int

    @property
    def family(self) -> Path:
        """The models, and the files that come with them."""
        return self.place / "family"

    def model(self, name: str) -> Path:
        """A version."""
        return self.family / f"{PREFIX}{name}"

    def file(self, name: str) -> Path:
        """A file of prompts or examples."""
        return self.place / f"{name}.jsonl"

    @property
    def chat(self) -> dict[str, Any]:
        """What a base lacks, for a fine-tuning of it."""
        return {"chat_template": self.family / f"{PREFIX}chat.jinja", "end_token": "<end>"}

    def made(self, name: str) -> Path:
        """A model that a trial makes."""
        return self.place / "models" / name


def run(place: Path, seed: int) -> dict[str, Any]:
    """The whole family, and its record."""
    begun, trial = time.monotonic(), Trial(place, seed)
    place.mkdir(parents=True, exist_ok=True)
    (place / "models").mkdir(exist_ok=True)
    (place / "scores").mkdir(exist_ok=True)
    make_kin(trial.family, seed, SIZES["small"])
    write_parts(trial)
    record: dict[str, Any] = {"format": FORMAT, "family": seed, "pairs": {}}
    for source, target in PAIRS:
        record["pairs"][f"{source} → {target}"] = pair_record(trial, source, target)
    seconds = place / "seconds.json"  # of all runs
    before = json.loads(seconds.read_text()) if seconds.exists() else 0.0
    record["seconds"] = round(before + time.monotonic() - begun)
    write_whole(seconds, json.dumps(record["seconds"]))
    return record


def write_parts(trial: Trial) -> None:
    """Prompts of several numbers, each holding the shorter ones; prompts to select by; questions to report."""
    world = corpus.make_world(trial.seed)
    rows = [json.loads(line) for line in (trial.family / f"{PREFIX}questions.jsonl").read_text().splitlines()]
    asked = [Question(row["task"], row["prompt"], row["answer"]) for row in rows]
    shares = SIZES["small"].run.amounts.taught_shares
    drawn = training_questions(world, f"ladder prompts {trial.seed}", 8 * CURVE[-1], shares=shares, never=asked)
    different = list({question.prompt: question for question in drawn}.values())
    for number in sorted({*CURVE, PROMPTS}):
        write_lines(trial.file(f"prompts-{number}"), map(_unanswered, different[:number]))
    write_lines(trial.file("examples"), map(lessons.as_conversation, different[:PROMPTS]))
    fitted = different[: CURVE[-1]]
    unseen = training_questions(
        world, f"ladder select {trial.seed}", 8 * SELECT, shares=shares, never=[*asked, *fitted], names=VALIDATED_NAMES
    )
    taught = (trial.family / f"{PREFIX}instructions.jsonl").read_text().splitlines()
    known = {json.loads(line)["messages"][0]["content"] for line in taught}
    select = [q for q in {q.prompt: q for q in unseen}.values() if bare(q.prompt) not in known]
    write_lines(trial.file("select"), map(_unanswered, select[:SELECT]))
    test = [q for task in (WORD_PROBLEMS, KNOWN_FACTS, ORDERS) for q in [q for q in asked if q.task == task][:EACH]]
    write_lines(
        trial.file("test"), ({key: row[key] for key in ("messages", "answer")} for row in map(lessons.as_message, test))
    )


def _unanswered(question: Question) -> Mapping[str, Any]:
    return {"messages": lessons.as_message(question)["messages"]}


def tuned(trial: Trial, name: str) -> Path:
    """A version fine-tuned on its own."""
    out = trial.made(f"tuned-{name}")
    data = trial.family / f"{PREFIX}instructions.jsonl"
    tuneport.tune(trial.model(name), data, recipe="sft", out=out, seed=trial.seed, **TUNED, **trial.chat)
    return out


def pair_record(trial: Trial, source: str, target: str) -> dict[str, Any]:
    """One pair: the ladder, the direct fine-tuning, controls and curves."""
    models = (trial.model(source), tuned(trial, source), trial.model(target))
    name = f"{source}-{target}"
    found = climbed(trial, name, models, PROMPTS)
    texts = [f"{target}-text" if target in ("domain", "longer") else "text"]
    record: dict[str, Any] = {
        "rungs": found["rungs"],
        "chosen": found["chosen"],
        "references": found["references"],
        "direct": scored(trial, f"direct-{target}", tuned(trial, target), texts),
        "texts": {
            "target": scored(trial, f"plain-{target}", models[2], texts, asked=False),
            "chosen": scored(trial, f"chosen-{name}", trial.made(f"{name}-{PROMPTS}"), texts),
        },
    }
    if (source, target) not in COMPARED:
        return record
    record["curve"] = {str(n): climbed(trial, name, models, n, rungs="distil")["rungs"] for n in CURVE}
    record["curve"][str(PROMPTS)] = climbed(trial, f"{name}-distil", models, PROMPTS, rungs="distil")["rungs"]
    record["controls"] = controls(trial, name, models, texts)
    return record


def climbed(trial: Trial, name: str, models: Sequence[Path], prompts: int, **more: Any) -> dict[str, Any]:
    """adapt.json without its plan."""
    out = trial.made(f"{name}-{prompts}")
    given = {"select": trial.file("select"), "test": trial.file("test"), "max_new_tokens": family_scores.MAX_NEW_TOKENS}
    batch = {"eval_batch_size": family_scores.BATCH}
    found = tuneport.adapt(*models, out, prompts=trial.file(f"prompts-{prompts}"), **given, **batch, **more)
    return {key: value for key, value in found.record.items() if key != "plan"}


def controls(trial: Trial, name: str, models: Sequence[Path], texts: Sequence[str]) -> dict[str, Any]:
    """What the same prompts, or as many labelled examples, give otherwise."""
    base, source, target = models
    added = tuneport.transfer(base, source, target, trial.made(f"{name}-added")).out
    prompts = trial.file(f"prompts-{PROMPTS}")
    answered = trial.file(f"answered-{name}")
    said = family_scores.ask(source, _with_answers(trial, prompts), trial.place / "scores" / f"said-{name}.json")
    rows = (json.loads(line)["messages"] for line in prompts.read_text().splitlines())
    write_lines(
        answered,
        (
            {"messages": [*row, {"role": "assistant", "content": words}]}
            for row, words in zip(rows, said, strict=True)
            if words
        ),
    )
    examples = trial.file("examples")
    lora: dict[str, Any] = {"recipe": "sft", "lora": LORA, **SHORT, "learning_rate": LORA_RATE}
    ways: dict[str, tuple[Path, Path, dict[str, Any]]] = {
        "distil without Δ": (target, prompts, {"recipe": "distil", "teacher": source, **SHORT, **trial.chat}),
        "trained on the source's answers": (added, answered, {"recipe": "sft", **SHORT}),
        "LoRA on labels, from the target": (target, examples, {**lora, **trial.chat}),
        "LoRA on labels, from target + Δ": (added, examples, lora),
    }
    record = {}
    for number, (way, (start, data, choices)) in enumerate(ways.items()):
        out = trial.made(f"{name}-control-{number}")
        tuneport.tune(start, data, out=out, seed=trial.seed, **choices)
        if "lora" in choices:
            out = tuneport.transfer(start, out, start, trial.made(f"{name}-control-{number}-merged")).out
        record[way] = scored(trial, f"{name}-control-{number}", out, texts)
    return record


def _with_answers(trial: Trial, prompts: Path) -> Path:
    """Prompts as `evaluate` asks them, where nobody judges the answers."""
    place = trial.file(f"{prompts.stem}-asked")
    rows = (json.loads(line) for line in prompts.read_text().splitlines())
    write_lines(place, ({"task": "asked", **row, "answer": "-"} for row in rows))
    return place


def scored(trial: Trial, name: str, model: Path, texts: Sequence[str], *, asked: bool = True) -> dict[str, Any]:
    """Right answers of the test, and the loss of texts."""
    tasks = [trial.file("test")] * asked + [trial.family / f"{PREFIX}{text}.jsonl" for text in texts]
    limits = {"max_new_tokens": family_scores.MAX_NEW_TOKENS, "batch_size": family_scores.BATCH, "limit": None}
    found = tuneport.evaluate(model, tasks, trial.place / "scores" / f"{name}.json", allow_selection=True, **limits)
    tasks_of = found["models"][0]["tasks"]
    return {task: {key: told[key] for key in ("value", "interval", "n")} for task, told in tasks_of.items()}
