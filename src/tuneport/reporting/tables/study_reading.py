"""A study's folder, read: results.json, and record.json beside every step's output.

In comes DIR, out comes a `Reading`. Where results.json is missing or torn, what the records hold is put together
instead, and `doubts` says so; what cannot be read is named, never passed over.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneport.errors import ForeignFileError, ReportError
from tuneport.files.json_text import read_json
from tuneport.files.opening import read_text, resolved
from tuneport.reporting.tables.lenient import mapping, mappings, number_or
from tuneport.reporting.tables.scored_models import BASE, Run
from tuneport.reporting.tables.scored_runs import answered_by, runs_of, told_apart
from tuneport.results.answered import LOSS

# A page is made in memory, many times as large as what it shows.
_MOST_BYTES = 128 * 2**20
RESULTS, RECORD, STEPS, STUDY = "results.json", "record.json", "steps", "study.toml"
CARRIED = "float32"  # what a study file that names no dtype has Δ carried in


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
    rounding: tuple[Mapping[str, Any], ...]
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
    study = mapping(results, "study")
    text = _study_text(root, study)
    runs = runs_of(results, records, doubts)
    declared = _declared(text)
    steps, others = _steps(results, records)
    return Reading(
        root=root,
        name=str(
            study.get("name")
            or mapping(declared, "study").get("name")
            or (url or resolved(root).name).rpartition("/")[2]
        ),
        text=text,
        notes=tuple(map(str, study.get("notes") or mapping(declared, "study").get("notes") or ())),
        versions=_versions(study, declared, runs),
        runs=told_apart(runs),
        paths=mappings(results, "paths"),
        distances=mappings(results, "distances"),
        rounding=mappings(results, "rounding"),
        expected=tuple(row for row in study.get("expected") or () if isinstance(row, dict)),
        steps=steps,
        doubts=tuple(doubts),
        carried=_carried(declared),
        others=others,
        url=url,
    )


def _results(root: Path, doubts: list[str]) -> dict[str, Any] | None:
    try:
        found = read_json(_text_within(root, root / RESULTS), kept=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        doubts.append(f"{RESULTS} cannot be read: {error}.")
        return None
    if not isinstance(found, dict) or not isinstance(found.get("results"), list):
        doubts.append(f"{RESULTS} is not what a study writes: it has no list `results`.")
        return None
    return found


def _text_within(root: Path, file: Path) -> str:
    """A file's text. A page is passed on, so what a link leads to outside the folder is not read into it."""
    if not resolved(file).is_relative_to(resolved(root)):
        raise ValueError("it is a link that leads out of the study's folder")
    try:
        return read_text(file, root, _MOST_BYTES)
    except ForeignFileError as error:
        raise ValueError(error.strerror) from None


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
            doubts.append(f"{STEPS}/{file.parent.name}/{RECORD} is not what a study writes.")
    return found


def _from_records(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """As much of results.json as the records hold."""
    rows: list[dict[str, Any]] = []
    paths: list[dict[str, Any]] = []
    distances: list[dict[str, Any]] = []
    rounding: list[dict[str, Any]] = []
    for folder, record in records.items():
        about, measured = mapping(record, "about"), mapping(record, "measured")
        scores = mapping(measured, "tasks") or mapping(measured, "scores")
        for result in answered_by(record):
            failed = record.get("outcome") == "failed"
            status = {"status": "failed" if failed else "done", "error": record.get("error")}
            loss = bool(mapping(mapping(record, "choices"), "settings").get("loss"))
            named = {f"{task}{LOSS}" if loss else task: told for task, told in scores.items()}
            rows.append({**result, **status, "step": None, "scores": named, "folder": folder})
        kind = str(record.get("kind"))
        into = {"path": paths, "distance": distances, "rounding": rounding}.get(kind)
        if into is not None and measured:
            stated = {"threshold": mapping(record, "choices").get("threshold")} if kind == "path" else {}
            into.append({**stated, **measured, **mapping(about, kind), "folder": folder})
    return {"results": rows, "paths": paths, "distances": distances, "rounding": rounding}


def _steps(
    results: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """The steps in the order of results.json, each with its record, and the records that it does not list.

    Those are of other choices, which the study had before. Where it lists none, every record is a step.
    """
    rest = dict(records)
    found = []
    for row in mappings(results, "steps"):
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
    asked = mapping(declared, "do")
    carried = asked.get("carry", CARRIED)
    return carried if asked.get("recycle") and isinstance(carried, str) else None
