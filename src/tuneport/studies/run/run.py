"""`study`: make a graph from a file, run it, and write results.json.

Every step has a record beside its result. The same call again does the rest: finished steps are kept, failed steps are
tried again, killed steps are resumed.
"""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager
from typing import Any

from tuneport.errors import shortened
from tuneport.public_functions import takes
from tuneport.results.schema import RESULTS, STEPS, STUDY
from tuneport.shown import Found
from tuneport.studies.declared import Resources, Study
from tuneport.studies.file.study_file import read_study
from tuneport.studies.graph import study_inputs
from tuneport.studies.graph.build import build
from tuneport.studies.graph.graph import Graph, Step
from tuneport.studies.run.engines.local import local
from tuneport.studies.run.needs import check_hub, check_libraries, check_room
from tuneport.studies.run.planning import chosen, of_families
from tuneport.studies.run.running_steps import RUNNING, RunningSteps
from tuneport.studies.run.schedule import Engine, State, look, perform_all
from tuneport.studies.run.step_records import Record
from tuneport.studies.run.store import Store
from tuneport.studies.run.store_at import open_own
from tuneport.studies.run.study_results import Results
from tuneport.studies.study_options import StudyOptions

# results.json is rewritten as steps end, for at most a twentieth of the time.
_SHARE = 20
# Letters of an error in a line that sums up a run.
_LINE = 160


class StudyOutcome(Found):
    """What a run of a study did."""

    def heading(self) -> str:
        """One line: how many steps are done, and why the first one failed."""
        line = f"{self['study']}: {self['done']} of {self['steps']} steps done, {len(self['failed'])} failed"
        for first in self["failed"][:1]:
            line += f" ({first['name']}: {shortened(str(first['error']).partition(chr(10))[0], _LINE)})"
        return line


@takes(StudyOptions)
def study(given: StudyOptions) -> StudyOutcome:
    """Run the study that a file declares, with its results in ``out``: a folder, or a URL that fsspec knows.

    Returns what was done, with `failed` (steps with their errors) and `not_run` (steps that depend on them). Raises
    `TuneportError` for problems of the whole study.

        tuneport.study("my-study.toml", "my-study", jobs=4)
    """
    file, out, engine, jobs, ray_address = given.file, given.out, given.engine, given.jobs, given.ray_address
    families, only = given.families, given.only
    declared = of_families(read_study(file), families)
    store = open_own(out, declared.name)
    with store.locked():
        taken = study_inputs.Inputs.kept(declared.path.parent, store.read(study_inputs.NAME))
        graph = build(declared, taken)
        wanted = chosen(graph, only)
        state = look(graph, store, None if len(wanted) == len(graph) else wanted)
        results = _Results(declared, graph, store, state)
        to_do = list(state.to_do)
        if engine == "local":  # a cluster's machines have libraries of their own
            check_libraries(to_do)
            check_hub(to_do)
        check_room(declared, graph, to_do, store)
        try:
            store.write(STUDY, declared.text.encode())  # first: by it the rest is known as this study's
            store.write(study_inputs.NAME, _json(taken.record()))
            with _engine(engine if to_do else "local", store, to_do, declared, jobs, ray_address) as running:
                keep, resources = declared.keep, declared.resources
                told = RunningSteps(to_do, state.records.values(), jobs, store)

                def ended(record: Record) -> None:
                    results.note(record)
                    told.ended(record)

                with told.progress:
                    perform_all(
                        state, store, running, keep=keep, resources=resources, on_start=told.began, on_record=ended
                    )
            results.write()
        finally:
            store.remove(RUNNING)
            store.clean()
    return StudyOutcome(_told(declared, store, state, to_do, results.damaged))


def _engine(
    name: str, store: Store, to_do: list[Step], declared: Study, jobs: int, address: str | None
) -> AbstractContextManager[Engine]:
    if name == "local":
        return local(jobs)
    from tuneport.studies.run.engines.ray_cluster import ray_cluster

    kinds = {step.kind for step in to_do}
    needs = [(kind, declared.resources.get(kind, Resources())) for kind in sorted(kinds)]
    return ray_cluster(store, needs, address, jobs if jobs > 1 else None)


class _Results:
    """results.json, kept up to date as steps end."""

    def __init__(self, declared: Study, graph: Graph, store: Store, state: State) -> None:
        self._store = store
        self._results = Results(declared, graph, self._read)
        for record in state.records.values():
            self._results.note(record)
        self._again_at = 0.0

    def note(self, record: Record) -> None:
        """A step has ended, or its model was deleted: write, unless that was done just now."""
        self._results.note(record)
        if time.monotonic() >= self._again_at:
            self.write()

    def write(self) -> None:
        """Write the current state."""
        begun = time.monotonic()
        self._store.write(RESULTS, _json(self._results.document()))
        now = time.monotonic()
        self._again_at = now + _SHARE * (now - begun)

    @property
    def damaged(self) -> list[dict[str, Any]]:
        """Steps that were done, and what is wrong with what they left."""
        return [{"name": step.name, "error": error} for step, error in self._results.damaged]

    def _read(self, step: Step, name: str) -> str | None:
        content = self._store.read(f"{STEPS}/{step.folder}/{name}")
        return None if content is None else content.decode("utf-8")


def _told(
    declared: Study, store: Store, state: State, to_do: list[Step], damaged: list[dict[str, Any]]
) -> dict[str, Any]:
    """What was done, for machines and in words."""
    failed = [*({"name": record.name, "error": record.error} for record in state.failed), *damaged]
    not_run = [{"name": step.name, "because": cause.name} for step, cause in state.not_run()]
    now = [
        step for step in to_do if step.identity in state.records and state.records[step.identity].outcome != "failed"
    ]
    done = sum(record.outcome != "failed" for record in state.records.values())
    told: dict[str, Any] = {
        "study": declared.name,
        "out": store.where,
        "steps": len(state.graph),
        "done": done,
        "done_now": len(now),
        "already_done": not to_do,
        "failed": failed,
        "not_run": not_run,
        "warnings": list(declared.warnings),
    }
    how = "already done" if not to_do else f"{done} of {len(state.graph)} steps done, {len(now)} of them now"
    lines = [f"{declared.name}: {how}. {store.where}/{RESULTS}"]
    lines += [f"failed: {one['name']}\n    " + str(one["error"]).replace("\n", "\n    ") for one in failed]
    lines += [f"skipped: {one['name']} (depends on {one['because']}, which failed)" for one in not_run]
    if failed:
        what = f"{len(failed)} steps failed" if len(failed) > 1 else "1 step failed"
        message = f"{what}, {len(not_run)} more depend on them. Fix the problem and run the command again; finished work is kept."
        lines.append(message)
        told |= {"error": {"type": "StudyError", "message": message}, "status": 1}
    return {**told, "words": "\n".join(lines)}


def _json(found: Any) -> bytes:
    return (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode()
