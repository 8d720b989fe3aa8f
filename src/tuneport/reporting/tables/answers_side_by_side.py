"""Answers of several models to the same questions, to read side by side.

From one family and seed, a few examples per task are chosen where models differ: those that addition repaired, those
that it spoiled, those that only fine-tuning gets right. The choice follows the files' order and is the same every time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneport.reporting.tables.matrix import Matrix
from tuneport.results.example_scores import Answer, read_answers, read_outcomes
from tuneport.results.schema import BASE, STEPS, TUNED, Model, Run
from tuneport.results.study_reading import Reading

EACH = 8  # examples of a task
LONGEST = 600  # letters of an answer


@dataclass(frozen=True)
class AskedExample:
    """One example with what every model said."""

    task: str
    id: str
    question: str | None
    answer: str | None
    said: Mapping[Model, Answer]


@dataclass(frozen=True)
class SideBySide:
    """The answers of all models of one family and seed; `first` are those shown before anyone chooses."""

    family: int | None
    seed: int | None
    models: tuple[Model, ...]
    first: tuple[Model, ...]
    asked: tuple[AskedExample, ...]

    @property
    def tasks(self) -> list[str]:
        """The tasks of the examples."""
        return list(dict.fromkeys(example.task for example in self.asked))


def side_by_side(reading: Reading, transfers: Sequence[Matrix]) -> SideBySide | None:
    """Answers to choose from; None where no model said anything in words."""
    best = _best_transfer(transfers)
    runs = _one_run_each(reading, best)
    if not runs:
        return None
    first = [model for model in _first(best, runs) if model in runs]
    chosen = _chosen_examples(reading.root, {model: runs[model] for model in first})
    if not chosen:
        return None
    said: dict[tuple[str, str], dict[Model, Answer]] = {(task, id): {} for task, ids in chosen.items() for id in ids}
    for model, run in runs.items():
        for folder in run.folders:
            for key, answer in read_answers(reading.root / STEPS / folder, chosen).items():
                said[key][model] = answer
    asked = tuple(
        AskedExample(task, id, _first_known(found, "asked"), _first_known(found, "answer"), found)
        for (task, id), found in said.items()
        if found
    )
    if not asked:
        return None
    models = tuple(model for model in runs if any(model in example.said for example in asked))
    one = runs[first[0]]
    seed = next((run.seed for run in runs.values() if run.seed is not None), None)
    return SideBySide(one.family, seed, models, tuple(m for m in first if m in models), asked)


def shortened(text: str) -> str:
    """A long answer, cut with a word that it was."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text) - LONGEST:,} more characters)"


def _first_known(found: Mapping[Model, Answer], name: str) -> str | None:
    return next((value for answer in found.values() if (value := getattr(answer, name))), None)


def _best_transfer(transfers: Sequence[Matrix]) -> Model | None:
    cells = [c for matrix in transfers[:1] for c in matrix.deltas if c.against_base is not None]
    top = max(cells, key=lambda cell: cell.against_base.value if cell.against_base else 0.0, default=None)
    return top.model if top else None


def _one_run_each(reading: Reading, best: Model | None) -> dict[Model, Run]:
    """Of every model the result of one family and one seed: those of the first result of the best transfer."""
    done = [run for run in reading.at_end if run.folders]
    like = next((run for run in done if run.model == best), None) or next(iter(done), None)
    if like is None:
        return {}
    found: dict[Model, Run] = {}
    for run in done:
        if run.family == like.family and (run.seed is None or like.seed is None or run.seed == like.seed):
            found.setdefault(run.model, run)
    return found


def _first(best: Model | None, runs: Mapping[Model, Run]) -> list[Model]:
    if best is None:
        return list(runs)[:3]
    tuned = Model(TUNED, None, best.target, best.tuning)
    return [Model(BASE, None, best.target), best, tuned]


def _chosen_examples(root: Path, runs: Mapping[Model, Run]) -> dict[str, list[str]]:
    """Examples where the models shown first differ most tellingly, by task."""
    by_model = {}
    for model, run in runs.items():
        by_model[model] = {
            t: found for folder in run.folders for t, found in read_outcomes(root / STEPS / folder).items()
        }
    chosen: dict[str, list[str]] = {}
    for task in dict.fromkeys(task for tasks in by_model.values() for task in tasks):
        sides = [tasks[task] for tasks in by_model.values() if task in tasks]
        ids = sides[0].ids
        alike = [side for side in sides if side.ids == ids]
        groups: dict[tuple[float, ...], list[str]] = {}
        for place, id in enumerate(ids):
            groups.setdefault(tuple(float(side.scores[place]) for side in alike), []).append(id)
        # Most different first; one of each kind in turn, so that differences of one kind do not fill the page.
        order = sorted(groups, key=lambda scores: (-len(set(scores)), list(groups).index(scores)))
        queues = [groups[key] for key in order if len(set(key)) > 1] or [groups[key] for key in order]
        taken: list[str] = []
        for turn in range(EACH):
            taken += [queue[turn] for queue in queues if turn < len(queue)]
        chosen[task] = taken[:EACH]
    return chosen
