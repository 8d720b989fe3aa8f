"""A study's folder, read: results.json, and record.json beside every step's output.

In comes DIR, out comes a `Reading`. Where results.json is missing or torn, what the records hold is put together
instead, and `doubts` says so; what cannot be read is named, never passed over.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuneport.errors import ReportError
from tuneport.evaluate.answered import LOSS
from tuneport.report.scored import BASE, DIRECT, TUNED, Model, Run, Score

RESULTS, RECORD, STEPS, STUDY = "results.json", "record.json", "steps", "study.toml"
# How the study names a fine-tuning for another number of steps (study/models.py).
_OF_STEPS = re.compile(r"(?: for (\d{1,9}) steps|, (\d{1,9}) steps in all)$")
CARRIED = "float32"  # what a study file that names no dtype has Δ carried in
START = "recycle-start"  # M_i + Δ^iter before its fine-tuning, which is no model of the paper's tables
_RUN_KEYS = ("kind", "source", "target", "tuning", "family", "seed", "steps_total", "scale", "rate")


@dataclass(frozen=True)
class Step:
    """One step of the study, with the text of its record where it has one."""

    name: str
    kind: str
    identity: str
    outcome: str
    seconds: float | None = None
    error: str | None = None
    folder: str | None = None
    command: str | None = None
    record: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Reading:
    """Everything that the page is made of."""

    root: Path
    name: str
    text: str
    notes: tuple[str, ...]
    versions: tuple[str, ...]
    runs: tuple[Run, ...]
    paths: tuple[Mapping[str, Any], ...]
    distances: tuple[Mapping[str, Any], ...]
    precision: tuple[Mapping[str, Any], ...]
    expected: tuple[Mapping[str, Any], ...]
    steps: tuple[Step, ...]
    doubts: tuple[str, ...]
    carried: str | None = None  # the dtype in which recycling carries Δ, where the study's file says
    others: tuple[Step, ...] = ()  # records of other choices, which are no steps of the study any more
    url: str | None = None  # where it lies, if `root` is a copy of that and will be gone

    @property
    def several_tunings(self) -> bool:
        """Whether names have to say which tuning."""
        return len({run.model.tuning for run in self.runs if run.model.kind != BASE}) > 1


def read_study(root: str | Path, url: str | None = None) -> Reading:
    """What the folder of a study holds; raises `ReportError` where there is nothing to make a page of.

    `url` is where it lies, if `root` is a copy of that.
    """
    root = Path(root).expanduser()
    called = url or str(root)
    if not root.is_dir():
        raise ReportError(f"{called} is no folder. Give the folder that `tuneport study … --out DIR` wrote.")
    doubts: list[str] = []
    records = _records(root, doubts)
    results = _results(root, doubts)
    if results is None:
        if not records:
            raise ReportError(
                f"{called} holds neither a readable {RESULTS} nor any {STEPS}/…/{RECORD}, so there is nothing to report. "
                "Give the folder that `tuneport study … --out DIR` wrote."
            )
        doubts.append(
            f"{RESULTS} is missing or cannot be read. This page is put together from {len(records)} records; what was not "
            "run, and curves, are not in them. Run the study again: it writes the file anew and repeats nothing."
        )
        results = _from_records(records)
    study = _mapping(results, "study")
    text = _study_text(root, study)
    runs = _runs(results, records, doubts)
    declared = _declared(text)
    steps, others = _steps(results, records)
    return Reading(
        root=root,
        name=str(
            study.get("name")
            or _table(declared, "study").get("name")
            or (url or root.resolve().name).rpartition("/")[2]
        ),
        text=text,
        notes=tuple(map(str, study.get("notes") or _table(declared, "study").get("notes") or ())),
        versions=_versions(study, declared, runs),
        runs=_told_apart(runs),
        paths=_mappings(results, "paths"),
        distances=_mappings(results, "distances"),
        precision=_mappings(results, "precision"),
        expected=tuple(row for row in study.get("expected") or () if isinstance(row, dict)),
        steps=steps,
        doubts=tuple(doubts),
        carried=_carried(declared),
        others=others,
        url=url,
    )


def _results(root: Path, doubts: list[str]) -> dict[str, Any] | None:
    try:
        found = json.loads(_text_within(root, root / RESULTS))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        doubts.append(f"{RESULTS} cannot be read: {error}.")
        return None
    if not isinstance(found, dict) or not isinstance(found.get("results"), list):
        doubts.append(f"{RESULTS} is not what a study writes: it has no list `results`.")
        return None
    return found


def _text_within(root: Path, file: Path) -> str:
    """A file's text. A page is passed on, so what a link leads to outside the folder is not read into it."""
    if not file.resolve().is_relative_to(root.resolve()):
        raise ValueError("it is a link that leads out of the study's folder")
    return file.read_text(encoding="utf-8")


def is_folder(name: Any) -> bool:
    """Whether it names a step's folder, and nothing above or below."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)


def _records(root: Path, doubts: list[str]) -> dict[str, dict[str, Any]]:
    """The records by folder."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted((root / STEPS).glob(f"*/{RECORD}")):
        try:
            record = json.loads(_text_within(root, file))
        except (OSError, ValueError, RecursionError) as error:
            doubts.append(f"{STEPS}/{file.parent.name}/{RECORD} cannot be read: {error}.")
            continue
        if isinstance(record, dict):
            found[file.parent.name] = record
        else:
            doubts.append(f"{STEPS}/{file.parent.name}/{RECORD} is not what a study writes.")
    return found


def _from_records(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """As much of results.json as the records hold."""
    rows: list[dict[str, Any]] = []
    paths: list[dict[str, Any]] = []
    distances: list[dict[str, Any]] = []
    precision: list[dict[str, Any]] = []
    for folder, record in records.items():
        about, measured = _mapping(record, "about"), _mapping(record, "measured")
        scores = _mapping(measured, "tasks") or _mapping(measured, "scores")
        for result in _answered(record):
            failed = record.get("outcome") == "failed"
            status = {"status": "failed" if failed else "done", "error": record.get("error")}
            loss = bool(_mapping(_mapping(record, "choices"), "settings").get("loss"))
            named = {f"{task}{LOSS}" if loss else task: told for task, told in scores.items()}
            rows.append({**result, **status, "step": None, "scores": named, "folder": folder})
        kind = str(record.get("kind"))
        into = {"path": paths, "distance": distances, "precision": precision}.get(kind)
        if into is not None and measured:
            stated = {"threshold": _mapping(record, "choices").get("threshold")} if kind == "path" else {}
            into.append({**stated, **measured, **_mapping(about, kind), "folder": folder})
    return {"results": rows, "paths": paths, "distances": distances, "precision": precision}


def _runs(results: Mapping[str, Any], records: Mapping[str, Any], doubts: list[str]) -> list[Run]:
    folders = _folders(records)
    measures_loss = {
        folder for folder, record in records.items() if _mapping(_mapping(record, "choices"), "settings").get("loss")
    }
    found = []
    for place, row in enumerate(results["results"]):
        run = _run(row, folders, measures_loss) if isinstance(row, dict) else None
        negative = [] if run is None else [task for task, score in run.scores.items() if (score.stderr or 0) < 0]
        if run is not None and negative:
            doubts.append(
                f"{RESULTS}: result {place + 1}: the standard error of {', '.join(negative)} is below zero, and is left out."
            )
            found.append(_without_errors(run, negative))
        elif run is None:
            doubts.append(f"{RESULTS}: result {place + 1} is not what a study writes, and is left out.")
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
        family=_whole(row.get("family")),
        seed=_whole(row.get("seed")),
        step=_whole(row.get("step")),
        steps_total=_whole(row.get("steps_total")),
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
    for step in _mappings(row, "evaluations"):
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
        folder = places.get(told.get("evaluation")) or places.get(None)
        found[task] = Score(
            metric=metric,
            value=value,
            stderr=number_or(told.get("stderr"), None),
            n=max(0, _whole(told.get("n")) or 0),
            higher_is_better=bool(better)
            if better is not None
            else not any(word in metric for word in ("loss", "perplexity")),
            folder=folder,
            asked_as=task.removesuffix(LOSS) if folder in measures_loss else None,
        )
    return found


def _told_apart(runs: Sequence[Run]) -> tuple[Run, ...]:
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
            for result in _answered(record):
                found.setdefault(_key(result), []).append(folder)
    return found


def _answered(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What results an evaluation is the answer of, as its record says."""
    results = _mapping(record, "about").get("results")
    if not isinstance(results, list):
        return []
    return [row for row in results if isinstance(row, dict) and row.get("kind") not in (None, START)]


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells results of the end apart; a number on a curve is no step of its own."""
    return tuple(json.dumps(row.get(name)) for name in (*_RUN_KEYS, "step"))


def _steps(
    results: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """The steps in the order of results.json, each with its record, and the records that it does not list.

    Those are of other choices, which the study had before. Where it lists none, every record is a step.
    """
    rest = dict(records)
    found = []
    for row in _mappings(results, "steps"):
        folder = row.get("folder")
        record = rest.pop(folder, None) if isinstance(folder, str) else None
        found.append(_step(row, folder if isinstance(folder, str) else None, record))
    unlisted = tuple(_step(record, folder, record) for folder, record in rest.items())
    return (tuple(found), unlisted) if found else (unlisted, ())


def _step(told: Mapping[str, Any], folder: str | None, record: Mapping[str, Any] | None) -> Step:
    both = {**told, **{k: v for k, v in (record or {}).items() if k not in ("outcome",) or "outcome" not in told}}
    return Step(
        name=str(both.get("name", folder or "?")),
        kind=str(both.get("kind", "?")),
        identity=str(both.get("identity", "")),
        outcome=str(both.get("outcome") or "not run"),
        seconds=number_or(both.get("seconds"), None),
        error=None if both.get("error") is None else str(both["error"]),
        folder=folder if record is not None else None,
        command=None if both.get("command") is None else str(both["command"]),
        record=record,
    )


def _study_text(root: Path, study: Mapping[str, Any]) -> str:
    try:
        return _text_within(root, root / STUDY)
    except (OSError, ValueError):
        return str(study.get("text") or "")


def _declared(text: str) -> Mapping[str, Any]:
    """The study file, as far as it can be read; the page needs no more of it than names and order."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}


def _versions(study: Mapping[str, Any], declared: Mapping[str, Any], runs: Iterable[Run]) -> tuple[str, ...]:
    """Names of the versions: in the study's order, then any that only results name."""
    told, listed = study.get("versions"), declared.get("version")
    if not isinstance(told, list):
        told = [row.get("name") for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    seen = [name for run in runs for name in (run.model.source, run.model.target)]
    return tuple(dict.fromkeys(name for name in (*told, *seen) if isinstance(name, str)))


def _carried(declared: Mapping[str, Any]) -> str | None:
    asked = _table(declared, "do")
    carried = asked.get("carry", CARRIED)
    return carried if asked.get("recycle") and isinstance(carried, str) else None


def _table(declared: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = declared.get(name)
    return found if isinstance(found, dict) else {}


def _mapping(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = record.get(name)
    return found if isinstance(found, dict) else {}


def _mappings(results: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any], ...]:
    found = results.get(name)
    return tuple(row for row in found if isinstance(row, dict)) if isinstance(found, list) else ()


def number_or(value: Any, otherwise: Any) -> Any:
    """A finite number, or what stands for it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return otherwise
    try:
        return float(value) if math.isfinite(value) else otherwise
    except OverflowError:
        return otherwise  # a whole number that is too large for one


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
