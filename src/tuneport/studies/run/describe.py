"""Describe a study before it runs: steps that are done, to do and to do again, and the cost, for people and as a record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tuneport.progress import duration
from tuneport.public_functions import takes
from tuneport.shown import Found
from tuneport.studies.declared import Study
from tuneport.studies.file.study_file import read_study
from tuneport.studies.graph import study_inputs
from tuneport.studies.graph.build import build
from tuneport.studies.graph.graph import Graph
from tuneport.studies.run.cost import CostEstimates
from tuneport.studies.run.planning import Planned, chosen, of_families, plan
from tuneport.studies.run.running_steps import likely_seconds, seconds_of
from tuneport.studies.run.store_at import open_own
from tuneport.studies.study_options import StudyOptions

_MARKS = {"done": "✓", "to do": "·", "again": "↻"}


class PlannedStudy(Found):
    """What a run of a study would do, by key as its JSON is."""

    def heading(self) -> str:
        """One line."""
        count = len(self["steps"])
        return f"plan of the study {self['study']}: {count} step{'s' * (count != 1)}"


@takes(StudyOptions)
def rehearse(given: StudyOptions) -> PlannedStudy:
    """What `tuneport study` would do with this file in this folder. Nothing is written, fetched or computed."""
    file, out, families, only = given.file, given.out, given.families, given.only
    study = of_families(read_study(file), families)
    store = open_own(out, study.name)
    graph = build(study, study_inputs.Inputs.kept(study.path.parent, store.read(study_inputs.NAME)))
    return PlannedStudy(forecast(study, graph, plan(graph, store, chosen(graph, only))))


def forecast(study: Study, graph: Graph, planned: Sequence[Planned]) -> dict[str, Any]:
    """The dry run as JSON."""
    estimates = CostEstimates(study, graph)
    waiting = [one.step for one in planned if one.state != "done"]
    taken = seconds_of(one.record for one in planned if one.record is not None and one.state == "done")
    likely = [likely_seconds(step, taken) for step in waiting]
    known = [seconds for seconds in likely if seconds is not None]
    return {
        "study": study.name,
        "steps": [
            {
                "name": one.step.name,
                "kind": one.step.kind,
                "identity": one.step.identity,
                "folder": one.step.folder,
                "state": one.state,
                "why": list(one.why),
                "parents": sorted({parent.step.name for parent in one.step.parents.values()}),
                "disk": estimates.of(one.step).disk,
                "gpu_hours": estimates.of(one.step).gpu_hours,
            }
            for one in planned
        ],
        "counts": {state: sum(one.state == state for one in planned) for state in _MARKS},
        "cost": {
            **estimates.total(waiting),
            "to_fetch": estimates.to_fetch(),
            "seconds": round(sum(known), 3) if known else None,
            "seconds_unknown": len(likely) - len(known),
            "assumptions": estimates.assumptions(),
        },
        "notes": list(study.notes),
        "warnings": list(study.warnings),
    }


def in_words(told: Mapping[str, Any]) -> str:
    """The dry run for a person."""
    steps, counts, cost = told["steps"], told["counts"], told["cost"]
    lines = [
        f"{told['study']}: {len(steps)} step{'s' * (len(steps) != 1)}, {counts['done']} done, {counts['to do']} to do, {counts['again']} to do again",
        "  " + ", ".join(f"{number} × {kind}" for kind, number in Counter(step["kind"] for step in steps).items()),
        "",
    ]
    width = max((len(step["name"]) for step in steps), default=0)
    for step in steps:
        spent = ", ".join(
            words
            for words in (
                _bytes(step["disk"]) if step["disk"] else "",
                f"{step['gpu_hours']:.3g} GPU h" if step["gpu_hours"] else "",
            )
            if words
        )
        after = f"  ← {', '.join(step['parents'])}" if step["parents"] else ""
        lines.append(f"{_MARKS[step['state']]} {step['name']:{width}}  {spent}{after}".rstrip())
        lines += [f"    {why}" for why in step["why"]]
    lines += ["", f"to write    {_bytes(cost['disk'])}{_unknown(cost['disk_unknown'], cost['disk'])}"]
    if cost["to_fetch"] is not None:
        lines.append(f"to fetch    at most {_bytes(cost['to_fetch'])} from the Hub")
    hours = "unknown" if cost["gpu_hours"] is None else f"{cost['gpu_hours']:,.0f} GPU hours"
    days = "" if cost["days"] is None else f", {cost['days']:.1f} days on the GPUs of [cost]"
    lines.append(f"to compute  {hours}{days}{_unknown(cost['gpu_hours_unknown'], cost['gpu_hours'])}")
    if cost["seconds"] is not None:
        told_of = _unknown(cost["seconds_unknown"], cost["seconds"])
        lines.append(
            f"to wait     about {duration(cost['seconds'])} in sequence, judging by similar steps here{told_of}"
        )
    lines += [f"assumed     {cost['assumptions'][0]}"] if cost["assumptions"] else []
    lines += [f"            {assumption}" for assumption in cost["assumptions"][1:]]
    lines += [f"note: {note}" for note in told["notes"]]
    lines.append(
        f"{_MARKS['done']} done  {_MARKS['to do']} to do  {_MARKS['again']} done before with other options or parents"
    )
    return "\n".join(lines)


def _unknown(count: int, known: float | None) -> str:
    more, steps = ("" if known is None else " more"), f"step{'s' * (count != 1)}"
    return f" ({'' if known is None else 'unknown for '}{count}{more} {steps})" if count else ""


def _bytes(count: int | None) -> str:
    if count is None:
        return "unknown"
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"
