"""Records and files as steps leave them, with outcomes that are made up: right answers drawn at a rate that is chosen."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from support.declared_studies import graph_of
from tuneport.results.example_outcomes import Outcome, TaskResult
from tuneport.studies.declared import Study
from tuneport.studies.graph.graph import Graph, Step
from tuneport.studies.run.step_records import Record, ended
from tuneport.studies.run.study_results import Results

QUESTIONS = 300


def outcomes(name: str, rate: float, task: str = "gsm8k") -> TaskResult:
    drawn = random.Random(f"{name} {task}")
    examples = tuple(Outcome(f"q{place}", float(drawn.random() < rate)) for place in range(QUESTIONS))
    return TaskResult(task, "exact_match", True, examples)


class Done:
    """A study whose steps have come to an end; `rates` say how often a model is right."""

    def __init__(self, study: Study, rates: Mapping[str, float] | None = None) -> None:
        self.study, self.graph = study, graph_of(study)
        self.rates = dict(rates or {})
        self.files: dict[tuple[str, str], str] = {}
        self.results = Results(study, self.graph, self.read)

    def read(self, step: Step, name: str) -> str | None:
        return self.files.get((step.identity, name))

    def task_of(self, step: Step) -> TaskResult:
        name = str(step.about["model"])
        return outcomes(f"{name} {step.choices['settings']}", self.rates.get(name, 0.5))

    def do(self, step: Step, **more: Any) -> Record:
        if step.kind == "evaluate":
            result = self.task_of(step)
            more = {"measured": {"tasks": {result.task: result.record(0)}}} | more
        record = ended(step, more.pop("outcome", "done"), seconds=1.0, **more)
        self.results.note(record)
        return record

    def do_all(self) -> dict[str, Any]:
        for step in self.graph:
            self.do(step)
        return self.document()

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(self.results.document()))
        return found


def step_of(graph: Graph, name: str) -> Step:
    (found,) = [step for step in graph if step.name == name]
    return found
