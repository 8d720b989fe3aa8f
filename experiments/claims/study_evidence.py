"""What finished studies hold, family by family: the scores that the paper's claims are judged by.

In come folders that `tuneport study` wrote, out come for each family its models with the score of every example, its
curves, paths and distances. Only records are read.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tuneport.errors import StudyError
from tuneport.files.opening import read_text
from tuneport.results.answered import LOSS, answered
from tuneport.statistics import Matrix

Row = Mapping[str, Any]
Scores = Mapping[str, Mapping[str, float]]  # by task, then by example
FURTHER = ("transfer-then-tune", "recycle-iterative", "recycle-direct")


class Model(NamedTuple):
    """A model of a study, in the words of results.json: FT(M_i) is ``tuned``, M_i + Δ_j is a ``transfer`` from j to i."""

    kind: str
    source: str | None
    target: str
    tuning: str | None = None


def base(version: str) -> Model:
    """M_i."""
    return Model("base", None, version)


@dataclass(frozen=True)
class Family:
    """One family of models: what was scored, and the rows of results.json that are about it.

    Where a study has several fine-tuning seeds, the scores of an example are their mean.
    """

    name: str
    rows: Mapping[Model, tuple[Row, ...]]  # test scores, shortest fine-tuning first
    convergence: tuple[Row, ...]
    paths: tuple[Row, ...]
    distances: tuple[Row, ...]
    folder: Path
    _scored: dict[tuple[Model, int | None], Scores] = field(default_factory=dict, repr=False, compare=False)
    _kept: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict, repr=False, compare=False)

    def scores(self, model: Model, steps_total: int | None = None) -> Scores:
        """Every example's score by task; of a fine-tuning by its own number of steps, the shortest if none is given."""
        if (model, steps_total) not in self._scored:
            self._scored[model, steps_total] = self._mean_scores(model, steps_total)
        return self._scored[model, steps_total]

    def _mean_scores(self, model: Model, steps_total: int | None) -> Scores:
        rows = self.rows.get(model, ())
        if steps_total is not None:
            rows = tuple(row for row in rows if row["steps_total"] == steps_total)
        elif rows:
            rows = tuple(row for row in rows if row["steps_total"] == rows[0]["steps_total"])
        done = [self._read(row) for row in rows if row["status"] == "done"]
        if not done:
            raise StudyError(
                f"{self.name}: {model} was not scored. Run the study again until nothing has failed; "
                f"`tuneport report {self.folder}` shows what did."
            )
        return {
            task: {example: sum(scores[task][example] for scores in done) / len(done) for example in done[0][task]}
            for task in done[0]
        }

    def steps_total(self, model: Model) -> int | None:
        """All fine-tuning steps that went into a model."""
        found: int | None = self.rows[model][0]["steps_total"] if model in self.rows else None
        return found

    def is_plain(self, row: Row) -> bool:
        """Whether a row of `convergence` is about a model fine-tuned for the study's own number of steps."""
        of_model = self.rows.get(Model(row["kind"], row["source"], row["target"], row["tuning"]), ())
        return bool(of_model) and row["name"] == of_model[0]["name"]

    def matrix(self, models: Sequence[Model | tuple[Model, int | None]], tasks: Sequence[str]) -> Matrix:
        """Scores, models × examples, the examples of all `tasks` one after another; a model may come with its steps."""
        asked = [self.scores(model) if isinstance(model, Model) else self.scores(*model) for model in models]
        examples = [(task, example) for task in tasks for example in sorted(asked[0][task])]
        return np.array([[scores[task][example] for task, example in examples] for scores in asked], dtype=np.float64)

    def _read(self, row: Row) -> dict[str, dict[str, float]]:
        """A row's scores by task and example, from the files that its evaluations left."""
        folders = {evaluation["identity"]: evaluation["folder"] for evaluation in row["evaluations"]}
        found: dict[str, dict[str, float]] = {}
        for task, score in row["scores"].items():
            examples = self._examples(folders[score["evaluation"]])
            found[task] = examples[task.removesuffix(LOSS)]
        return found

    def _examples(self, folder: str) -> dict[str, dict[str, float]]:
        if folder not in self._kept:
            lines = read_text(self.folder / "steps" / folder / "scores.examples.jsonl", most=2**30)
            found = answered(json.loads(line) for line in lines.splitlines())
            self._kept[folder] = {
                task: dict(zip(of.ids, of.scores.tolist(), strict=True)) for task, of in found.items()
            }
        return self._kept[folder]


def read_families(folders: Iterable[Path]) -> list[Family]:
    """The families of one or several studies' folders. Raises `StudyError` in words."""
    found = []
    for folder in folders:
        try:
            document = json.loads(read_text(folder / "results.json"))
            seeds = document["study"]["families"]
        except (OSError, ValueError, KeyError) as error:
            raise StudyError(f"{folder} holds no results.json to read: run `tuneport study` first.") from error
        for seed in seeds:
            found.append(_family(folder, document, seed))
    return found


def _family(folder: Path, document: Mapping[str, Any], seed: int | None) -> Family:
    def of_family(name: str) -> tuple[Row, ...]:
        return tuple(row for row in document[name] if row["family"] == seed)

    rows: dict[Model, list[Row]] = defaultdict(list)
    for row in of_family("results"):
        plain = row["split"] == "test" and row["step"] is None and "rate" not in row and "scale" not in row
        if plain:
            rows[Model(row["kind"], row["source"], row["target"], row["tuning"])].append(row)
    ordered = {model: tuple(sorted(of, key=lambda row: row["steps_total"] or 0)) for model, of in rows.items()}
    return Family(
        f"{folder.name}, family {seed}",
        ordered,
        of_family("convergence"),
        of_family("paths"),
        of_family("distances"),
        folder,
    )
