"""A graph is done: what is ready goes to an engine, what ends leaves its record, what fails holds up only what stands on it.

In come a graph, a store and an engine, out come the records of all steps that have one. Nothing here knows what steps do, nor
where they run. A step that is done is not done again; a model that nothing needs any more may be let go, and is made again where
something needs it later.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tuneport.study import records
from tuneport.study.declared import Resources
from tuneport.study.graph import Graph, Step
from tuneport.study.perform import perform
from tuneport.study.records import RECORD, Record
from tuneport.study.store import STEPS, Store
from tuneport.study.work import Job, Perform

KEPT = ("all", "scored")
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
    remains: set[str] = field(default_factory=set)  # let go, and a kill came before all of it was removed
    to_do: list[Step] = field(default_factory=list)  # in order: each comes after its parents
    wanted: frozenset[str] | None = None  # only these are asked for; None: all

    @property
    def failed(self) -> list[Record]:
        """Steps that ended with an error."""
        return [r for step in self.graph if (r := self.records.get(step.identity)) and r.outcome == "failed"]

    def not_run(self) -> list[tuple[Step, Step]]:
        """Steps that could not be done, each with a step that it stands on and that failed."""
        steps = {step.identity: step for step in self.graph}
        held_up = {record.identity: record.identity for record in self.failed}
        found = []
        for step in self.graph:
            causes = [held_up[p.step.identity] for p in step.parents.values() if p.step.identity in held_up]
            if not causes or step.identity in held_up or step.identity in self.whole:
                continue
            held_up[step.identity] = causes[0]
            if step.identity not in self.records:  # else it was done, and let go
                found.append((step, steps[causes[0]]))
        return found


def look(graph: Graph, store: Store, wanted: Iterable[str] | None = None) -> State:
    """What is done and what is to do, of the steps that are `wanted` (with all that they stand on); nothing is changed."""
    state = State(graph, wanted=None if wanted is None else frozenset(wanted))
    sizes = _sizes_by_folder(store)
    for step in graph:
        files = sizes.get(step.folder, {})
        content = store.read(f"{STEPS}/{step.folder}/{RECORD}") if RECORD in files else None
        record = None if content is None else records.read(content)
        if record is None or record.identity != step.identity:
            continue
        state.records[step.identity] = record
        if record.outcome == "done" and not records.lost(record, files):
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
    """What is not done, and what was let go and is needed for it."""
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
    on_end: Callable[[Record], None] | None = None,
    perform: Perform = perform,
) -> None:
    """Do what is to do, and bring ``state`` up to date as steps end. Failures are records; only the engine's own are raised."""
    children = state.graph.children()
    waiting = {step.identity: _missing(step, state) for step in state.to_do}
    steps = {step.identity: step for step in state.graph}
    rank = _by_what_they_hold_up(state.to_do, children)
    ready = sorted((i for i, missing in waiting.items() if not missing), key=rank.__getitem__)
    running: set[str] = set()
    if keep == "scored":
        _let_go([step for step in state.graph if step.kind == _LET_GO], state, store, children, running)

    while ready or running:
        while ready and engine.room() > 0:
            identity = ready.pop(0)
            running.add(identity)
            engine.start(_job(steps[identity], state, store, resources or {}, perform))
        for record in engine.ended():
            running.discard(record.identity)
            state.records[record.identity] = record
            step = steps[record.identity]
            if record.outcome == "done":
                state.whole.add(record.identity)
                for child in children[record.identity]:
                    missing = waiting.get(child.identity)
                    if missing is not None and record.identity in missing:
                        missing.discard(record.identity)
                        if not missing:
                            ready.append(child.identity)
                ready.sort(key=rank.__getitem__)
            if keep == "scored":
                parents = [p.step for p in step.parents.values() if p.step.kind == _LET_GO]
                _let_go([*parents, *([step] if step.kind == _LET_GO else [])], state, store, children, running)
            if on_end is not None:
                on_end(record)
    state.to_do = _needed(state)


def _missing(step: Step, state: State) -> set[str]:
    return {p.step.identity for p in step.parents.values()} - state.whole


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


def _let_go(
    steps: list[Step], state: State, store: Store, children: Mapping[str, list[Step]], running: set[str]
) -> None:
    """Drop the models of those steps that nothing needs: what stands on them is done. The record says so first."""
    for step in steps:
        record = state.records.get(step.identity)
        if record is None or record.outcome == "failed" or not children[step.identity] or step.identity in running:
            continue
        if not all(_is_settled(child, state) for child in children[step.identity]):
            continue
        if record.outcome == "done":
            state.records[step.identity] = record = records.dropped(record)
            store.write(f"{STEPS}/{step.folder}/{RECORD}", record.content())
        if step.identity in state.whole | state.remains:
            state.whole.discard(step.identity)
            state.remains.discard(step.identity)
            for part in sorted({name.partition("/")[0] for name in record.outputs}):
                store.remove(f"{STEPS}/{step.folder}/{part}")


def _is_settled(step: Step, state: State) -> bool:
    record = state.records.get(step.identity)
    return step.identity in state.whole or (record is not None and record.outcome == "dropped")


def show_progress(record: Record, number: int, of: int) -> None:
    """A line on stderr for a step that ended, if somebody looks."""
    if sys.stderr.isatty():
        how = f"{record.seconds:.0f} s" if record.outcome != "failed" else "failed"
        print(f"[{number}/{of}] {record.name}: {how}", file=sys.stderr)
