"""Make results.json from the records of a study: every scored model, every path, distance and rounding.

The document is written again whenever a step ends. Missing results have a reason. docs/formats.md describes the format.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tuneport.files.json_text import read_json
from tuneport.results.result_rows import MEASURES, Row, score_row, score_rows
from tuneport.results.schema import CURVE, DONE, FAILED, HEALED_START, NOT_RUN, RESULTS_FORMAT, START
from tuneport.studies.declared import Study
from tuneport.studies.graph.graph import Graph, Step
from tuneport.studies.run.step_records import Record

Read = Callable[[Step, str], str | None]
_WITH_STEPS = ("tune", "transfer", "adapt")  # what makes models
TUNE = "tune"  # the rung of `adapt` that fine-tunes on examples


class Results:
    """What is known so far. ``read`` gives a file of a step's folder as text, or None where there is none."""

    def __init__(self, study: Study, graph: Graph, read: Read) -> None:
        self._study, self._graph, self._read = study, graph, read
        self._steps = {step.identity: step for step in graph}
        self._starts = {
            str(result["start_of"]): step
            for step in graph
            for result in step.about.get("results", ())
            if "start_of" in result
        }
        self._records: dict[str, Record] = {}
        self._curves: dict[str, list[tuple[int, Row]]] = {}
        self._damaged: dict[str, str] = {}  # what is wrong with what a step has left that was done, by identity

    def note(self, record: Record) -> None:
        """A step has come to its end."""
        self._records[record.identity] = record
        self._damaged.pop(record.identity, None)
        self._curves.pop(record.identity, None)

    @property
    def damaged(self) -> list[tuple[Step, str]]:
        """Steps that were done and have left what cannot be read, as far as it was looked at, and what is wrong."""
        return [(self._steps[identity], wrong) for identity, wrong in self._damaged.items()]

    def document(self) -> dict[str, Any]:
        """What results.json holds now."""
        doing = self._study.doing
        return {
            "format": RESULTS_FORMAT,
            "study": {
                "name": self._study.name,
                "notes": list(self._study.notes),
                "versions": [version.name for version in self._study.versions],
                "families": list(self._study.each_family),
                "carried": doing.carry if doing.recycle else None,
                "expected": [vars(number) for number in self._study.expected],
            },
            "results": self._results(),
            **{name: list(self._measured(kind)) for kind, (name, _) in MEASURES.items()},
            "steps": [self._step(step) for step in self._graph],
        }

    def _measured(self, kind: str) -> Iterator[Row]:
        """The paths, distances or roundings that are done."""
        for step in self._graph:
            if step.kind == kind and self._status(step)[0] == DONE:
                with self._reading(step):
                    row = MEASURES[kind][1](step.about[kind], self._records[step.identity].measured)
                    yield from (row, *(row | pair for pair in step.about.get("also", ())))

    def _results(self) -> list[Row]:
        """Every scored model; one that is asked by several steps is one row."""
        rows: dict[str, Row] = {}
        curves: list[Row] = []
        for step in self._graph:
            for result in step.about.get("results", ()) if step.kind == "evaluate" else ():
                if "start_of" in result or result["kind"] in (START, HEALED_START):
                    continue
                key = json.dumps(result, sort_keys=True)
                if key not in rows:
                    rows[key] = self._row(step, result)
                    curves += self._curve(step, result)
                self._add_scores(rows[key], step)
        return [*rows.values(), *curves]

    def _row(self, step: Step, result: Mapping[str, Any]) -> Row:
        made = step.parents["model"].step if "model" in step.parents else None
        names = ("steps_total", "steps_on_target")
        counted = dict(zip(names, self._counted(made), strict=True)) if made is not None else {}
        counted |= {name: result[name] for name in names if result[name] is not None or made is None}
        return {**result, **counted, "step": None, "status": DONE, "error": None, "scores": {}}

    def _add_scores(self, row: Row, step: Step) -> None:
        found: Row = {}
        if self._status(step)[0] == DONE:
            with self._reading(step):
                loss = bool(step.choices["settings"].get("loss"))
                found = score_rows(self._records[step.identity].measured, step.folder, loss)
        status, error = self._status(step)
        if status != DONE and row["status"] != FAILED:
            row |= {"status": status, "error": error}
        row["scores"] |= found

    def _curve(self, step: Step, result: Mapping[str, Any]) -> list[Row]:
        """Points on the way of a fine-tuning, on validation data; the first is its start."""
        parent = step.parents.get("model")
        if parent is None or parent.step.kind != "tune" or parent.step.choices["eval_every"] is None:
            return []
        tuned = parent.step
        points: list[tuple[int, Row]] = []
        with self._reading(tuned):
            points = self._points(tuned)
        start = self._starts.get(tuned.identity) if points else None
        if start is not None and self._status(start)[0] == DONE:
            with self._reading(start):
                points = [_point({**self._records[start.identity].measured, "step": 0}), *points]
        before = tuned.about["before"]
        if before is None and "start" in tuned.parents:
            before, _ = self._counted(tuned.parents["start"].step)
        row = self._row(step, result)
        totals = [None if before is None else before + number for number, _ in points]
        return [
            {**row, "step": number, "steps_total": total, "scores": scores}
            for (number, scores), total in zip(points, totals, strict=True)
        ]

    def _points(self, tuned: Step) -> list[tuple[int, Row]]:
        if self._status(tuned)[0] != DONE:
            return []
        if tuned.identity not in self._curves:
            lines = (self._read(tuned, CURVE) or "").splitlines()
            self._curves[tuned.identity] = [_point(read_json(line)) for line in lines]
        return self._curves[tuned.identity]

    def _step(self, step: Step) -> Row:
        record = self._records.get(step.identity)
        status, error = self._status(step)
        return {
            "identity": step.identity,
            "name": step.name,
            "kind": step.kind,
            "outcome": status if record is None else record.outcome,
            "error": error,
            "seconds": None if record is None else record.seconds,
            "folder": step.folder,
        }

    def _status(self, step: Step) -> tuple[str, str | None]:
        """done, failed, or not run, and why; a model that was dropped was done, what cannot be read is none."""
        if step.identity in self._damaged:
            return FAILED, self._damaged[step.identity]
        record = self._records.get(step.identity)
        if record is not None:
            return (FAILED, record.error) if record.outcome == FAILED else (DONE, None)
        failed = self._failed_before(step)
        return NOT_RUN, None if failed is None else f"{failed.name} failed: {failed.error}"

    def _failed_before(self, step: Step) -> Record | None:
        waiting, seen = [parent.step for parent in step.parents.values()], set()
        while waiting:
            earlier = waiting.pop()
            if earlier.identity in seen:
                continue
            seen.add(earlier.identity)
            record = self._records.get(earlier.identity)
            if record is not None and record.outcome == FAILED:
                return record
            waiting += [parent.step for parent in earlier.parents.values()]
        return None

    def _counted(self, step: Step) -> tuple[int | None, int | None]:
        """All fine-tuning steps that went into a model, its parents' too, and those of them on the version itself.

        None where a fine-tuned model is from outside, or was fine-tuned for epochs and is not done.
        """
        if step.kind not in _WITH_STEPS:
            return None, None
        total = here = step.about["before"]
        parent = step.parents.get("start" if step.kind == "tune" else "tuned")
        if parent is not None:
            total_of_parent, here_of_parent = self._counted(parent.step)
            total = total_of_parent if total is None else total
            here = here_of_parent if parent.step.kind in _WITH_STEPS else here
        if step.kind == "transfer":
            return total, 0
        record = self._records.get(step.identity)
        own: int | None
        if step.kind == "adapt":  # whether fine-tuning on examples is kept shows only in the end
            own, here = (None if TUNE in step.choices["rungs"] else 0), 0
        else:
            own = step.choices["recipe"]["steps"]
        if own is None and record is not None:
            own = record.measured.get("steps")
        total, here = (None if own is None or before is None else own + before for before in (total, here))
        return total, here

    @contextmanager
    def _reading(self, step: Step) -> Iterator[None]:
        """Record that a finished step's files have changed; the others are still read."""
        try:
            yield
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            folders = [f"steps/{parent.step.folder}" for parent in step.parents.values()]
            self._damaged[step.identity] = (
                f"{step.name}: steps/{step.folder} is damaged ({type(error).__name__}: {error}). Remove the folder "
                f"(or, if the damage is there, that of a step it depends on: {', '.join(folders) or 'none'}) and run "
                f"the command again; other finished work is kept."
            )


def _point(found: Mapping[str, Any]) -> tuple[int, Row]:
    """A point of a curve: after how many steps, and the scores there by task."""
    return int(found["step"]), {task: score_row(scores) for task, scores in found["tasks"].items()}
