"""Run a graph: ready steps go to an engine, finished steps leave a record, failed steps stop only what depends on them.

Returns the records of all steps that have one. This module does not know what steps do or where they run. A finished
step is not repeated. A model that no step needs any more may be deleted, and is made again if a step needs it later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from typing import Protocol

from tuneport.results.schema import RECORD, STEPS
from tuneport.studies.declared import Resources
from tuneport.studies.graph.graph import Graph, Step
from tuneport.studies.run import step_records
from tuneport.studies.run.perform import perform
from tuneport.studies.run.step_records import Record
from tuneport.studies.run.store import Store
from tuneport.studies.run.work import Job, Perform

_LET_GO = "transfer"  # of these, keep = "scored" drops the models: they are quickly made again from their diff vectors


class Engine(Protocol):
    """Where steps run."""

    def room(self) -> int:
        """How many more jobs it takes now."""

    def start(self, job: Job) -> None:
        """Take a job."""

    def ended(self) -> list[Record]:
        """Records of jobs that have ended; waits for one at least."""


@dataclass
class State:
    """How far a study is."""

    graph: Graph
    records: dict[str, Record] = field(default_factory=dict)  # by identity, of whatever has one
    whole: set[str] = field(default_factory=set)  # whose outputs are there
    remains: set[str] = field(default_factory=set)  # deleted models of which a kill left some files
    to_do: list[Step] = field(default_factory=list)  # in order: each comes after its parents
    wanted: frozenset[str] | None = None  # only these are asked for; None: all

    @property
    def failed(self) -> list[Record]:
        """Steps that ended with an error."""
        return [r for step in self.graph if (r := self.records.get(step.identity)) and r.outcome == "failed"]

    def not_run(self) -> list[tuple[Step, Step]]:
        """Skipped steps, each with the failed step that it depends on."""
        steps = {step.identity: step for step in self.graph}
        held_up = {record.identity: record.identity for record in self.failed}
        found = []
        for step in self.graph:
            causes = [held_up[p.step.identity] for p in step.parents.values() if p.step.identity in held_up]
            if not causes or step.identity in held_up or step.identity in self.whole:
                continue
            held_up[step.identity] = causes[0]
            if step.identity not in self.records:  # else it was done, and its model deleted
                found.append((step, steps[causes[0]]))
        return found


def look(graph: Graph, store: Store, wanted: Iterable[str] | None = None) -> State:
    """What is done and what is to do, of the `wanted` steps and all that they depend on; nothing is changed."""
    state = State(graph, wanted=None if wanted is None else frozenset(wanted))
    sizes = _sizes_by_folder(store)
    for step in graph:
        files = sizes.get(step.folder, {})
        content = store.read(f"{STEPS}/{step.folder}/{RECORD}") if RECORD in files else None
        record = None if content is None else step_records.read(content)
        if record is None or record.identity != step.identity:
            continue
        state.records[step.identity] = record
        if record.outcome == "done" and not step_records.lost(record, files):
            state.whole.add(step.identity)
        elif record.outcome == "dropped" and record.outputs.keys() & files.keys():
            state.remains.add(step.identity)
    state.to_do = _needed(state)
    return state


def _sizes_by_folder(store: Store) -> dict[str, dict[str, int]]:
    """Sizes of all files of all steps, asked for once."""
    found: dict[str, dict[str, int]] = {}
    for name, size in store.sizes(STEPS).items():
        folder, _, rest = name.partition("/")
        found.setdefault(folder, {})[rest] = size
    return found


def _needed(state: State) -> list[Step]:
    """Steps that are not done, and deleted models that they need."""
    wanted: set[str] = set()
    for step in reversed(list(state.graph)):
        if step.identity in state.whole or (state.wanted is not None and step.identity not in state.wanted):
            continue
        record = state.records.get(step.identity)
        let_go = record is not None and record.outcome == "dropped"
        if let_go and step.identity not in wanted:
            continue
        wanted.add(step.identity)
        wanted |= {p.step.identity for p in step.parents.values() if p.step.identity not in state.whole}
    return [step for step in state.graph if step.identity in wanted]


def perform_all(
    state: State,
    store: Store,
    engine: Engine,
    *,
    keep: str = "all",
    resources: Mapping[str, Resources] | None = None,
    on_start: Callable[[Step], None] | None = None,
    on_record: Callable[[Record], None] | None = None,
    perform: Perform = perform,
) -> None:
    """Do what is to do, and bring ``state`` up to date as steps end; ``on_start`` is called with every step that
    begins, ``on_record`` of every new record.

    Failures of steps are records; only the engine's own are raised.
    """
    children = state.graph.children()
    steps = {step.identity: step for step in state.graph}
    pending = {step.identity for step in state.to_do}
    # What failed is never done there, so steps that depend on it never get ready.
    waiting = TopologicalSorter(
        {step.identity: {p.step.identity for p in step.parents.values()} - state.whole for step in state.to_do}
    )
    waiting.prepare()
    rank = _by_what_they_hold_up(state.to_do, children)
    ready = sorted(waiting.get_ready(), key=rank.__getitem__)
    running: set[str] = set()

    def note(record: Record) -> None:
        state.records[record.identity] = record
        if on_record is not None:
            on_record(record)

    def let_go(candidates: Iterable[Step]) -> None:
        for step in candidates if keep == "scored" else ():
            if step.kind == _LET_GO and _is_needed_no_more(step, state, children[step.identity], pending):
                _drop(step, state, store, note)

    let_go(state.graph)
    while ready or running:
        while ready and engine.room() > 0:
            identity = ready.pop(0)
            running.add(identity)
            if on_start is not None:
                on_start(steps[identity])
            engine.start(_job(steps[identity], state, store, resources or {}, perform))
        for record in engine.ended():
            step = steps[record.identity]
            running.discard(record.identity)
            note(record)
            if record.outcome == "done":
                state.whole.add(record.identity)
                pending.discard(record.identity)
                waiting.done(record.identity)
            let_go([step, *(parent.step for parent in step.parents.values())])
        ready = sorted([*ready, *waiting.get_ready()], key=rank.__getitem__)
    state.to_do = _needed(state)


def _job(step: Step, state: State, store: Store, resources: Mapping[str, Resources], perform: Perform) -> Job:
    before = state.records.get(step.identity)
    keys = {p.step.identity: state.records[p.step.identity].digest for p in step.parents.values()}
    return Job(
        step=step,
        store=store,
        resources=resources.get(step.kind, Resources()),
        keys=keys,
        before={} if before is None else before.outputs,
        perform=perform,
    )


def _by_what_they_hold_up(to_do: list[Step], children: Mapping[str, list[Step]]) -> dict[str, tuple[int, int]]:
    """An order: first what most other steps wait for, then as the graph has it."""
    wanted = {step.identity for step in to_do}
    below: dict[str, set[str]] = {}
    for step in reversed(to_do):
        found: set[str] = set()
        for child in children[step.identity]:
            if child.identity in wanted:
                found |= {child.identity} | below[child.identity]
        below[step.identity] = found
    return {step.identity: (-len(below[step.identity]), place) for place, step in enumerate(to_do)}


def _is_needed_no_more(step: Step, state: State, children: Sequence[Step], pending: set[str]) -> bool:
    """Whether it is done, and everything that depends on it."""
    record = state.records.get(step.identity)
    if record is None or record.outcome == "failed" or step.identity in pending:
        return False
    done = [state.records.get(child.identity) for child in children if child.identity not in pending]
    return len(done) == len(children) > 0 and all(one is not None and one.outcome != "failed" for one in done)


def _drop(step: Step, state: State, store: Store, note: Callable[[Record], None]) -> None:
    """Delete what a step has made. The record says so first, so a kill in between may leave files but never a wrong
    record.
    """
    record = state.records[step.identity]
    if record.outcome == "done":
        record = replace(record, outcome="dropped")  # everything that was known of it stays
        store.write(f"{STEPS}/{step.folder}/{RECORD}", record.content())
        note(record)
    if step.identity in state.whole | state.remains:
        state.whole.discard(step.identity)
        state.remains.discard(step.identity)
        for part in sorted({name.partition("/")[0] for name in record.outputs}):
            store.remove(f"{STEPS}/{step.folder}/{part}")
