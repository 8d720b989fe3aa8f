"""Read a study's folder: results.json, and record.json beside every step's output.

If results.json is missing or damaged, the `Reading` is made from the records instead, and its `doubts` say so.
Unreadable files are named, never ignored.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuneport.errors import ForeignFileError, ReportError
from tuneport.files.json_text import read_json
from tuneport.files.opening import MOST_RECORD_BYTES, read_text, resolved
from tuneport.results.result_rows import MEASURES, score_rows
from tuneport.results.schema import (
    BASE,
    DONE,
    FAILED,
    HEALED_START,
    NOT_RUN,
    RECORD,
    RESULTS,
    START,
    STEPS,
    STUDY,
    Model,
    Run,
    Score,
)
from tuneport.results.torn_json import is_folder, mapping, mappings, number_or, text_or, whole

AGAIN = "Run the study again: it writes this file again and repeats no finished step."


@dataclass(frozen=True)
class RecordedStep:
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
    text: str  # of the study's file
    notes: tuple[str, ...]
    versions: tuple[str, ...]
    families: tuple[int | None, ...]
    runs: tuple[Run, ...]
    paths: tuple[Mapping[str, Any], ...]
    distances: tuple[Mapping[str, Any], ...]
    rounding: tuple[Mapping[str, Any], ...]
    comparisons: tuple[Mapping[str, Any], ...]
    expected: tuple[Mapping[str, Any], ...]
    steps: tuple[RecordedStep, ...]
    doubts: tuple[str, ...]
    carried: str | None = None  # the dtype in which recycling carries Δ, where there is recycling
    others: tuple[RecordedStep, ...] = ()  # records of other choices, which are no steps of the study any more
    url: str | None = None  # where it lies, if `root` is a copy of that and will be gone

    @property
    def at_end(self) -> tuple[Run, ...]:
        """The results at the end of training, no points of curves."""
        return tuple(run for run in self.runs if run.step is None)

    @property
    def several_tunings(self) -> bool:
        """Whether names have to say which tuning."""
        return len({run.model.tuning for run in self.runs if run.model.kind != BASE}) > 1


def read_study(root: str | Path, url: str | None = None) -> Reading:
    """What the folder of a study holds; raises `ReportError` if there is nothing to report. `url` is its place, if
    `root` is a copy.
    """
    root = Path(root).expanduser()
    called = url or str(root)
    if not root.is_dir():
        what = "is a file that no command of tuneport wrote" if root.exists() else "does not exist"
        raise ReportError(
            f"{called} {what}. Give the folder that `tuneport study … --out DIR` wrote, or the file of `evaluate` or `compare`."
        )
    doubts: list[str] = []
    records = _records(root, doubts)
    text = _study_text(root)
    results = _results(root, doubts)
    if results is None:
        if not records:
            raise ReportError(
                f"{called} contains neither a readable {RESULTS} nor any {STEPS}/…/{RECORD}, so there is nothing to "
                "report. Give the folder that `tuneport study … --out DIR` wrote."
            )
        doubts.append(
            f"{RESULTS} is missing or cannot be read. This page uses {len(records)} records instead; curves and "
            f"skipped steps are missing from it. {AGAIN}"
        )
        results = _from_records(records, text, doubts)
    study = mapping(results, "study")
    runs = _runs(results["results"], doubts)
    steps, others = _steps(results, records)
    families = study.get("families")
    return Reading(
        root=root,
        name=text_or(study.get("name"), (url or resolved(root).name).rpartition("/")[2]),
        text=text,
        notes=_texts(study.get("notes")),
        versions=_versions(study, runs),
        families=tuple(map(whole, families)) if isinstance(families, list) else (),
        runs=tuple(runs),
        paths=mappings(results, "paths"),
        distances=mappings(results, "distances"),
        rounding=mappings(results, "rounding"),
        comparisons=mappings(results, "comparisons"),
        expected=mappings(study, "expected"),
        steps=steps,
        doubts=tuple(doubts),
        carried=text_or(study.get("carried"), None),
        others=others,
        url=url,
    )


def parsed_results(content: str | bytes, doubts: list[str]) -> dict[str, Any] | None:
    """The document of results.json; None, and a doubt as a message, if it is not valid."""
    try:
        found = read_json(content, kept=False)
    except ValueError as error:
        doubts.append(f"{RESULTS} cannot be read: {error}.")
        return None
    if isinstance(found, dict) and isinstance(found.get("results"), list) and isinstance(found.get("steps", []), list):
        return found
    doubts.append(f"{RESULTS} is not the results file of a study: `results` and `steps` must be lists.")
    return None


def _results(root: Path, doubts: list[str]) -> dict[str, Any] | None:
    try:
        content = _text_within(root, root / RESULTS)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        doubts.append(f"{RESULTS} cannot be read: {error}.")
        return None
    return parsed_results(content, doubts)


def _text_within(root: Path, file: Path) -> str:
    """A file's text. A page is passed on, so what a link leads to outside the folder is not read into it."""
    if not resolved(file).is_relative_to(resolved(root)):
        raise ValueError("it is a link to a place outside the study's folder")
    try:
        return read_text(file, root, MOST_RECORD_BYTES)
    except ForeignFileError as error:
        raise ValueError(error.strerror) from None


def _study_text(root: Path) -> str:
    try:
        return _text_within(root, root / STUDY)
    except (OSError, ValueError):
        return ""


def _records(root: Path, doubts: list[str]) -> dict[str, dict[str, Any]]:
    """The records by folder."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted((root / STEPS).glob(f"*/{RECORD}")):
        try:
            record = read_json(_text_within(root, file), kept=False)
        except (OSError, ValueError) as error:
            doubts.append(f"{STEPS}/{file.parent.name}/{RECORD} cannot be read: {error}.")
            continue
        if isinstance(record, dict):
            found[file.parent.name] = record
        else:
            doubts.append(f"{STEPS}/{file.parent.name}/{RECORD} is not a valid record of a study.")
    return found


def _from_records(records: Mapping[str, Mapping[str, Any]], text: str, doubts: list[str]) -> dict[str, Any]:
    """As much of results.json as the records and the study's file hold; a record that holds nonsense is named."""
    rows: dict[str, dict[str, Any]] = {}
    told: dict[str, Any] = {"study": _declared(text), **{name: [] for name, _ in MEASURES.values()}}
    for folder, record in records.items():
        kind, failed = record.get("kind"), record.get("outcome") == FAILED
        try:
            if kind == "evaluate":
                loss = bool(mapping(record["choices"], "settings").get("loss"))
                scores = {} if failed else score_rows(record["measured"], folder, loss)
                for result in record["about"].get("results", ()):
                    row = rows.setdefault(json.dumps(result, sort_keys=True), {**result, "status": DONE, "scores": {}})
                    row["scores"] |= scores
                    if failed:
                        row |= {"status": FAILED, "error": record.get("error")}
            elif kind in MEASURES and not failed:
                name, row_of = MEASURES[kind]
                told[name].append(row_of(record["about"][kind], record["measured"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            doubts.append(
                f"{STEPS}/{folder}/{RECORD} is not a valid record of a study ({type(error).__name__}: {error})."
            )
    answers = [row for row in rows.values() if row.get("kind") not in (None, START, HEALED_START)]
    return {**told, "results": answers}


def _declared(text: str) -> dict[str, Any]:
    """Names of the study's file, as far as it can be read."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}
    return {**mapping(found, "study"), "versions": [row.get("name") for row in mappings(found, "version")]}


def _runs(rows: Iterable[Any], doubts: list[str]) -> list[Run]:
    """The scored models; what is wrong with a row goes to `doubts`, and the row is left out."""
    found = []
    for place, row in enumerate(rows):
        run = _run(row) if isinstance(row, dict) else None
        if run is None:
            doubts.append(f"{RESULTS}: result {place + 1} is not valid and is left out.")
            continue
        negative = [task for task, score in run.scores.items() if (score.stderr or 0) < 0]
        if negative:
            doubts.append(
                f"{RESULTS}: result {place + 1}: the standard error of {', '.join(negative)} is negative and is left "
                f"out."
            )
            scores = {
                task: replace(score, stderr=None) if task in negative else score for task, score in run.scores.items()
            }
            run = replace(run, scores=scores)
        found.append(run)
    return found


def _run(row: Mapping[str, Any]) -> Run | None:
    kind, source, target = row.get("kind"), row.get("source"), row.get("target")
    if not isinstance(kind, str) or not isinstance(target, str) or not isinstance(source, str | None):
        return None
    model = Model(
        kind=kind,
        source=source,
        target=target,
        tuning=text_or(row.get("tuning"), None) if kind != BASE else None,
        scale=number_or(row.get("scale"), 1.0),
        rate=number_or(row.get("rate"), 1.0),
        steps=whole(row.get("steps")),
    )
    scores = {task: score for task, told in mapping(row, "scores").items() if (score := _score(told)) is not None}
    return Run(
        model=model,
        family=whole(row.get("family")),
        seed=whole(row.get("seed")),
        step=whole(row.get("step")),
        steps_total=whole(row.get("steps_total")),
        status=text_or(row.get("status"), DONE),
        error=None if row.get("error") is None else str(row["error"]),
        scores=scores,
        steps_on_target=whole(row.get("steps_on_target")),
    )


def _score(told: Any) -> Score | None:
    """A score; None where there is no value."""
    value = number_or(told.get("value"), None) if isinstance(told, dict) else None
    if value is None:
        return None
    return Score(
        metric=text_or(told.get("metric"), "score"),
        value=value,
        stderr=number_or(told.get("stderr"), None),
        n=max(0, whole(told.get("n")) or 0),
        higher_is_better=told.get("higher_is_better") is not False,
        folder=told["folder"] if is_folder(told.get("folder")) else None,
        asked_as=text_or(told.get("asked_as"), None),
    )


def _steps(
    results: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[RecordedStep, ...], tuple[RecordedStep, ...]]:
    """The steps in the order of results.json, each with its record, and the records that it does not list.

    Those are of other choices, which the study had before. Where it lists none, every record is a step.
    """
    rest = dict(records)
    found = []
    for row in mappings(results, "steps"):
        folder = text_or(row.get("folder"), None)
        found.append(_step(row, folder, rest.pop(folder, None) if folder is not None else None))
    unlisted = tuple(_step(record, folder, record) for folder, record in rest.items())
    return (tuple(found), unlisted) if found else (unlisted, ())


def _step(told: Mapping[str, Any], folder: str | None, record: Mapping[str, Any] | None) -> RecordedStep:
    both = {**told, **(record or {}), **({"outcome": told["outcome"]} if "outcome" in told else {})}
    return RecordedStep(
        name=str(both.get("name", folder or "?")),
        kind=str(both.get("kind", "?")),
        identity=str(both.get("identity", "")),
        outcome=str(both.get("outcome") or NOT_RUN),
        seconds=number_or(both.get("seconds"), None),
        error=None if both.get("error") is None else str(both["error"]),
        folder=folder if record is not None else None,
        command=None if both.get("command") is None else str(both["command"]),
        record=record,
    )


def _versions(study: Mapping[str, Any], runs: Iterable[Run]) -> tuple[str, ...]:
    """Names of the versions: in the study's order, then any that only results name."""
    seen = [name for run in runs for name in (run.model.source, run.model.target) if name is not None]
    return tuple(dict.fromkeys([*_texts(study.get("versions")), *seen]))


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()
