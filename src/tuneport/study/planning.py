"""What of a study is done, what is to do, and what is to do again and why.

In come a graph and the store with the records of earlier runs, out comes each step with its state. A step that was done
with other choices, or from other parents, stands against the record of its name that is nearest to it, field by field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal

from tuneport.checkpoint.journal import differing_fields
from tuneport.errors import UsageError
from tuneport.study import records
from tuneport.study.graph import Graph, Step
from tuneport.study.records import RECORD, Record
from tuneport.study.store import STEPS, Store

State = Literal["done", "to do", "again"]


@dataclass(frozen=True)
class Planned:
    """A step, its state, and in words why it is not done."""

    step: Step
    state: State
    why: tuple[str, ...] = ()
    record: Record | None = None


def plan(graph: Graph, store: Store | None) -> list[Planned]:
    """The state of every step, in order; without a store, all are to do."""
    if store is None:
        return [Planned(step, "to do") for step in graph]
    by_folder: dict[str, dict[str, int]] = {}
    for name, size in store.sizes(STEPS).items():
        folder, _, inside = name.partition("/")
        by_folder.setdefault(folder, {})[inside] = size
    found: dict[str, Record] = {}
    for folder in sorted(by_folder):
        content = store.read(f"{STEPS}/{folder}/{RECORD}")
        record = None if content is None else records.read(content)
        if record is not None:
            found[folder] = record
    by_name: dict[tuple[str, str], list[Record]] = {}
    for record in found.values():
        by_name.setdefault((record.kind, record.name), []).append(record)
    return [
        _planned(step, found.get(step.folder), by_folder.get(step.folder, {}), by_name.get((step.kind, step.name), ()))
        for step in graph
    ]


def _planned(step: Step, record: Record | None, sizes: Mapping[str, int], others: Sequence[Record]) -> Planned:
    if record is not None and record.identity == step.identity:
        if record.outcome == "failed":
            return Planned(step, "to do", (f"failed before: {record.error}",), record)
        lost = [] if record.outcome == "dropped" else records.lost(record, sizes)
        if lost:
            return Planned(step, "again", (f"its outputs are not as they were: {', '.join(lost[:3])}",), record)
        dropped = ("its model was dropped, and is made again where something needs it",)
        return Planned(step, "done", dropped if record.outcome == "dropped" else (), record)
    done = [other for other in others if other.outcome != "failed"]
    if not done:
        return Planned(step, "to do")
    nearest = min((differences(other, step) for other in done), key=len)
    return Planned(step, "again", tuple(nearest))


def differences(record: Record, step: Step) -> list[str]:
    """What is not as it was: choices field by field, then → now, and parents that are made anew."""
    found = differing_fields(dict(record.choices), dict(step.choices))
    for role in sorted({*record.parents, *step.parents}):
        then, now = record.parents.get(role), step.parents.get(role)
        if then is None or now is None:
            found.append(
                f"{role} ({'no step' if then is None else then['name']} → {'no step' if now is None else now.step.name})"
            )
        elif then["identity"] != now.step.identity:
            what = f"{then['name']} → {now.step.name}" if then["name"] != now.step.name else now.step.name
            found.append(f"{role} ({what}, which is made anew)")
        elif then["part"] != now.part:
            found.append(f"{role} ({then['part']} → {now.part} of {now.step.name})")
    return found


def chosen(graph: Graph, families: Iterable[int] = (), only: Iterable[str] = ()) -> set[str]:
    """Identities of the steps that are asked for, with all that they stand on.

    `families` are seeds of the lab; `only` are names of steps or of models, or patterns of them with `*`. Raises `UsageError`
    for a name that no step has.
    """
    wanted_families, patterns = set(families), list(only)
    of_family: dict[str, set[int]] = {}
    for step in graph:
        of_family[step.identity] = {int(step.choices["seed"])} if step.kind == "family" else set()
        for parent in step.parents.values():
            of_family[step.identity] |= of_family[parent.step.identity]
    there = set().union(*of_family.values()) if of_family else set()
    unknown = sorted(wanted_families - there)
    if unknown:
        known = ", ".join(map(str, sorted(there))) or "none"
        raise UsageError(f"--family {unknown[0]}: the study has no such family. It has: {known}.")
    names = {step.identity: (step.name, str(step.about.get("model", step.name))) for step in graph}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for of_step in names.values() for name in of_step):
            near = get_close_matches(pattern, [name for of_step in names.values() for name in of_step], 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"--only {pattern!r}: no step or model has this name.{hint} --dry-run lists the steps.")
    found: set[str] = set()
    for step in reversed(list(graph)):
        asked = not patterns or any(fnmatchcase(name, pattern) for name in names[step.identity] for pattern in patterns)
        fits = not wanted_families or not of_family[step.identity] or of_family[step.identity] & wanted_families
        if (asked and fits) or step.identity in found:
            found.add(step.identity)
            found |= {parent.step.identity for parent in step.parents.values()}
    return found
