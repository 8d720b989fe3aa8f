"""How far a study is, from what lies in its folder or behind its URL: neither the models nor the file it was declared in are needed.

In comes the store, out comes a description for `tuneport inspect`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tuneport.files.json_text import read_json
from tuneport.studies.graph.inputs import NAME as INPUTS
from tuneport.studies.run import step_records
from tuneport.studies.run.step_records import RECORD, Record
from tuneport.studies.run.store import STEPS, STUDY, Store
from tuneport.studies.run.store_at import name_in

_RESULTS = "results.json"

_ANEW = "Run the study again: it writes the file anew and repeats nothing."


def is_study(store: Store) -> bool:
    """Whether this is what `tuneport study` writes, from its first moment on."""
    if store.read(STUDY) is None:
        return False
    return any(store.read(name) is not None for name in (INPUTS, _RESULTS)) or bool(store.sizes(STEPS))


def progress(store: Store) -> dict[str, Any]:
    """What was asked, what of it is done, what failed and why."""
    sizes = store.sizes(STEPS)
    places = sorted(name for name in sizes if name.count("/") == 1 and name.endswith(f"/{RECORD}"))
    found = [record for name in places if (record := _record(store, name)) is not None]
    doubts: list[str] = []
    document = _results(store, doubts)
    planned = {step["identity"] for step in document["steps"]}
    current = [record for record in found if record.identity in planned] if planned else found
    outcomes = Counter("failed" if record.outcome == "failed" else "done" for record in current)
    scored = [row for row in document["results"] if row.get("status") == "done" and row.get("split") == "test"]
    failed = [f"{record.name}: {record.error}" for record in current if record.outcome == "failed"]
    left = len(planned) - outcomes["done"]
    return {
        "name": _name(store),
        "steps": len(planned) or None,
        "done": outcomes["done"],
        "failed": failed,
        "left": left if planned else None,
        "scored_models": len(scored),
        "of_other_choices": len(found) - len(current),
        "seconds": round(sum(record.seconds for record in current), 1),
        "bytes": sum(sizes.values()),
        **({"doubts": doubts} if doubts else {}),
        "next": _next(store) if planned and left == 0 else "Run tuneport study again; it goes on.",
    }


def _next(store: Store) -> str:
    return f"tuneport report {store.where}" + (" --out FILE" if "://" in store.where else "")


def _record(store: Store, name: str) -> Record | None:
    try:
        found = step_records.read(store.read(f"{STEPS}/{name}") or b"")
    except OSError:
        return None
    if found is None or not isinstance(found.identity, str) or not isinstance(found.seconds, int | float):
        return None
    return found


def _results(store: Store, doubts: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The rows of results.json that can be read; ``doubts`` says where that is not all of it."""
    try:
        content = store.read(_RESULTS)
        found = {"results": [], "steps": []} if content is None else read_json(content)
    except (OSError, ValueError) as error:
        found = None
        doubts.append(f"results.json cannot be read: {error}. {_ANEW}")
    told = found if isinstance(found, dict) else {}
    whole = {
        "results": [row for row in _list(told, "results") if isinstance(row, dict)],
        "steps": [step for step in _list(told, "steps") if isinstance(step, dict) and _is_named(step)],
    }
    if found is not None and any(told.get(name) != rows for name, rows in whole.items()):
        doubts.append(f"results.json is not what a study writes. {_ANEW}")
    return whole


def _list(told: Mapping[str, Any], name: str) -> list[Any]:
    rows = told.get(name)
    return rows if isinstance(rows, list) else []


def _is_named(step: Mapping[str, Any]) -> bool:
    return isinstance(step.get("identity"), str)


def _name(store: Store) -> str:
    try:
        found = name_in(store)
    except OSError:
        found = None
    return store.where.rpartition("/")[2] if found is None else str(found)
