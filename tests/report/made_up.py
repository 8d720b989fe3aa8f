"""A study's folder, made up: two families, two seeds, five versions, and something of everything that can go wrong.

The numbers are invented (seeded), the files are as a study writes them. Nothing here is a result of anything.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np

VERSIONS = ("M1", "M2", "M3", "M4", "M5")
STRENGTH = {"M1": 0.12, "M2": 0.18, "M3": 0.24, "M4": 0.55, "M5": 0.6}
BLOCK = {"M1": 1, "M2": 1, "M3": 1, "M4": 2, "M5": 2}
N = 200
STEPS = 250
STUDY = """[study]
name = "made-up"
seeds = [0, 1]
families = [0, 1]
notes = ["All of it is made up."]

""" + "\n".join(f'[[version]]\nname = "{name}"\nmodel = "lab:{name}"\n' for name in VERSIONS)


@dataclass
class MadeUp:
    """What is put into the folder; tests change it before `write`."""

    root: Path
    families: tuple[int, ...] = (0, 1)
    seeds: tuple[int, ...] = (0, 1)
    failed: tuple[int, int, str, str] | None = (0, 1, "M1", "M5")  # family, seed, source, target
    error: str = "ScoringError: model M5 + Δ(M1) could not be scored on sums: the disk is full."
    rows: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    paths: list[dict[str, Any]] = field(default_factory=list)
    distances: list[dict[str, Any]] = field(default_factory=list)
    precision: list[dict[str, Any]] = field(default_factory=list)

    def write(self, *, results: bool = True) -> Path:
        """The whole folder."""
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "study.toml").write_text(STUDY, encoding="utf-8")
        for family in self.families:
            self._family(family)
        told = {
            "study": {"name": "made-up", "text": STUDY, "notes": ["All of it is made up."], "expected": EXPECTED},
            "results": self.rows,
            "paths": self.paths,
            "distances": self.distances,
            "precision": self.precision,
            "steps": self.steps,
            "comparisons": [],
        }
        if results:
            (self.root / "results.json").write_text(json.dumps(told), encoding="utf-8")
        return self.root

    def _family(self, family: int) -> None:
        rng = np.random.default_rng([7, family])
        hard = {task: rng.random(N) for task in ("sums", "facts")}
        made = self._step("family", f"family versions, seed {family}", family, {}, measured={"seconds": 1})
        questions = self.root / "steps" / made["folder"] / "questions.jsonl"
        lines = [
            {
                "id": f"{task}-{place}",
                "task": task,
                "messages": [{"role": "user", "content": f"How much is {place} and {place % 7}?"}],
                "answer": str(place + place % 7),
            }
            for task in hard
            for place in range(N)
        ]
        questions.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        common = {"family": family, "made": made, "hard": hard, "rng": rng}
        for version in VERSIONS:
            self._scored(common, None, "base", None, version, STRENGTH[version] * 0.5, 0, version)
        for seed in self.seeds:
            for version in VERSIONS:
                self._scored(common, seed, "tuned", None, version, _tuned(version), STEPS, f"FT({version})")
                self._curve(family, seed, "tuned", None, version, STRENGTH[version] * 0.5, _tuned(version), STEPS)
                self._scored(
                    common, seed, "tuned", None, version, _tuned(version) + 0.03, 2 * STEPS, f"FT({version}), 500 steps"
                )
            for source, target in permutations(VERSIONS, 2):
                fate = self.failed == (family, seed, source, target)
                self._scored(
                    common,
                    seed,
                    "transfer",
                    source,
                    target,
                    _moved(source, target),
                    STEPS,
                    f"{target} + Δ({source})",
                    fails=fate,
                )
                then = f"{target} + Δ({source}) → FT"
                end = min(0.97, _tuned(target) + 0.05 + 0.05 * (BLOCK[source] == BLOCK[target]))
                if fate:
                    self._row(
                        "transfer-then-tune",
                        source,
                        target,
                        family,
                        seed,
                        2 * STEPS,
                        status="not run",
                        error=f"{target} + Δ({source}) failed",
                    )
                    self.steps.append(
                        {
                            "identity": f"n{len(self.steps):015x}",
                            "name": f"evaluate {then}",
                            "kind": "evaluate",
                            "outcome": "not run",
                            "seconds": None,
                            "folder": None,
                        }
                    )
                    continue
                self._scored(common, seed, "transfer-then-tune", source, target, end, 2 * STEPS, then)
                self._curve(family, seed, "transfer-then-tune", source, target, _moved(source, target), end, 2 * STEPS)
            for before, version in pairwise(VERSIONS):
                self._scored(
                    common,
                    seed,
                    "recycle-direct",
                    before,
                    version,
                    _tuned(version) + 0.04,
                    2 * STEPS,
                    f"{version} + Δdir({before}) → FT",
                )
                place = VERSIONS.index(version) + 1
                self._scored(
                    common,
                    seed,
                    "recycle-iterative",
                    before,
                    version,
                    _tuned(version) + 0.07,
                    place * STEPS,
                    f"{version} + Δiter({before}) → FT",
                )
                self.precision.append(
                    {
                        "base": before,
                        "tuned": f"FT({before})",
                        "tuning": "sft",
                        "family": family,
                        "seed": seed,
                        "dtype": "bfloat16",
                        "diff_norm": 3.0,
                        "lost_norm": 0.2,
                        "share_lost": 0.066 + 0.01 * place,
                        "changed": 200_000,
                        "vanished": 9_000 * place,
                    }
                )
            self._lines(family, seed, rng)

    def _lines(self, family: int, seed: int, rng: Any) -> None:
        for a, b in (("M1", "M3"), ("M3", "M4"), ("M4", "M5")):
            near = BLOCK[a] == BLOCK[b]
            for which, high in (("bases", 0.01 if near else 0.06), ("tuned", 0.1 if near else 1.4)):
                if which == "bases" and seed != self.seeds[0]:
                    continue
                names = (a, b) if which == "bases" else (f"FT({a})", f"FT({b})")
                self.paths.append(
                    _path(
                        *names,
                        which,
                        a,
                        b,
                        None if which == "bases" else "sft",
                        family,
                        seed,
                        high * (0.8 + 0.4 * rng.random()),
                    )
                )
            self.paths.append(
                _path(
                    f"{b} + Δ({a})",
                    f"FT({b})",
                    "transferred to tuned",
                    a,
                    b,
                    "sft",
                    family,
                    seed,
                    0.02 if near else 0.3,
                )
            )
        for a in VERSIONS:
            for b in VERSIONS[VERSIONS.index(a) + 1 :]:
                apart = abs(VERSIONS.index(a) - VERSIONS.index(b)) + 3 * (BLOCK[a] != BLOCK[b])
                self.distances.append(
                    {
                        "a": a,
                        "b": b,
                        "tuning": "sft",
                        "family": family,
                        "seed": seed,
                        "distance": 4.0 * apart + rng.random(),
                        "cosine": 0.7 / apart,
                    }
                )

    def _scored(
        self,
        common: dict[str, Any],
        seed: int | None,
        kind: str,
        source: str | None,
        target: str,
        share: float,
        total: int,
        name: str,
        fails: bool = False,
    ) -> None:
        result = {
            "kind": kind,
            "name": name,
            "source": source,
            "target": target,
            "tuning": None if kind == "base" else "sft",
            "family": common["family"],
            "seed": seed,
            "steps_total": total,
        }
        if fails:
            self._row(kind, source, target, common["family"], seed, total, status="failed", error=self.error)
            self._step(
                "evaluate",
                f"evaluate {name}",
                common["family"],
                {"results": [result]},
                outcome="failed",
                error=self.error,
                seed=seed,
            )
            return
        tasks, lines = {}, []
        for task, hard in common["hard"].items():
            chance = np.clip(share + (0.1 if task == "facts" else 0), 0.01, 0.99)
            right = (0.7 * hard + 0.3 * common["rng"].random(N)) < 0.15 + 0.7 * chance
            value = float(right.mean())
            tasks[task] = {
                "metric": "exact_match",
                "value": value,
                "stderr": math.sqrt(value * (1 - value) / (N - 1)),
                "n": N,
            }
            for place, ok in enumerate(right):
                answer = str(place + place % 7)
                lines.append(
                    {
                        "model": "model",
                        "task": task,
                        "id": f"{task}-{place}",
                        "score": float(ok),
                        "said": answer if ok else f"{place} and then?",
                        "answer": answer,
                    }
                )
        scores = {task: {key: told[key] for key in ("metric", "value", "stderr", "n")} for task, told in tasks.items()}
        self.rows.append({**result, "step": None, "status": "done", "error": None, "scores": scores})
        step = self._step(
            "evaluate",
            f"evaluate {name}",
            common["family"],
            {"results": [result]},
            measured={"tasks": tasks, "warnings": []},
            parents={"tasks.0": {"name": "family", "identity": common["made"]["identity"], "part": "questions.jsonl"}},
            seed=seed,
        )
        folder = self.root / "steps" / step["folder"]
        (folder / "scores.examples.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
        )

    def _curve(
        self, family: int, seed: int, kind: str, source: str | None, target: str, start: float, end: float, total: int
    ) -> None:
        for step in (0, 50, 100, 150, 200, STEPS):
            value = round(N * (start + (end - start) * (1 - math.exp(-3 * step / STEPS)) / (1 - math.exp(-3)))) / N
            scores = {
                "validation": {
                    "metric": "exact_match",
                    "value": value,
                    "stderr": math.sqrt(value * (1 - value) / (N - 1)),
                    "n": N,
                }
            }
            self._row(kind, source, target, family, seed, total, step=step, scores=scores)

    def _row(
        self, kind: str, source: str | None, target: str, family: int, seed: int | None, total: int, **more: Any
    ) -> None:
        self.rows.append(
            {
                "kind": kind,
                "source": source,
                "target": target,
                "tuning": "sft",
                "family": family,
                "seed": seed,
                "steps_total": total,
                "step": None,
                "status": "done",
                "error": None,
                "scores": {},
                **more,
            }
        )

    def _step(
        self,
        kind: str,
        name: str,
        family: int,
        about: dict[str, Any],
        *,
        outcome: str = "done",
        error: str | None = None,
        measured: Any = None,
        parents: Any = None,
        seed: int | None = None,
    ) -> dict[str, Any]:
        identity = f"{len(self.steps):016x}"
        folder = f"{kind}-{len(self.steps):04d}"
        record = {
            "format": "tuneport-record-1", "name": name, "kind": kind, "identity": identity, "choices": {"seed": seed, "family": family},
            "parents": parents or {}, "outcome": outcome, "error": error, "measured": measured or {}, "outputs": {}, "about": about,
            "command": f"tuneport {kind} {name!r}", "versions": {"tuneport": "0.1.0"}, "seconds": 1.5,
        }  # fmt: skip
        (self.root / "steps" / folder).mkdir(parents=True, exist_ok=True)
        (self.root / "steps" / folder / "record.json").write_text(
            json.dumps(record, ensure_ascii=False), encoding="utf-8"
        )
        step = {"identity": identity, "name": name, "kind": kind, "outcome": outcome, "seconds": 1.5, "folder": folder}
        self.steps.append(step)
        return step


def _tuned(version: str) -> float:
    return STRENGTH[version] + 0.25


def _moved(source: str, target: str) -> float:
    near = BLOCK[source] == BLOCK[target]
    return STRENGTH[target] * 0.5 + (
        0.75 * (_tuned(target) - STRENGTH[target] * 0.5)
        if near and BLOCK[target] == 2
        else 0.08
        if near
        else -0.18
        if BLOCK[target] == 2
        else 0.0
    )


def _path(
    a: str, b: str, which: str, source: str, target: str, tuning: str | None, family: int, seed: int, high: float
) -> dict[str, Any]:
    alphas = [0.0, 0.25, 0.5, 0.625, 0.75, 1.0]
    loss = [1.4 - 0.2 * alpha + high * 4 * alpha * (1 - alpha) for alpha in alphas]
    return {
        "a": a,
        "b": b,
        "which": which,
        "source": source,
        "target": target,
        "tuning": tuning,
        "family": family,
        "seed": seed,
        "alphas": alphas,
        "loss": loss,
        "barrier": high,
        "interval": [high * 0.8, high * 1.25],
        "at": 0.5,
        "threshold": 0.05,
        "connected": None if high * 0.8 <= 0.05 <= high * 1.25 else high < 0.05,
        "n": 120,
    }


EXPECTED = [
    {"table": "3", "task": "sums", "kind": "base", "source": None, "target": "M5", "tuning": "sft", "value": 65.5, "note": ""},
    {"table": "3", "task": "sums", "kind": "transfer", "source": "M4", "target": "M5", "tuning": "sft", "value": 77.1, "note": ""},
    {"table": "3", "task": "sums", "kind": "transfer", "source": "M1", "target": "M5", "tuning": "sft", "value": 19.6, "note": "10.6 in the text"},
    {"table": "3", "task": "sums", "kind": "tuned", "source": None, "target": "M5", "tuning": "sft", "value": 75.5, "note": "75.6 in Table 6"},
]  # fmt: skip
