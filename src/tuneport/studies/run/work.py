"""Run one step, from its parents to its record, in whatever process an engine provides.

A `Job` can be sent to another process or machine. The step's record is returned and stored. Any failure in the step
becomes a record with a message; only what stops the process itself is raised.
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuneport.errors import KEYS, StudyError, TakenError, TuneportError, listing, read_by
from tuneport.results.schema import RECORD, STEPS
from tuneport.studies.declared import Resources
from tuneport.studies.graph.graph import Step
from tuneport.studies.run import perform, step_records
from tuneport.studies.run.step_records import ERROR, Record
from tuneport.studies.run.store import Store

Perform = Callable[[Step, perform.Given, Path, int], Mapping[str, Any]]


@dataclass(frozen=True)
class Job:
    """A step that can be done now.

    `keys` are the digests of the parents' outputs; `before` is what an earlier doing of this very step has put out,
    which this one must produce again, since other results depend on it.
    """

    step: Step
    store: Store
    resources: Resources = field(default_factory=Resources)
    keys: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    perform: Perform = perform.perform

    @property
    def threads(self) -> int:
        """As many as the study gives this kind of step, wherever it runs."""
        return max(1, int(self.resources.cpus))


def do(job: Job) -> Record:
    """Do the step, and leave its record in the store; what it says names options as a study's file does."""
    with read_by(KEYS):
        return _do(job)


def _do(job: Job) -> Record:
    began = time.monotonic()
    failure: Record | None = None
    try:
        with job.store.working(job.step.folder) as place:
            try:
                return _done(job, place, began)
            except Exception as error:
                # A command's error, a library's, or a defect of ours: it is this step's, and the study goes on without it.
                failure = _failed(job, place, error, began)
                if not isinstance(error, TuneportError):
                    words = _without_places("".join(traceback.format_exception(error)), job, place)
                    job.store.write(f"{STEPS}/{job.step.folder}/{ERROR}", words.encode())
                job.store.write(f"{STEPS}/{job.step.folder}/{RECORD}", failure.content())
                return failure
    except TuneportError as error:  # no place to work in, or none for the record of what failed
        words = str(error)
        if failure is not None and words != failure.error:
            words = f"{failure.error}\nIts record could not be written either: {words}"
        return step_records.ended(job.step, "failed", error=words, outputs=job.before)


def _done(job: Job, place: Path, began: float) -> Record:
    step, store = job.step, job.store
    given: dict[str, Path | str] = dict(step.inputs)
    for role, parent in step.parents.items():
        given[role] = store.bring(parent.step.folder, perform.part_in_folder(parent), job.keys[parent.step.identity])
    store.remove(f"{STEPS}/{step.folder}/{ERROR}")
    try:
        measured = job.perform(step, given, place, job.threads)
    except TakenError:
        # Begun before its parents were made again, or with other versions of the software. All here is this step's own.
        _empty(place)
        measured = job.perform(step, given, place, job.threads)
    outputs = step_records.outputs_of(place)
    changed = step_records.different(job.before, outputs) if job.before else []
    if changed:
        raise StudyError(
            f"{step.name} was made again and has changed, but later steps used its earlier contents. These files "
            f"differ:{listing(changed, 5)}\nRemove {STEPS}/{step.folder} and the folders of steps that depend on it, "
            f"and run again; or make it with the software versions in its record."
        )
    record = step_records.ended(step, "done", measured=measured, outputs=outputs, seconds=time.monotonic() - began)
    store.deliver(step.folder, place, record.content(), record.digest)
    return record


def _failed(job: Job, place: Path, error: Exception, began: float) -> Record:
    words = str(error) if isinstance(error, TuneportError) else f"{type(error).__name__}: {error}"
    return step_records.ended(
        job.step,
        "failed",
        error=_without_places(words, job, place),
        outputs=job.before,
        seconds=time.monotonic() - began,
    )


def died(job: Job, words: str) -> Record:
    """The record of a step whose process was ended from outside, as often as it was tried; it is put in the store."""
    record = step_records.ended(job.step, "failed", error=words, outputs=job.before)
    job.store.write(f"{STEPS}/{job.step.folder}/{RECORD}", record.content())
    return record


def _without_places(words: str, job: Job, place: Path) -> str:
    """Paths as they are seen from the study's folder: a record tells nothing of the machine it was made on."""
    known = {str(place): f"{STEPS}/{job.step.folder}", **job.store.places}
    for role, where in job.step.inputs.items():
        given = job.step.choices.get(role)
        known[str(where)] = str(given["given"]) if isinstance(given, Mapping) and "given" in given else Path(where).name
    home = str(Path.home())
    for path, name in sorted(known.items(), key=lambda each: -len(each[0])):
        words = words.replace(path, name)
    return words.replace(f"{home}/", "~/") if len(home) > 1 else words


def _empty(place: Path) -> None:
    for entry in place.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
