"""A study's folder, made up: families, seeds, five versions, and something of everything that can go wrong.

The numbers are invented (seeded); the files are as `tuneport study` writes them. Nothing here is a result of anything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np

from tuneport.results.schema import BASE, DIRECT, ITERATIVE, THEN_TUNED, TRANSFER, TUNED, Model

VERSIONS = ("M1", "M2", "M3", "M4", "M5")
BASES = {"M1": 0.06, "M2": 0.09, "M3": 0.12, "M4": 0.28, "M5": 0.3}
TUNINGS = {"M1": 0.37, "M2": 0.43, "M3": 0.49, "M4": 0.8, "M5": 0.85}
BLOCK = {"M1": 1, "M2": 1, "M3": 1, "M4": 2, "M5": 2}
TASKS = ("sums", "facts")
PATHS = (*pairwise(VERSIONS), ("M1", "M3"))  # the pairs of versions between which loss is followed
N, STEPS = 200, 250
NOTE = "All of it is made up."
STUDY = f"""[study]
name = "made-up"
notes = ["{NOTE}"]

""" + "\n".join(f'[[version]]\nname = "{name}"\nmodel = "lab:{name}"\n' for name in VERSIONS)
_EXPECTED = (
    (BASE, None, "M5", 65.5, ""),
    (TRANSFER, "M4", "M5", 77.1, ""),
    (TRANSFER, "M1", "M5", 19.6, "10.6 in the text"),
    (TUNED, None, "M5", 75.5, "75.6 in Table 6"),
)
EXPECTED = [
    {"table": "3", "task": "sums", "tuning": "sft"}
    | dict(zip(("kind", "source", "target", "value", "note"), row, strict=True))
    for row in _EXPECTED
]


@dataclass(frozen=True)
class Asked:
    """One model to be scored: its share of right answers, and all steps that went into it."""

    model: Model
    share: float
    total: int
    start: float | None = None  # of its curve, where it has one

    @property
    def name(self) -> str:
        return self.model.name()


@dataclass
class MadeUp:
    """What is put into the folder; tests change it before `write`, or the files after it."""

    root: Path
    families: tuple[int, ...] = (0, 1)
    seeds: tuple[int, ...] = (0,)
    failed: tuple[int, int, str, str] | None = (0, 0, "M1", "M5")  # family, seed, source, target
    tasks: tuple[str, ...] = TASKS
    error: str = "ScoringError: the model could not be scored on sums: the disk is full."
    rows: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    paths: list[dict[str, Any]] = field(default_factory=list)
    distances: list[dict[str, Any]] = field(default_factory=list)
    rounding: list[dict[str, Any]] = field(default_factory=list)

    def write(self) -> Path:
        """The whole folder."""
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "study.toml").write_text(STUDY, encoding="utf-8")
        for family in self.families:
            _Family(self, family).write()
        study = {"name": "made-up", "notes": [NOTE], "versions": VERSIONS, "families": self.families}
        told = {
            "format": "tuneport.results/1",
            "study": {**study, "expected": EXPECTED},
            **{name: getattr(self, name) for name in ("paths", "distances", "rounding", "steps")},
            "results": self.rows,
        }
        (self.root / "results.json").write_text(json.dumps(told), encoding="utf-8")
        return self.root

    def step(self, kind: str, name: str, **record: Any) -> dict[str, Any]:
        """A step with its record."""
        identity = f"{len(self.steps):016x}"
        folder = f"{kind}-{len(self.steps):04d}"
        outcome, error = record.get("outcome", "done"), record.get("error")
        told = {"name": name, "kind": kind, "identity": identity, "outcome": outcome, "error": error, "seconds": 1.5}
        defaults = {"choices": {}, "parents": {}, "measured": {}, "outputs": {}, "about": {}}
        more = {"format": "tuneport.record/1", "command": f"tuneport {kind} '{name}'", "versions": {"tuneport": "0"}}
        place = self.root / "steps" / folder
        place.mkdir(parents=True)
        whole = {**defaults, **more, **record, **told}
        (place / "record.json").write_text(json.dumps(whole), encoding="utf-8")
        self.steps.append({**told, "folder": folder, "parents": []})
        return self.steps[-1]


def _on_target(asked: Asked) -> int:
    """The steps on a version itself: all of a plain fine-tuning's, those after the transfer of another."""
    if asked.model.kind in (BASE, TRANSFER):
        return 0
    return {TUNED: asked.total, DIRECT: asked.total - STEPS}.get(asked.model.kind, STEPS)


class _Family:
    """One family: its questions, and the same hard ones for all its models, so that these err alike."""

    def __init__(self, study: MadeUp, family: int) -> None:
        self.study, self.family = study, family
        self.rng = np.random.default_rng([7, family])
        self.hard = {task: self.rng.random(N) for task in study.tasks}
        self.made = study.step("family", f"family versions, seed {family}")

    def write(self) -> None:
        for version in VERSIONS:
            self.score(Asked(Model(BASE, None, version), BASES[version], 0), None)
        for seed in self.study.seeds:
            failed = Model(TRANSFER, *self.study.failed[2:], "sft") if self._fails(seed) and self.study.failed else None
            for asked in models():
                if asked.model == failed:
                    self.fail(asked, seed)
                elif failed is not None and asked.name == f"{failed.name()} → FT":
                    self.wait(asked, seed, failed)
                else:
                    self.score(asked, seed)
            self.lines(seed)

    def _fails(self, seed: int) -> bool:
        return self.study.failed is not None and self.study.failed[:2] == (self.family, seed)

    def result(self, asked: Asked, seed: int | None) -> dict[str, Any]:
        model = asked.model
        return {
            "kind": model.kind,
            "name": asked.name,
            "source": model.source,
            "target": model.target,
            "tuning": model.tuning,
            "scale": model.scale,
            "rate": model.rate,
            "steps": model.steps,
            "family": self.family,
            "seed": seed,
            "steps_total": asked.total,
            "steps_on_target": _on_target(asked),
        }

    def score(self, asked: Asked, seed: int | None) -> None:
        tasks, lines = {}, []
        for task, hard in self.hard.items():
            chance = min(0.99, asked.share + (0.1 if task == "facts" else 0))
            right = (0.7 * hard + 0.3 * self.rng.random(N)) < 0.15 + 0.7 * chance
            tasks[task] = _score(float(right.mean()))
            for n, ok in enumerate(right):
                answer = str(n + n % 7)
                said = answer if ok else f"{n} and then?"
                question = f"How much is {n} and {n % 7}?"
                line = {"task": task, "id": f"{task}-{n}", "score": float(ok)}
                lines.append(line | {"asked": question, "said": said, "answer": answer})
        result = self.result(asked, seed)
        step = self.study.step(
            "evaluate",
            f"evaluate {asked.name}",
            about={"model": asked.name, "results": [result]},
            measured={"tasks": tasks, "warnings": []},
            parents={"tasks.0": {"name": "family", "identity": self.made["identity"], "part": "questions.jsonl"}},
        )
        _write_lines(self.study.root / "steps" / step["folder"] / "scores.examples.jsonl", lines)
        scores = {task: {**told, "folder": step["folder"]} for task, told in tasks.items()}
        self.row(result, scores=scores)
        if asked.start is not None:
            own = asked.total if asked.model.kind == TUNED else STEPS
            before = asked.total - own
            for number in range(0, own + 1, 50):
                grown = (1 - math.exp(-3 * number / own)) / (1 - math.exp(-3))
                value = round(N * (asked.start + (asked.share - asked.start) * grown)) / N
                point = {"step": number, "steps_total": before + number}
                self.row({**result, **point}, scores={"validation": _score(value)})

    def fail(self, asked: Asked, seed: int) -> None:
        result = self.result(asked, seed)
        failure = {"outcome": "failed", "error": self.study.error}
        self.study.step("evaluate", f"evaluate {asked.name}", about={"results": [result]}, **failure)
        self.row(result, status="failed", error=self.study.error)

    def wait(self, asked: Asked, seed: int, failed: Model) -> None:
        why = f"evaluate {failed.name()} failed: {self.study.error}"
        self.row(self.result(asked, seed), status="not run", error=why)
        told = {"identity": f"{len(self.study.steps):016x}", "outcome": "not run", "error": why, "seconds": None}
        self.study.steps.append({**told, "name": f"tune {asked.name}", "kind": "tune", "folder": "nowhere"})

    def row(self, result: Mapping[str, Any], **more: Any) -> None:
        plain = {"step": None, "status": "done", "error": None, "scores": {}}
        self.study.rows.append({**plain, **result, **more})

    def lines(self, seed: int) -> None:
        """Paths, distances and rounding."""
        which_seed = {"family": self.family, "seed": seed}
        for a, b in PATHS:
            near = BLOCK[a] == BLOCK[b]
            for which, ends, high in (
                ("bases", (a, b), 0.01 if near else 0.06),
                ("tuned", (f"FT({a})", f"FT({b})"), 0.1 if near else 1.4),
                ("transferred to tuned", (f"{b} + Δ({a})", f"FT({b})"), 0.02 if near else 0.3),
            ):
                told = {"a": ends[0], "b": ends[1], "which": which, "source": a, "target": b}
                told |= {"tuning": None if which == "bases" else "sft", **which_seed}
                self.study.paths.append({**told, **_path(high * (0.8 + 0.4 * self.rng.random()))})
        for a, b in combinations(VERSIONS, 2):
            apart = VERSIONS.index(b) - VERSIONS.index(a) + 3 * (BLOCK[a] != BLOCK[b])
            told = {"a": a, "b": b, "tuning": "sft", **which_seed, "cosine": 0.7 / apart}
            told |= {"diff_norm_a": 2.0 + self.family, "diff_norm_b": 2.5}
            self.study.distances.append({**told, "distance": 4.0 * apart + self.rng.random()})
        for place, version in enumerate(VERSIONS[:-1], 1):
            told = {"tuned": f"FT({version})", "dtype": "bfloat16", **which_seed}
            measured = {"share_lost": 0.06 + 0.01 * place, "changed": 200_000, "vanished": 9_000 * place}
            self.study.rounding.append({**told, **measured})


def models() -> Iterator[Asked]:
    """Everything that is fine-tuned or transferred, in the paper's order."""
    for version in VERSIONS:
        plain = Model(TUNED, None, version, "sft")
        yield Asked(plain, TUNINGS[version], STEPS, BASES[version])
        longer = Model(TUNED, None, version, "sft", steps=2 * STEPS)
        yield Asked(longer, TUNINGS[version] + 0.03, 2 * STEPS, BASES[version])
    for source, target in permutations(VERSIONS, 2):
        moved = moved_share(source, target)
        yield Asked(Model(TRANSFER, source, target, "sft"), moved, STEPS)
        end = min(0.97, TUNINGS[target] + 0.05 + 0.05 * (BLOCK[source] == BLOCK[target]))
        yield Asked(Model(THEN_TUNED, source, target, "sft"), end, 2 * STEPS, moved)
    for place, (before, version) in enumerate(pairwise(VERSIONS), 2):
        yield Asked(Model(DIRECT, before, version, "sft"), TUNINGS[version] + 0.04, 2 * STEPS)
        if place > 2:
            longer = Model(DIRECT, before, version, "sft", steps=place * STEPS)
            yield Asked(longer, TUNINGS[version] + 0.05, place * STEPS)
        yield Asked(Model(ITERATIVE, before, version, "sft"), TUNINGS[version] + 0.07, place * STEPS)


def moved_share(source: str, target: str) -> float:
    """Much within the second block, little within the first, harm to the second from the first."""
    if BLOCK[source] != BLOCK[target]:
        return BASES[target] - (0.18 if BLOCK[target] == 2 else 0.0)
    return BASES[target] + (0.75 * (TUNINGS[target] - BASES[target]) if BLOCK[target] == 2 else 0.08)


def _score(value: float) -> dict[str, Any]:
    stderr = math.sqrt(value * (1 - value) / (N - 1))
    return {"metric": "exact_match", "value": value, "stderr": stderr, "n": N, "higher_is_better": True}


def _path(high: float) -> dict[str, Any]:
    alphas = [0.0, 0.25, 0.5, 0.625, 0.75, 1.0]
    low, top = high * 0.8, high * 1.25
    return {
        "alphas": alphas,
        "loss": [1.4 - 0.2 * alpha + high * 4 * alpha * (1 - alpha) for alpha in alphas],
        "barrier": high,
        "interval": [low, top],
        "at": 0.5,
        "threshold": 0.05,
        "connected": None if low <= 0.05 <= top else top < 0.05,
        "n": 120,
    }


def _write_lines(file: Path, lines: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
