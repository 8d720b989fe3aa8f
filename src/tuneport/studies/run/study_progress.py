"""How far a study is, from its folder or URL; neither the models nor the study file are needed.

Makes the description for `tuneport inspect`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tuneport.results.schema import DONE, FAILED, RECORD, RESULTS, STEPS, STUDY
from tuneport.results.study_reading import AGAIN, parsed_results
from tuneport.results.torn_json import mappings
from tuneport.studies.graph.study_inputs import NAME as INPUTS
from tuneport.studies.run import step_records
from tuneport.studies.run.running_steps import now_running
from tuneport.studies.run.step_records import Record
from tuneport.studies.run.store import Store
from tuneport.studies.run.store_at import name_in

_GOES_ON = "Run tuneport study again to resume."


def is_study(store: Store) -> bool:
    """Whether this is what `tuneport study` writes, from its first moment on."""
    if store.read(STUDY) is None:
        return False
    return any(store.read(name) is not None for name in (INPUTS, RESULTS)) or bool(store.sizes(STEPS))


def progress(store: Store) -> dict[str, Any]:
    """What was asked, what of it is done, what failed and why."""
    sizes = store.sizes(STEPS)
    places = sorted(name for name in sizes if name.count("/") == 1 and name.endswith(f"/{RECORD}"))
    found = [record for name in places if (record := _record(store, name)) is not None]
    doubts: list[str] = []
    document = _results(store, doubts)
    planned = {step["identity"] for step in document["steps"]}
    current = [record for record in found if record.identity in planned] if planned else found
    outcomes = Counter(FAILED if record.outcome == FAILED else DONE for record in current)
    scored = [row for row in document["results"] if row.get("status") == DONE and row.get("step") is None]
    failed = [f"{record.name}: {record.error}" for record in current if record.outcome == FAILED]
    left = len(planned) - outcomes[DONE]
    running = now_running(store)
    return {
        "name": _name(store),
        "steps": len(planned) or None,
        "done": outcomes[DONE],
        "failed": failed,
        "left": left if planned else None,
        **({} if running is None else {"running": [f"{step['name']} since {step['since']}" for step in running]}),
        "scored_models": len(scored),
        "of_other_choices": len(found) - len(current),
        "seconds": round(sum(record.seconds for record in current), 1),
        "bytes": sum(sizes.values()),
        **({"doubts": doubts} if doubts else {}),
        "next": _next(store)
        if planned and left == 0
        else _GOES_ON
        if running is None
        else f"It is being run by {store.holder()}.",
    }


def _next(store: Store) -> str:
    return f"tuneport report {store.where}" + (" --out FILE" if "://" in store.where else "")


def _record(store: Store, name: str) -> Record | None:
    try:
        return step_records.read(store.read(f"{STEPS}/{name}") or b"")
    except OSError:
        return None


def _results(store: Store, doubts: list[str]) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of results.json that can be read; ``doubts`` says where that is not all of it."""
    found: dict[str, Any] | None = {"results": [], "steps": []}
    try:
        content = store.read(RESULTS)
        found = found if content is None else parsed_results(content, doubts)
    except OSError as error:
        doubts.append(f"{RESULTS} cannot be read: {error}.")
    told = found or {}
    whole = {
        "results": list(mappings(told, "results")),
        "steps": [step for step in mappings(told, "steps") if isinstance(step.get("identity"), str)],
    }
    if any(told.get(name, rows) != rows for name, rows in whole.items()):
        doubts.append(f"{RESULTS} is not the results file of a study.")
    doubts[:] = [f"{doubt} {AGAIN}" for doubt in doubts]
    return whole


def _name(store: Store) -> str:
    try:
        found = name_in(store)
    except OSError:
        found = None
    return store.where.rpartition("/")[2] if found is None else str(found)
