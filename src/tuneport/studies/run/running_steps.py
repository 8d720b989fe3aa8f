"""The steps of a study that run now: shown on the terminal, written for `inspect`, with an estimate of the time left.

`running.json` is beside the results during a run. It remains after a kill; then the study's lock shows that nothing
runs.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from tuneport.errors import OutputError
from tuneport.files.json_text import read_json
from tuneport.progress import Progress, duration
from tuneport.studies.graph.graph import Step
from tuneport.studies.run.step_records import Record
from tuneport.studies.run.store import Store
from tuneport.terminal import is_watched, tell

RUNNING = "running.json"


class RunningSteps:
    """Told when a step begins and ends; shows it."""

    def __init__(self, to_do: Iterable[Step], earlier: Iterable[Record], jobs: int, store: Store) -> None:
        """``earlier`` are the records that there are: how long steps like those to do took."""
        self._left = {step.identity: step for step in to_do}
        self._of, self._jobs, self._store = len(self._left), jobs, store
        self._since: dict[str, float] = {}
        self._seconds = seconds_of(earlier)
        self.progress = Progress("study", self._of, "steps", rate=False)
        self.progress.left = self.seconds_left

    def began(self, step: Step) -> None:
        """A step was handed to the engine."""
        self._since[step.identity] = time.time()
        self._tell()

    def ended(self, record: Record) -> None:
        """A step has ended, well or not; models that are dropped are no steps of this run."""
        if record.outcome == "dropped":
            return
        self._since.pop(record.identity, None)
        self._left.pop(record.identity, None)
        _learn(self._seconds, record)
        self.progress.add()
        if is_watched():
            how = "failed" if record.outcome == "failed" else _precisely(record.seconds)
            tell(f"[{self._of - len(self._left)}/{self._of}] {record.name}: {how}")
        self._tell()

    def seconds_left(self) -> float | None:
        """From the seconds of steps like those that are left; None where there is none like one of them yet."""
        now, total = time.time(), 0.0
        for step in list(self._left.values()):
            seconds = likely_seconds(step, self._seconds)
            if seconds is None:
                return None
            total += max(seconds - (now - self._since.get(step.identity, now)), 0)
        return total / self._jobs

    def _tell(self) -> None:
        names = [
            f"{self._left[identity].name} since {time.strftime('%H:%M', time.localtime(since))}"
            for identity, since in self._since.items()
        ]
        self.progress.note = "; ".join(names)
        steps = [
            {"name": self._left[identity].name, "since": round(since, 3)} for identity, since in self._since.items()
        ]
        self._store.write(RUNNING, (json.dumps({"steps": steps}, ensure_ascii=False) + "\n").encode())


def _precisely(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def seconds_of(records: Iterable[Record]) -> dict[tuple[str, ...], list[float]]:
    """How long steps took, by what makes them alike."""
    found: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for record in records:
        _learn(found, record)
    return found


def _learn(seconds: dict[tuple[str, ...], list[float]], record: Record) -> None:
    if record.outcome in ("done", "dropped") and record.seconds > 0:
        for key in keys_of(record):
            seconds[key].append(record.seconds)


def keys_of(one: Step | Record) -> list[tuple[str, ...]]:
    """What makes steps alike, the nearest first: kind and choices but for seeds and what goes in; then the kind."""
    own = {name: choice for name, choice in one.choices.items() if name != "seed" and not isinstance(choice, Mapping)}
    recipe = one.choices.get("recipe")
    if isinstance(recipe, Mapping):
        own["recipe"] = {name: value for name, value in recipe.items() if name != "seed"}
    return [(one.kind, json.dumps(own, sort_keys=True, default=str)), (one.kind,)]


def likely_seconds(step: Step, seconds: Mapping[tuple[str, ...], list[float]]) -> float | None:
    """The mean of the steps that are most like it."""
    found = next((seconds[key] for key in keys_of(step) if seconds.get(key)), None)
    return None if found is None else sum(found) / len(found)


def now_running(store: Store) -> list[dict[str, Any]] | None:
    """The steps that a run is at, with the time since when; None where nobody runs."""
    if store.holder() is None:
        return None
    try:
        found = read_json(store.read(RUNNING) or b"{}")
        return [
            {"name": str(step["name"]), "since": time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(step["since"]))}
            for step in found.get("steps", ())
        ]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, OutputError):
        return []
