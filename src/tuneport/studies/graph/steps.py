"""Steps of a study: what they take, by role, and what scores a model.

What a step takes is a role: a parent
(`Step.parents`) or a thing from outside, whose spelling and digest are in `Step.choices` and whose place is in
`Step.inputs`, under the same role. The kinds, their roles and their choices:

| kind | roles | choices |
| --- | --- | --- |
| `family` | – | `recipe`, `size`, `seed`, `literal` (what the size stands for) |
| `tune` | `start`, `data.0` …, `validation.0` …, `chat_template` | `recipe` (all of it, with its seed), `data`, `mix`, `end_token`, `lora`, `dtype` (None: the start's), `eval_every`, `running` |
| `transfer` | `base`, `tuned`, `target` | `scale`, `dtype` (None: the target's), `settings` (further choices of `transfer`) |
| `adapt` | `base`, `tuned`, `target`, `prompts.0` … or `examples.0` …, `select.0` …, `test.0` …, `retain.0` …, `chat_template` | `rungs`, `fitting` (all of it), `dtype`, `settings` (further choices of `adapt` and `transfer`) |
| `evaluate` | `model`, `tasks.0` …, `chat_template` | `suite`, `settings` (arguments of `evaluate`), `seed` |
| `path` | `a`, `b`, `data.0` …, `chat_template` | `points`, `threshold`, `beyond` (None: from a to b), `settings` |
| `distance` | `a`, `b`, and what there is of `a_tuned`, `b_tuned` | – |
| `compare` | `base`, `tuned`, `target` | `dtype` (None: the target's), `settings` (as of `transfer`) |
| `rounding` | `base`, `tuned` | `dtype` |

How a step goes about its work (batch size, device, how often it saves) does not change its outcome: it is in
`Step.about["running"]`. A thing from outside is in `choices` as `{"given", "digest"}`; the numbered roles are in the
order of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tuneport.families import catalogue
from tuneport.results.schema import BASE, Model
from tuneport.studies.declared import Evaluation, Study
from tuneport.studies.graph.graph import Graph, Parent, Step
from tuneport.studies.graph.study_inputs import LAB, Inputs, Outside

# Where memory ran out, a smaller batch goes on; none of these is a choice about the outcome.
_RUNNING = ("batch_size", "eval_batch_size", "device", "save_every")

Thing = Parent | Outside


@dataclass(frozen=True)
class StudyModel:
    """A model of the study: its name in the paper's words, what it is, where it comes from, and what went into it."""

    name: str
    what: Model
    thing: Thing
    family: int | None
    seed: int | None = None
    steps_total: int | None = 0  # None: fine-tuned by others, who knows how long
    steps_on_target: int | None = 0  # of these, on the version itself: none where a diff vector was just added to it
    adapts: Thing | None = None  # what it is an adapter of; None where it is a whole model


class Builder:
    """The steps so far, and of which results each evaluation is the answer."""

    def __init__(self, study: Study, inputs: Inputs) -> None:
        self.study = study
        self._inputs = inputs
        self._graph = Graph()
        self._families: dict[tuple[str, int], Step] = {}
        self._results: dict[str, list[Mapping[str, Any]]] = {}
        self._also: dict[str, list[Mapping[str, Any]]] = {}
        self.totals: dict[tuple[int | None, int], list[tuple[str, str, int]]] = {
            (family, seed): [] for family in study.each_family for seed in study.seeds
        }

    def add(self, step: Step) -> Step:
        """Add a step, or find the one that is the same; what it is the answer of besides is remembered."""
        found, row = self._graph.add(step), step.about.get(step.kind)
        if row is not None and row != found.about[step.kind]:
            also = self._also.setdefault(found.identity, [])
            also += [row] if row not in also else []
        return found

    def graph(self) -> Graph:
        """All steps; each knows everything that it is the answer of."""
        names = _told_apart(self._graph)
        return Graph(
            replace(step, name=names[step.identity], called=step.name, about={**step.about, **self._answers(step)})
            for step in self._graph
        )

    def _answers(self, step: Step) -> dict[str, Any]:
        """Results of what scores, and further pairs where two versions are the same model."""
        found = {"results": self._results.get(step.identity), "also": self._also.get(step.identity)}
        return {name: rows for name, rows in found.items() if rows is not None}

    def named(self, name: str, seed: int | None, family: int | None) -> str:
        """A step's name, with its seed and family where there are several."""
        name += f", seed {seed}" if seed is not None and len(self.study.seeds) > 1 else ""
        return name + (f", family {family}" if family is not None and len(self.study.families) > 1 else "")

    def model(self, spec: str, family: int | None) -> Thing:
        """A model by the file's name for it."""
        return self._lab(spec, family) if spec.startswith(LAB) else self._inputs.model(spec)

    def data(self, spec: str, family: int | None, *, questions: bool = False) -> Thing:
        """Data or a task by the file's name for it."""
        return self._lab(spec, family) if spec.startswith(LAB) else self._inputs.data(spec, questions)

    def numbered(
        self, role: str, specs: Iterable[str], family: int | None, *, questions: bool = True
    ) -> dict[str, Thing]:
        """Files or data sets, in their order, under numbered roles; ``questions``: to ask them, not to train on."""
        named = ((f"{role}.{place}", spec) for place, spec in enumerate(specs))
        return {name: self.data(spec, family, questions=questions) for name, spec in named}

    def template(self, spec: object, family: int | None) -> dict[str, Thing]:
        """A chat template by the file's name for it, if there is one; a folder is a model that has one."""
        if spec is None:
            return {}
        found = self.data(str(spec), family)
        is_file = isinstance(found, Parent) or found.digest is not None
        return {"chat_template": found if is_file else self._inputs.model(str(spec))}

    def step(
        self, kind: str, name: str, choices: Mapping[str, Any], about: Mapping[str, Any], things: Mapping[str, Thing]
    ) -> Step:
        """Add the step that takes these things, by role: parents, or what is there already."""
        parents = {role: thing for role, thing in things.items() if isinstance(thing, Parent)}
        outside = {role: thing for role, thing in things.items() if isinstance(thing, Outside)}
        chosen = {**choices, **{role: thing.choice for role, thing in outside.items()}}
        return self.add(
            Step(kind, name, chosen, parents, about, {role: thing.place for role, thing in outside.items()})
        )

    def _lab(self, spec: str, family: int | None) -> Parent:
        assert family is not None, "where the lab is asked for, families are counted"
        recipe, part = catalogue.find(spec)
        if (recipe, family) not in self._families:
            choices = catalogue.choices(recipe, self.study.lab, family)
            made = self.add(Step("family", f"family {recipe} {self.study.lab}, seed {family}", choices))
            self._families[recipe, family] = made
        return Parent(self._families[recipe, family], part)

    def base(self, version: str, family: int | None) -> StudyModel:
        """M_i."""
        thing = self.model(self.study.version(version).model, family)
        return StudyModel(version, Model(BASE, None, version), thing, family)

    def ask(self, model: StudyModel, evaluation: Evaluation | None, results: list[dict[str, Any]]) -> None:
        """Score a model; with `loss`, measure its answers' loss too."""
        if evaluation is None:
            return
        if evaluation.tasks or evaluation.suite is not None:
            self.score(model, evaluation.tasks, evaluation.settings, evaluation.suite, results)
        if evaluation.loss:
            self.score(model, evaluation.loss, of_loss(evaluation.settings) | {"loss": True}, None, results)

    def score(
        self,
        model: StudyModel,
        tasks: tuple[str, ...],
        settings: Mapping[str, Any],
        suite: str | None,
        results: list[dict[str, Any]],
    ) -> Step:
        """One evaluation of one model, which answers `results`."""
        chosen, running = apart(settings)
        template = self.template(chosen.pop("chat_template", None), model.family)
        things = {"model": model.thing, **self.numbered("tasks", tasks, model.family), **template}
        if any("start_of" in result for result in results):
            running = {**running, "allow_selection": True}  # a stage before may have read its curve on the same data
        name = self.named(f"evaluate {model.name}", model.seed, model.family)
        name += ", loss" if chosen.get("loss") else ""
        name += ", start of a curve" if any("start_of" in result for result in results) else ""
        choices = {"suite": suite, "settings": chosen, "seed": 0}
        step = self.step("evaluate", name, choices, {"model": model.name, "running": running}, things)
        answered = self._results.setdefault(step.identity, [])
        answered += [result for result in results if result not in answered]
        return step


def _told_apart(graph: Graph) -> dict[str, str]:
    """Every step's name by identity; evaluations of one model with one name get their tasks behind it, or a number."""
    names = {step.identity: step.name for step in graph}
    for of_tasks in (True, False):
        alike: dict[str, list[Step]] = {}
        for step in graph:
            if step.kind == "evaluate":
                alike.setdefault(names[step.identity], []).append(step)
        for steps in alike.values():
            for place, step in enumerate(steps if len(steps) > 1 else ()):
                names[step.identity] += f", {_tasks(step)}" if of_tasks else f" ({place + 1})"
    return names


def _tasks(step: Step) -> str:
    """What an evaluation asks, in short."""
    given = [step.choices[role]["given"] for role in step.choices if role.startswith("tasks.")]
    found = [str(each).rpartition("/")[2] for each in given]
    found += [parent.part for role, parent in step.parents.items() if role.startswith("tasks.")]
    suite = step.choices["suite"]
    return " + ".join([*found, *([str(suite)] if suite is not None else [])])


def of_loss(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of an evaluation's settings the loss of answers depends on: nothing is generated."""
    kept = ("limit", "chat_template", "backend", "device", "dtype", "batch_size")
    return {name: value for name, value in settings.items() if name in kept}


def apart(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What decides an outcome, and how a step goes about its work, which does not: that may be changed between two runs."""
    return (
        {name: value for name, value in settings.items() if name not in _RUNNING},
        {name: value for name, value in settings.items() if name in _RUNNING},
    )
