"""Which steps of a study are done, to do, or to do again, and why.

Each step of the graph gets a state from the records of earlier runs. A step that was done with other choices or parents
is compared, field by field, with the closest record of its name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal

from tuneport.errors import Fault, UsageError, named
from tuneport.output.journal import differing_fields
from tuneport.results.schema import RECORD, STEPS
from tuneport.studies.declared import Study
from tuneport.studies.graph.graph import Graph, Step
from tuneport.studies.run import step_records
from tuneport.studies.run.schedule import look
from tuneport.studies.run.step_records import Record
from tuneport.studies.run.store import Store

State = Literal["done", "to do", "again"]


@dataclass(frozen=True)
class Planned:
    """A step, its state, and why it is not done."""

    step: Step
    state: State
    why: tuple[str, ...] = ()
    record: Record | None = None


def plan(graph: Graph, store: Store, wanted: Iterable[str] | None = None) -> list[Planned]:
    """The state of every step that is wanted, in order: what `look` finds to do, and why."""
    asked = None if wanted is None else frozenset(wanted)
    state = look(graph, store, asked)
    to_do = {step.identity for step in state.to_do}
    earlier = _earlier(graph, store) if to_do else {}
    return [
        _planned(step, state.records.get(step.identity), store, earlier.get((step.kind, step.name), ()))
        if step.identity in to_do
        else _done(step, state.records[step.identity])
        for step in graph
        if asked is None or step.identity in asked
    ]


def _done(step: Step, record: Record) -> Planned:
    dropped = ("its model was deleted; it is made again if a step needs it",)
    return Planned(step, "done", dropped if record.outcome == "dropped" else (), record)


def _planned(step: Step, record: Record | None, store: Store, others: Sequence[Record]) -> Planned:
    """Why a step is to do: `record` is its own, `others` are of steps of the same name."""
    if record is not None and record.outcome == "failed":
        return Planned(step, "to do", (f"failed before: {record.error}",), record)
    if record is not None and record.outcome == "dropped":
        return Planned(step, "again", ("its model was deleted, and a step needs it now",), record)
    if record is not None:
        lost = step_records.lost(record, store.sizes(f"{STEPS}/{step.folder}"))
        return Planned(step, "again", (f"its outputs have changed: {', '.join(lost[:3])}",), record)
    if not others:
        return Planned(step, "to do")
    nearest = min((differences(other, step) for other in others), key=len)
    return Planned(step, "again", tuple(nearest))


def _earlier(graph: Graph, store: Store) -> dict[tuple[str, str], list[Record]]:
    """Records of steps that were done and are none of this graph's, by kind and name."""
    folders = {name.partition("/")[0] for name in store.sizes(STEPS)} - {step.folder for step in graph}
    found: dict[tuple[str, str], list[Record]] = {}
    for folder in sorted(folders):
        content = store.read(f"{STEPS}/{folder}/{RECORD}")
        record = None if content is None else step_records.read(content)
        if record is not None and record.outcome != "failed":
            found.setdefault((record.kind, record.name), []).append(record)
    return found


def differences(record: Record, step: Step) -> list[str]:
    """What has changed: choices field by field (then → now), and parents that are recomputed."""
    found = differing_fields(dict(record.choices), dict(step.choices))
    for role in sorted({*record.parents, *step.parents}):
        then, now = record.parents.get(role), step.parents.get(role)
        if then is None or now is None:
            found.append(
                f"{role} ({'no step' if then is None else then['name']} → {'no step' if now is None else now.step.name})"
            )
        elif then["identity"] != now.step.identity:
            what = f"{then['name']} → {now.step.name}" if then["name"] != now.step.name else now.step.name
            found.append(f"{role} ({what}, which is recomputed)")
        elif then["part"] != now.part:
            found.append(f"{role} ({then['part']} → {now.part} of {now.step.name})")
    return found


def of_families(study: Study, families: Iterable[int]) -> Study:
    """The study with these families of the lab instead of the file's, if there are any. Raises `UsageError`."""
    asked = tuple(dict.fromkeys(families))
    if asked and not study.families:
        told = f"{study.path.name} uses no models from the lab, so it has no families"
        raise UsageError(Fault("families", asked[0], told))
    return replace(study, families=asked) if asked else study


def chosen(graph: Graph, only: Iterable[str] = ()) -> set[str]:
    """Identities of the requested steps, with everything that they depend on.

    `only` are names of steps or of models, or patterns of them with `*`. Raises `UsageError` for a name that no step has.
    """
    patterns = list(only)
    names = {step.identity: (step.name, str(step.about.get("model", step.name))) for step in graph}
    every = [name for of_step in names.values() for name in of_step]
    asked_for: set[str] = set()
    for pattern in patterns:
        found = _named(pattern, every)
        if not found:
            near = get_close_matches(pattern, every, 1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            remedy = f"{hint}{named('dry_run')} lists the steps"
            raise UsageError(Fault("only", pattern, "no step or model has this name", remedy))
        asked_for |= found
    wanted: set[str] = set()
    for step in reversed(list(graph)):
        asked = not patterns or not asked_for.isdisjoint(names[step.identity])
        if asked or step.identity in wanted:
            wanted.add(step.identity)
            wanted |= {parent.step.identity for parent in step.parents.values()}
    return wanted


def _named(pattern: str, names: Collection[str]) -> set[str]:
    """The one name that a pattern is, or those that it fits; only * is special, for versions may be called M[1] or M?."""
    if pattern in names:
        return {pattern}
    literal = re.sub(r"[\[?]", r"[\g<0>]", pattern)
    return {name for name in names if fnmatchcase(name, literal)}
