"""Rows of results.json become runs: which model each is, what it scored, and where the steps lie that scored it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tuneport.reporting.tables.lenient import is_folder, mapping, mappings, number_or, whole
from tuneport.reporting.tables.scored_models import BASE, DIRECT, TUNED, Model, Run, Score
from tuneport.results.answered import LOSS

# How the study names a fine-tuning for another number of steps (studies/graph/study_models.py).
_OF_STEPS = re.compile(r"(?: for (\d{1,9}) steps|, (\d{1,9}) steps in all)$")
UNTOLD = -1  # steps on a version that files of before do not tell: those of the study, the same for all its models
START = "recycle-start"  # M_i + Δ^iter before its fine-tuning, which is no model of the paper's tables
_RUN_KEYS = ("kind", "source", "target", "tuning", "family", "seed", "steps_total", "scale", "rate")


def runs_of(results: Mapping[str, Any], records: Mapping[str, Any], doubts: list[str]) -> list[Run]:
    """The scored models; what is wrong with a row goes to `doubts`, and the row is left out."""
    folders = _folders(records)
    measures_loss = {
        folder for folder, record in records.items() if mapping(mapping(record, "choices"), "settings").get("loss")
    }
    found = []
    for place, row in enumerate(results["results"]):
        run = _run(row, folders, measures_loss) if isinstance(row, dict) else None
        negative = [] if run is None else [task for task, score in run.scores.items() if (score.stderr or 0) < 0]
        if run is not None and negative:
            doubts.append(
                f"results.json: result {place + 1}: the standard error of {', '.join(negative)} is below zero, and is left out."
            )
            found.append(_without_errors(run, negative))
        elif run is None:
            doubts.append(f"results.json: result {place + 1} is not what a study writes, and is left out.")
        else:
            found.append(run)
    return _joined(found)


def _without_errors(run: Run, tasks: Collection[str]) -> Run:
    """Without the standard errors of these tasks, which can be none."""
    scores = {task: replace(score, stderr=None) if task in tasks else score for task, score in run.scores.items()}
    return replace(run, scores=scores)


def _joined(runs: Iterable[Run]) -> list[Run]:
    """One run where a model was asked in several steps (answers and their loss, say), with the scores of all."""
    found: dict[tuple[Any, ...], Run] = {}
    for run in runs:
        key = (run.model, run.name, run.family, run.seed, run.step, run.steps_total)
        before = found.get(key)
        if before is None:
            found[key] = run
            continue
        worse = run if run.status != "done" else before
        found[key] = replace(
            before,
            scores={**before.scores, **run.scores},
            # As in results.json: what is there is shown, and what is missing is told.
            status=worse.status,
            error=worse.error,
        )
    return list(found.values())


def _run(row: Mapping[str, Any], folders: Mapping[Any, Sequence[str]], measures_loss: Collection[str]) -> Run | None:
    kind, source, target = row.get("kind"), row.get("source"), row.get("target")
    if not isinstance(kind, str) or not isinstance(target, str) or not isinstance(source, str | None):
        return None
    tuning = row.get("tuning")
    model = Model(
        kind=kind,
        source=source,
        target=target,
        tuning=str(tuning) if tuning and kind != BASE else None,
        scale=number_or(row.get("scale"), 1.0),
        rate=number_or(row.get("rate"), None),
    )
    scores = row.get("scores")
    places = _places(row, folders)
    return Run(
        model=model,
        family=whole(row.get("family")),
        seed=whole(row.get("seed")),
        step=whole(row.get("step")),
        steps_total=whole(row.get("steps_total")),
        steps_on_target=whole(row.get("steps_on_target", UNTOLD)),
        status=str(row.get("status") or "done"),
        error=None if row.get("error") is None else str(row["error"]),
        scores=_scores(scores if isinstance(scores, dict) else {}, places, measures_loss),
        name=str(row["name"]) if isinstance(row.get("name"), str) else None,
    )


def _places(row: Mapping[str, Any], folders: Mapping[Any, Sequence[str]]) -> dict[str | None, str]:
    """The folders of the steps that scored a result, by identity; under None one that may be taken for any."""
    if is_folder(row.get("folder")):
        return {None: row["folder"]}
    found: dict[str | None, str] = {}
    for step in mappings(row, "evaluations"):
        if isinstance(step.get("identity"), str) and is_folder(step.get("folder")):
            found[step["identity"]] = step["folder"]
    known = [] if row.get("step") is not None or found else folders.get(_key(row), ())
    return {**found, **({None: known[0]} if known else {})}


def _scores(
    scores: Mapping[str, Any], places: Mapping[str | None, str], measures_loss: Collection[str]
) -> dict[str, Score]:
    found = {}
    for task, told in scores.items():
        value = number_or(told.get("value"), None) if isinstance(told, dict) else None
        if value is None:
            continue
        metric = str(told.get("metric", "score"))
        better = told.get("higher_is_better")
        by = told.get("evaluation")
        folder = (places.get(by) if isinstance(by, str) else None) or places.get(None)
        found[task] = Score(
            metric=metric,
            value=value,
            stderr=number_or(told.get("stderr"), None),
            n=max(0, whole(told.get("n")) or 0),
            higher_is_better=bool(better)
            if better is not None
            else not any(word in metric for word in ("loss", "perplexity")),
            folder=folder,
            asked_as=task.removesuffix(LOSS) if folder in measures_loss else None,
        )
    return found


def told_apart(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Fine-tunings of one start for other steps are other models; the shortest keeps the plain name.

    A curve is told by its name: its points count the steps so far. So is what began from a model that others tuned, who
    knows for how long.
    """
    ends = [
        run for run in runs if run.model.kind in (TUNED, DIRECT) and run.step is None and run.steps_total is not None
    ]
    # Of each family and seed: where steps are counted in epochs, one may take a few more than another.
    shortest: dict[tuple[Any, ...], int] = {}
    named: dict[tuple[Any, ...], int] = {}
    for run in ends:
        assert run.steps_total is not None
        key = (run.model, run.family, run.seed)
        shortest[key] = min(run.steps_total, shortest.get(key, run.steps_total))
        if run.name is not None:
            named[run.name, run.family, run.seed] = run.steps_total
    found = []
    for run in runs:
        total = run.steps_total if run.step is None or run.name is None else named.get((run.name, run.family, run.seed))
        least = shortest.get((run.model, run.family, run.seed))  # of nothing but fine-tunings
        if total is not None and least is not None and total > least:
            run = replace(run, model=replace(run.model, steps=total))
        elif total is None or total == least:
            run = replace(run, model=replace(run.model, steps=_steps_in(run)))
        found.append(run)
    return tuple(found)


def _steps_in(run: Run) -> int | None:
    """For how many steps a name says that this is, where it is for others than the study's own: FT(M2) for 350 steps."""
    found = _OF_STEPS.search(run.name or "") if run.model.kind in (TUNED, DIRECT) else None
    return None if found is None else int(found[1] or found[2])


def _folders(records: Mapping[str, Mapping[str, Any]]) -> dict[tuple[Any, ...], list[str]]:
    """Where the steps lie that answer a result: one evaluation may answer several, and several answer one."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for folder, record in records.items():
        if record.get("kind") == "evaluate":
            for result in answered_by(record):
                found.setdefault(_key(result), []).append(folder)
    return found


def answered_by(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What results an evaluation is the answer of, as its record says."""
    results = mapping(record, "about").get("results")
    if not isinstance(results, list):
        return []
    return [row for row in results if isinstance(row, dict) and row.get("kind") not in (None, START)]


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells results of the end apart; a number on a curve is no step of its own."""
    return tuple(json.dumps(row.get(name)) for name in (*_RUN_KEYS, "step"))
