"""The records of a study become results.json: every scored model, every path and distance, and what is compared with what.

In come the graph and each step's record as it ends, out comes the document; it is formed anew whenever a step ends, at the
cost of what that step adds. What was not done says why. The format is in docs/formats.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tuneport.files.json_text import read_json
from tuneport.results.answered import LOSS
from tuneport.studies.declared import Study
from tuneport.studies.graph.graph import Graph, Step
from tuneport.studies.run import comparisons
from tuneport.studies.run.step_records import Record

FORMAT = "tuneport.results/1"
NAME = "results.json"
Read = Callable[[Step, str], str | None]

_SCORES = ("metric", "value", "stderr", "n", "interval", "higher_is_better", "shots", "variant")


class Results:
    """What is known so far. ``read`` gives a file of a step's folder as text, or None where there is none."""

    def __init__(self, study: Study, graph: Graph, read: Read, earlier: Mapping[str, Any] | None = None) -> None:
        """``earlier``: an earlier document of the same study, whose comparisons are not computed again."""
        self._study, self._graph, self._read = study, graph, read
        self._steps = {step.identity: step for step in graph}
        self._starts = {
            str(result["start_of"]): step
            for step in graph
            for result in step.about.get("results", ())
            if "start_of" in result
        }
        self._records: dict[str, Record] = {}
        self._files: dict[tuple[str, str], Any] = {}
        self._asked: dict[str, Mapping[str, comparisons.Asked]] = {}
        self._damaged: dict[str, str] = {}  # what is wrong with the files of a step that was done, by identity
        self._comparing = comparisons.Comparing(
            self._asked_of, self._outcome_of, _rows((earlier or {}).get("comparisons"))
        )

    def note(self, record: Record) -> None:
        """A step has come to its end."""
        self._records[record.identity] = record
        self._damaged.pop(record.identity, None)

    @property
    def damaged(self) -> list[tuple[Step, str]]:
        """Steps that were done and whose files cannot be read, as far as they were looked at, and what is wrong."""
        return [(self._steps[identity], wrong) for identity, wrong in self._damaged.items()]

    def document(self) -> dict[str, Any]:
        """What results.json holds now."""
        everything = self._results()
        results = [row for row in everything if row["kind"] != "recycle-start"]
        return {
            "format": FORMAT,
            "study": {
                "name": self._study.name,
                "text": self._study.text,
                "notes": list(self._study.notes),
                "versions": [version.name for version in self._study.versions],
                "tunings": list(self._study.tuning_names),
                "seeds": list(self._study.seeds),
                "families": list(self._study.families),
                "threshold": self._study.lines.threshold,
                "expected": [vars(number) for number in self._study.expected],
            },
            "results": results,
            "starts": [row for row in everything if row["kind"] == "recycle-start"],
            "paths": self._each("path", self._path),
            "distances": self._each("distance", self._distance),
            "rounding": self._each("rounding", self._rounding),
            "comparisons": self._comparing.rows(results),
            "convergence": comparisons.convergence(results),
            "steps": [self._step(step) for step in self._graph],
        }

    def _each(self, kind: str, told: Callable[[Step], dict[str, Any]]) -> list[dict[str, Any]]:
        found = []
        for step in self._graph:
            if step.kind == kind:
                with self._reading(step):
                    told(step)
                row = told(step)  # of what is damaged the second time as of what has failed
                found += [row, *(row | pair for pair in step.about.get("also", ()))]
        return found

    def _results(self) -> list[dict[str, Any]]:
        """Every scored model; one that is asked by several steps is one row."""
        rows: dict[str, dict[str, Any]] = {}
        curves: list[dict[str, Any]] = []
        for step in self._graph:
            for result in step.about.get("results", ()) if step.kind == "evaluate" else ():
                if "start_of" in result:
                    continue
                key = json.dumps(result, sort_keys=True)
                if key not in rows:
                    rows[key] = self._row(step, result)
                    curves += self._curve(step, result)
                with self._reading(step):
                    self._scores(step)
                self._add_scores(rows[key], step)
        return [*rows.values(), *curves]

    def _row(self, step: Step, result: Mapping[str, Any]) -> dict[str, Any]:
        total, here = result["steps_total"], result["steps_on_target"]
        made = step.parents["model"].step if "model" in step.parents else None
        if made is not None and total is None:
            total = self._steps_total(made)
        if made is not None and here is None:
            here = self._steps_on_target(made)
        return {
            "kind": result["kind"],
            "name": result["name"],
            "source": result["source"],
            "target": result["target"],
            "tuning": result["tuning"],
            "family": result["family"],
            "seed": result["seed"],
            "step": None,
            "steps_total": total,
            "steps_on_target": here,
            **{name: result[name] for name in ("rate", "scale") if name in result},
            "split": "test",
            "status": "done",
            "error": None,
            "scores": {},
            "evaluations": [],
        }

    def _add_scores(self, row: dict[str, Any], step: Step) -> None:
        status, error = self._status(step)
        if status != "done" and row["status"] != "failed":
            row |= {"status": status, "error": error}
        row["evaluations"].append({"identity": step.identity, "folder": step.folder, "status": status})
        row["scores"] |= self._scores(step) if status == "done" else {}

    def _scores(self, step: Step) -> dict[str, dict[str, Any]]:
        """What an evaluation found, by task; nothing where it is not done."""
        scores = self._json(step, "scores.json") if self._status(step)[0] == "done" else None
        if scores is None:
            return {}
        loss = bool(step.choices["settings"].get("loss"))
        return {
            _task_name(task, loss): {**_score(found), "evaluation": step.identity}
            for task, found in scores["models"][0]["tasks"].items()
        }

    def _curve(self, step: Step, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Points on the way of a fine-tuning, on validation data; the first is its start."""
        parent = step.parents.get("model")
        if parent is None or parent.step.kind != "tune" or parent.step.choices["eval_every"] is None:
            return []
        tuned = parent.step
        points: list[tuple[int, dict[str, Any]]] = []
        with self._reading(tuned):
            text = self._text(tuned, "model/curve.jsonl") if self._status(tuned)[0] == "done" else None
            points = [_point(read_json(line)) for line in (text or "").splitlines()]
        start = self._starts.get(tuned.identity) if points else None
        if start is not None and self._status(start)[0] == "done":
            with self._reading(start):
                points.insert(0, _point({"step": 0, **self._json(start, "scores.json")["models"][0]}))
        before = tuned.about["before"]
        if before is None and "start" in tuned.parents:
            before = self._steps_total(tuned.parents["start"].step)
        kept = {name: value for name, value in self._row(step, result).items() if name not in ("evaluations", "scores")}
        return [
            {
                **kept,
                "step": number,
                "steps_total": None if before is None else before + number,
                "split": "validation",
                "scores": scores,
                "evaluations": [],
            }
            for number, scores in points
        ]

    def _path(self, step: Step) -> dict[str, Any]:
        found = self._json(step, "path.json") if self._status(step)[0] == "done" else None
        told = ("alphas", "loss", "accuracy", "n", "barrier", "interval", "at", "threshold", "connected", "warnings")
        empty: dict[str, Any] = {"alphas": [], "loss": [], "barrier": None, "interval": None}
        return {
            **step.about["path"],
            **empty,
            **({} if found is None else {name: found[name] for name in told if name in found}),
            **self._place(step),
        }

    def _distance(self, step: Step) -> dict[str, Any]:
        found = self._json(step, "distance.json") if self._status(step)[0] == "done" else None
        row = {**step.about["distance"], "distance": None, "diff_norm_a": None, "diff_norm_b": None, "cosine": None}
        if found is not None:
            one, other = found["versions"].values()
            (pair,) = found["pairs"]
            row |= {"distance": pair["distance"], "cosine": pair["cosine"]}
            row |= {"norm_a": one["norm"], "norm_b": other["norm"]}
            row |= {"diff_norm_a": one["diff_norm"], "diff_norm_b": other["diff_norm"]}
        return {**row, **self._place(step)}

    def _rounding(self, step: Step) -> dict[str, Any]:
        found = self._json(step, "rounding.json") if self._status(step)[0] == "done" else None
        return {**step.about["rounding"], **(found or {"dtype": step.choices["dtype"]}), **self._place(step)}

    def _step(self, step: Step) -> dict[str, Any]:
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
            "parents": sorted({parent.step.identity for parent in step.parents.values()}),
        }

    def _place(self, step: Step) -> dict[str, Any]:
        status, error = self._status(step)
        return {"status": status, "error": error, "identity": step.identity, "folder": step.folder}

    def _status(self, step: Step) -> tuple[str, str | None]:
        """done, failed, or not run, and why; a model that was dropped was done, what cannot be read is none."""
        if step.identity in self._damaged:
            return "failed", self._damaged[step.identity]
        record = self._records.get(step.identity)
        if record is not None:
            return ("failed", record.error) if record.outcome == "failed" else ("done", None)
        failed = self._failed_before(step)
        return "not run", None if failed is None else f"{failed.name} failed: {failed.error}"

    def _failed_before(self, step: Step) -> Record | None:
        waiting, seen = [parent.step for parent in step.parents.values()], set()
        while waiting:
            earlier = waiting.pop()
            if earlier.identity in seen:
                continue
            seen.add(earlier.identity)
            record = self._records.get(earlier.identity)
            if record is not None and record.outcome == "failed":
                return record
            waiting += [parent.step for parent in earlier.parents.values()]
        return None

    def _steps_total(self, step: Step) -> int | None:
        """All fine-tuning steps that went into a model, its parents' too, along the longest way back.

        None where a fine-tuned model is from outside, or was fine-tuned for epochs and is not done.
        """
        if step.kind not in ("tune", "transfer"):
            return None
        parent = step.parents.get("start" if step.kind == "tune" else "tuned")
        before: int | None = step.about["before"]
        if before is None and parent is not None:
            before = self._steps_total(parent.step)
        if step.kind == "transfer" or before is None:
            return before
        own = self._own_steps(step)
        return None if own is None else own + before

    def _own_steps(self, step: Step) -> int | None:
        """The steps of a fine-tuning; None where it goes by epochs and is not done."""
        record, own = self._records.get(step.identity), step.choices["recipe"]["steps"]
        if own is None and record is not None:
            own = record.measured.get("steps")
        return None if own is None else int(own)

    def _steps_on_target(self, step: Step) -> int | None:
        """Those of them on the version itself: since it was pretrained, or since a diff vector was added to it."""
        if step.kind != "tune":
            return 0 if step.kind == "transfer" else None
        own, start = self._own_steps(step), step.parents.get("start")
        before: int | None = step.about["before"]
        if start is not None and start.step.kind in ("tune", "transfer"):
            before = self._steps_on_target(start.step)
        return None if own is None or before is None else own + before

    def _outcome_of(self, evaluation: str) -> str:
        """A digest of what an evaluation left, by its identity."""
        return self._records[evaluation].digest[:16]

    def _asked_of(self, row: Mapping[str, Any]) -> Mapping[str, comparisons.Asked]:
        """What a row's model did, by task."""
        found: dict[str, comparisons.Asked] = {}
        for evaluation in row["evaluations"]:
            identity = evaluation["identity"]
            if identity not in self._asked:
                step = self._steps[identity]
                loss = bool(step.choices["settings"].get("loss"))
                asked: Mapping[str, comparisons.Asked] = {}
                with self._reading(step):
                    asked = comparisons.asked_in(
                        self._json(step, "scores.json"), self._read(step, "scores.examples.jsonl") or ""
                    )
                self._asked[identity] = {_task_name(task, loss): one for task, one in asked.items()}
            found.update(self._asked[identity])
        return found

    @contextmanager
    def _reading(self, step: Step) -> Iterator[None]:
        """Take down in words that the files of a finished step are not what it wrote; the others are read all the same."""
        try:
            yield
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            folders = [f"steps/{parent.step.folder}" for parent in step.parents.values()]
            self._damaged[step.identity] = (
                f"{step.name}: what steps/{step.folder} holds is damaged ({type(error).__name__}: {error}). Remove the "
                f"folder (or that of what it stands on, where the damage is there: {', '.join(folders) or 'nothing'}) and "
                "run the same command again; what else is done stays."
            )

    def _text(self, step: Step, name: str) -> str | None:
        key = (step.identity, name)
        if key not in self._files:
            self._files[key] = self._read(step, name)
        found: str | None = self._files[key]
        return found

    def _json(self, step: Step, name: str) -> Any:
        key = (step.identity, f"{name} parsed")
        if key not in self._files:
            text = self._read(step, name)
            self._files[key] = None if text is None else read_json(text)
        return self._files[key]


def _rows(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []


def _point(found: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """A point of a curve: after how many steps, and the scores there by task."""
    return int(found["step"]), {task: _score(scores) for task, scores in found["tasks"].items()}


def _score(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in _SCORES if name in found}


def _task_name(task: str, loss: bool) -> str:
    """The loss of a task's answers stands beside the task itself."""
    return f"{task}{LOSS}" if loss else task
