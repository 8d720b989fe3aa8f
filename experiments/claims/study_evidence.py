"""What finished studies hold, family by family: the scores that the paper's claims are judged by.

In come folders that `tuneport study` wrote, out come for each family its models with the score of every example, its
curves, paths and distances. Only records are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tuneport.errors import ReportError, StudyError
from tuneport.results import curves
from tuneport.results.compared_models import Rivals, direct_of, tuned_of
from tuneport.results.example_scores import read_outcomes
from tuneport.results.schema import BASE, DONE, STEPS, Model, Run
from tuneport.results.study_reading import Reading, read_study
from tuneport.statistics import Matrix

Row = Mapping[str, Any]
Scores = Mapping[str, Mapping[str, float]]  # by task, then by example


def base(version: str) -> Model:
    """M_i."""
    return Model(BASE, None, version)


@dataclass(frozen=True)
class Family:
    """One family of models: what was scored, and the rows of results.json that are about it.

    Where a study has several fine-tuning seeds, the scores of an example are their mean.
    """

    name: str
    runs: tuple[Run, ...]
    paths: tuple[Row, ...]
    distances: tuple[Row, ...]
    folder: Path
    _scored: dict[Model, Scores] = field(default_factory=dict, repr=False, compare=False)
    _kept: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def rivals(self) -> Rivals:
        """What models are compared with."""
        return Rivals(self.runs)

    @property
    def models(self) -> list[Model]:
        """The models whose fine-tuning went for the study's own steps and at its own rate, with nothing scaled."""
        models = dict.fromkeys(run.model for run in self.runs)
        return [model for model in models if model.steps is None and model.scale == model.rate == 1]

    def scores(self, model: Model) -> Scores:
        """Every example's score by task."""
        if model not in self._scored:
            runs = [run for run in self.runs if run.model == model and run.step is None and run.status == DONE]
            if not runs:
                raise StudyError(
                    f"{self.name}: {model.name()} was not scored. Run the study again until nothing has failed; "
                    f"`tuneport report {self.folder}` shows what did."
                )
            done = [self._read(run) for run in runs]
            self._scored[model] = {
                task: {example: sum(scores[task][example] for scores in done) / len(done) for example in done[0][task]}
                for task in done[0]
            }
        return self._scored[model]

    def plain_at_same_total(self, model: Model) -> Model:
        """FT(M_i) for as many steps as went into a model in all."""
        return self.rivals.at_same_total(model) or replace(tuned_of(model), steps=self.rivals.total(model))

    def direct_at_same_total(self, model: Model) -> Model:
        """Direct recycling for as many steps as went into an iterative one in all."""
        return self.rivals.direct_at_same_total(model) or replace(direct_of(model), steps=self.rivals.total(model))

    def matrix(self, models: Sequence[Model], tasks: Sequence[str]) -> Matrix:
        """Scores, models × examples, the examples of all `tasks` one after another."""
        asked = [self.scores(model) for model in models]
        examples = [(task, example) for task in tasks for example in sorted(asked[0][task])]
        return np.array([[scores[task][example] for task, example in examples] for scores in asked], dtype=np.float64)

    def steps_saved(self, kind: str, tasks: Sequence[str]) -> list[float]:
        """Of each model of a kind, seed and task that was followed: steps fewer than FT(M_i) takes, as a share of those.

        0 where FT(M_i)'s end is never matched, or FT(M_i) gained nothing.
        """
        found = []
        for model in [model for model in self.models if model.kind == kind]:
            for seed in dict.fromkeys(run.seed for run in self.runs if run.model == model):
                for task in tasks:
                    own, plain = self._curve(model, seed, task), self._curve(tuned_of(model), seed, task)
                    if own and plain:
                        higher = next(r.scores[task].higher_is_better for r in self.runs if task in r.scores)
                        end, level = plain[-1]
                        reached = curves.steps_to_match(own, level, higher) if curves.gains(plain, higher) else None
                        found.append(0.0 if reached is None else 1 - reached / end)
        return found

    def _curve(self, model: Model, seed: int | None, task: str) -> list[tuple[int, float]]:
        points = (run for run in self.runs if run.model == model and run.seed == seed and task in run.scores)
        return sorted((run.step, run.scores[task].value) for run in points if run.step is not None)

    def _read(self, run: Run) -> dict[str, dict[str, float]]:
        """A result's scores by task and example, from the files that its evaluations left."""
        return {task: self._examples(score.folder or "")[score.asked_as or task] for task, score in run.scores.items()}

    def _examples(self, folder: str) -> dict[str, dict[str, float]]:
        if folder not in self._kept:
            self._kept[folder] = {
                task: dict(zip(of.ids, of.scores.tolist(), strict=True))
                for task, of in read_outcomes(self.folder / STEPS / folder).items()
            }
        return self._kept[folder]


def read_families(folders: Iterable[Path]) -> list[Family]:
    """The families of one or several studies' folders. Raises `StudyError` in words."""
    found = []
    for folder in folders:
        try:
            reading = read_study(folder)
        except ReportError as error:
            raise StudyError(f"{folder} holds no results.json to read: run `tuneport study` first.") from error
        found += [_family(folder, reading, seed) for seed in reading.families]
    return found


def _family(folder: Path, reading: Reading, seed: int | None) -> Family:
    def of_family(rows: Iterable[Row]) -> tuple[Row, ...]:
        return tuple(row for row in rows if row.get("family") == seed)

    runs = tuple(run for run in reading.runs if run.family == seed)
    name = f"{folder.name}, family {seed}"
    return Family(name, runs, of_family(reading.paths), of_family(reading.distances), folder)
