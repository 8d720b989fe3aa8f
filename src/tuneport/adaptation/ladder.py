"""Climb the ladder: one rung after the other, each kept only if the gate lets it through.

Everything that was done is in the folder of the run: a run that was killed goes on, and does nothing twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuneport.adaptation.climb import Attempt, Climb, Declined, Standing
from tuneport.adaptation.gate import GateDecision, decide
from tuneport.adaptation.rung_measures import RungMeasures, retention, right
from tuneport.adaptation.rungs import add_rung, distil_rung, layers_rung, scale_rung, tune_rung
from tuneport.errors import named, recorded
from tuneport.files.json_text import read_json
from tuneport.files.opening import MOST_RECORD_BYTES, read_bytes
from tuneport.files.writing import write_whole
from tuneport.statistics import Estimate, accuracy, difference

ATTEMPTS: Mapping[str, Callable[[Climb], Attempt | Declined]] = {
    "add": add_rung.attempt,
    "scale": scale_rung.attempt,
    "layers": layers_rung.attempt,
    "distil": distil_rung.attempt,
    "tune": tune_rung.attempt,
}
_NO_ANSWERS = f"It trains on answers: give {named('examples')} instead of {named('prompts')}."


def climb_all(climb: Climb, target: RungMeasures) -> list[dict[str, Any]]:
    """Try every rung that was asked for. Returns their records, in order; the best is where the climb stands."""
    found = []
    for name in ATTEMPTS:
        if name not in climb.given.wanted:
            lacks = name == "tune" and not climb.given.examples
            found.append(_skipped(name, _NO_ANSWERS if lacks else "It was not asked for."))
            continue
        if name != "add" and climb.parts.few is not None:
            found.append(_skipped(name, climb.parts.few))
            continue
        climb.progress.note = name
        found.append(_rung(name, climb, target))
        climb.progress.add()
    return found


def _rung(name: str, climb: Climb, target: RungMeasures) -> dict[str, Any]:
    """One rung: taken up where an earlier run has done it, else tried and judged."""
    file = climb.folder / f"{name}.rung.json"
    if file.is_file():
        climb.progress.taken_up(1)
        told = read_json(read_bytes(file, climb.folder, MOST_RECORD_BYTES))
        if told["measured"] is not None:
            earlier = RungMeasures.from_json(told["measured"])
            _stand(name, climb.folder / told["place"], climb, earlier, told["record"]["status"])
        return dict(told["record"])
    begun, before = time.monotonic(), len(climb.warnings)
    attempt = ATTEMPTS[name](climb)
    measured: RungMeasures | None = None
    place = climb.folder / name
    if isinstance(attempt, Declined):
        record = {**_skipped(name, attempt.why), "status": "not better", **attempt.more}
    else:
        decision = _decided(name, climb, attempt, target)
        if decision.status == "kept":
            attempt.keep()
        measured, place = attempt.measured, attempt.place
        record = _record(name, climb, attempt, decision, target)
    record["seconds"] = round(time.monotonic() - begun, 1)
    record["warnings"] = recorded(dict.fromkeys(climb.warnings[before:]))
    told = {"record": record, "place": place.name, "measured": None if measured is None else measured.to_json()}
    write_whole(file, json.dumps(told))
    if measured is not None:
        _stand(name, place, climb, measured, record["status"])
    return record


def _decided(name: str, climb: Climb, attempt: Attempt, target: RungMeasures) -> GateDecision:
    if name == "add":
        return GateDecision("kept", "Plain addition; all other rungs are compared with it.")
    assert climb.added is not None, "add is the first rung"
    return decide(
        attempt.measured.select,
        climb.standing.measured.select,
        retention(attempt.measured, target),
        retention(climb.added.measured, target),
        keep_harmed=climb.given.keep_harmed,
    )


def _stand(name: str, place: Path, climb: Climb, measured: RungMeasures, status: str) -> None:
    if status == "kept":
        climb.best = Standing(name, place, measured)
        climb.added = climb.added or climb.best


def _skipped(name: str, why: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("select", "test", "retention"))
    return {
        "name": name,
        "status": "skipped",
        **nothing,
        "seconds": 0.0,
        "examples": 0,
        "steps": 0,
        "why": recorded([why])[0],
        "warnings": [],
    }


def _record(name: str, climb: Climb, attempt: Attempt, decision: GateDecision, target: RungMeasures) -> dict[str, Any]:
    select = {**figure(attempt.measured.select), "difference": _estimate(decision.difference)}
    test = figure(attempt.measured.test)
    if climb.added is not None:
        change = difference(right(attempt.measured.test), right(climb.added.measured.test))
        test["difference"] = _estimate(change)
    return {
        "name": name,
        "status": decision.status,
        "select": select,
        "test": test,
        "retention": retention(attempt.measured, target).record(),
        "seconds": 0.0,
        "examples": attempt.examples,
        "steps": attempt.steps,
        "why": recorded([decision.why])[0],
        **attempt.more,
    }


def figure(result: Any) -> dict[str, Any]:
    """The share of prompts answered as wanted, with its interval."""
    return {**(_estimate(accuracy(right(result))) or {}), "n": len(result.outcomes), "difference": None}


def _estimate(found: Estimate | None) -> dict[str, Any] | None:
    return None if found is None else {"value": found.value, "interval": list(found.interval)}
