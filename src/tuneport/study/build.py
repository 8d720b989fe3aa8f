"""A study's file becomes a graph of steps, in the words of the paper: sections 4, 5 and 6, and Algorithm 1.

In comes a `Study`, out comes a `Graph` in which every model that is made is evaluated. What a step takes is a role: a parent
(`Step.parents`) or a thing from outside, whose spelling and digest stand in `Step.choices` and whose place in `Step.inputs`,
under the same role. The kinds, their roles and their choices:

| kind | roles | choices |
| --- | --- | --- |
| `family` | – | `recipe`, `size`, `seed`, `literal` (what the size stands for) |
| `tune` | `start`, `data.0` …, `validation.0` …, `chat_template` | `recipe` (all of it, with its seed), `data`, `mix`, `end_token`, `lora`, `dtype` (None: the start's), `eval_every`, `running` |
| `transfer` | `base`, `tuned`, `target` | `scale`, `dtype` (None: the target's), `settings` (further choices of `transfer`) |
| `evaluate` | `model`, `tasks.0` …, `chat_template` | `suite`, `settings` (arguments of `evaluate`), `seed` |
| `path` | `a`, `b`, `data.0` …, `chat_template` | `points`, `threshold`, `beyond` (None: from a to b), `settings` |
| `distance` | `a`, `b`, and `a_tuned`, `b_tuned` | – |
| `precision` | `base`, `tuned` | `dtype` |

A thing from outside stands in `choices` as `{"given", "digest"}`; the numbered roles are in the order of the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tuneport.lab import catalogue
from tuneport.study.declared import Evaluation, Pair, Study, Tuning
from tuneport.study.graph import Graph, Parent, Step
from tuneport.study.inputs import LAB, Inputs, Outside
from tuneport.tune.recipes import parse_lora, recipe_of

CARRIED_LOSS = "bfloat16"  # what carrying Δ in it would have lost is measured (section 6 says nothing of dtypes)
BEYOND = 1.5  # how far along target + α·Δ the loss is followed

Thing = Parent | Outside


@dataclass(frozen=True)
class Model:
    """A model of the study: its name in the paper's words, where it comes from, and what went into it."""

    name: str
    version: str
    thing: Thing
    family: int | None
    seed: int | None = None
    steps_total: int | None = 0  # None: fine-tuned by others, who knows how long


def build(study: Study, inputs: Inputs) -> Graph:
    """The graph of everything that the file asks for."""
    builder = _Builder(study, inputs)
    for family in study.families:
        _bases(builder, family)
        for seed in study.seeds:
            run = _Run(builder, family, seed)
            _fine_tunings(run)
            _transfers(run)
            _transfers_then_tunings(run)
            _recyclings(run)
            _same_totals(run)
            _paths(run)
            _distances(run)
    return builder.graph()


# What is asked for, line by line of [do]


def _bases(builder: _Builder, family: int | None) -> None:
    """M_i, as pretraining left it."""
    for version in builder.study.versions:
        base = builder.base(version.name, family)
        for evaluation in builder.study.evaluations.values():
            builder.ask(base, evaluation, [_result("base", None, base, "")])


def _fine_tunings(run: _Run) -> None:
    """FT(M_i), for every version that has or can have one."""
    for version in run.study.versions:
        for tuning in run.study.tuning_names:
            tuned = run.tuned(version.name, tuning)
            if tuned is not None:
                run.evaluate(tuned, "tuned", None, tuning)


def _transfers(run: _Run) -> None:
    """M_i + Δ_j (sections 2 to 4), and M_i + α·Δ_j."""
    for source, target in run.study.doing.transfer:
        for tuning in run.tunings_of(source):
            for scale in run.study.doing.scales:
                moved = run.transfer(source, target, tuning, scale)
                run.evaluate(moved, "transfer", source, tuning, **({} if scale == 1 else {"scale": scale}))


def _transfers_then_tunings(run: _Run) -> None:
    """FT(M_i + Δ_j) (section 5), and the same at a reduced rate, told apart."""
    for source, target in run.study.doing.transfer_then_tune:
        for tuning in run.trainable_of(source):
            for rate in run.rates:
                tuned = run.transfer_then_tune(source, target, tuning, rate)
                run.evaluate(tuned, "transfer-then-tune", source, tuning, **({} if rate == 1 else {"rate": rate}))


def _recyclings(run: _Run) -> None:
    """Algorithm 1 along each chain, iteratively, and directly from FT(M_{i−1})."""
    for chain in chains(run.study.doing.recycle):
        for tuning in run.trainable_of(chain[0]):
            for before, version, iterative in algorithm_1(run, chain, tuning):
                run.evaluate(iterative, "recycle-iterative", before, tuning)
                run.evaluate(run.recycle_directly(before, version, tuning), "recycle-direct", before, tuning)


def algorithm_1(run: _Run, chain: tuple[str, ...], tuning: str) -> Iterator[tuple[str, str, Model]]:
    """M*_2 … M*_n of Algorithm 1, each with the version before and its own; M*_1 is FT(M_1)."""
    starred = run.tuned(chain[0], tuning)  # line 4
    assert starred is not None, "the file was checked"
    for before, version in itertools.pairwise(chain):  # line 5
        carried = run.plus_delta(before, starred, version, f"{version} + {run.delta(before, tuning, 'iter')}")  # line 6
        run.evaluate(carried, "recycle-iterative", before, tuning, step=0)
        run.precision(before, starred, tuning)
        starred = run.fine_tune(carried, tuning, f"{carried.name} → FT")  # line 7
        yield before, version, starred


def _same_totals(run: _Run) -> None:
    """FT(M_i) for as many steps as went into each model that was fine-tuned from a transferred start, in all."""
    if not run.study.doing.same_total:
        return
    for target, tuning, steps in list(run.totals):
        if not run.study.version(target).target_only and tuning not in run.study.version(target).tuned:
            longer = run.fine_tune_base(target, tuning, steps)
            run.evaluate(longer, "tuned", None, tuning)


def _paths(run: _Run) -> None:
    """Loss on the straight line between two versions, their tuned models, and a transferred and a tuned one."""
    lines = run.study.lines
    for source, target in run.study.doing.paths:
        if lines.text:
            a, b = _in_order(run.study, source, target)
            run.path(run.base(a), run.base(b), lines.text, "bases", (a, b), None)
        for tuning in run.tunings_of(source) if lines.data else ():
            one, other = (run.tuned(name, tuning) for name in _in_order(run.study, source, target))
            if one is not None and other is not None:
                run.path(one, other, lines.data, "tuned", (one.version, other.version), tuning)
            moved = run.transfer(source, target, tuning)
            run.path(run.base(target), moved, lines.data, "along Δ", (source, target), tuning, beyond=BEYOND)
            tuned_target = run.tuned(target, tuning)
            if tuned_target is not None:
                run.path(moved, tuned_target, lines.data, "transferred to tuned", (source, target), tuning)


def _distances(run: _Run) -> None:
    """‖M_i − M_j‖, ‖Δ_i‖ and the cosine of Δ_i and Δ_j."""
    for source, target in run.study.doing.distances:
        a, b = _in_order(run.study, source, target)
        tunings = [name for name in run.study.tuning_names if run.tuned(a, name) and run.tuned(b, name)]
        for tuning in tunings:
            run.distance(a, b, tuning)
        if not tunings:
            run.distance(a, b, None)


def chains(pairs: Iterable[Pair]) -> list[tuple[str, ...]]:
    """Pairs, each of which begins where the one before ended, as chains of versions.

    >>> chains([("M1", "M2"), ("M2", "M3"), ("M4", "M5")])
    [('M1', 'M2', 'M3'), ('M4', 'M5')]
    """
    found: list[tuple[str, ...]] = []
    for source, target in pairs:
        if found and found[-1][-1] == source:
            found[-1] = (*found[-1], target)
        else:
            found.append((source, target))
    return found


# How it is said in steps


@dataclass(frozen=True)
class _Run:
    """One family and one seed of the fine-tuning: the models of the paper by name."""

    builder: _Builder
    family: int | None
    seed: int

    @property
    def study(self) -> Study:
        return self.builder.study

    @property
    def totals(self) -> list[tuple[str, str, int]]:
        """What was fine-tuned from a transferred start: version, tuning, all steps that went into it."""
        return self.builder.totals[self.family, self.seed]

    @property
    def rates(self) -> tuple[float, ...]:
        reduced = self.study.doing.reduced_rate
        return (1.0,) if reduced is None else (1.0, reduced)

    @property
    def _carried(self) -> str | None:
        """With recycling, what is fine-tuned keeps its precision; else everything is stored as its start is."""
        return self.study.doing.carry if self.study.doing.recycle else None

    def tunings_of(self, version: str) -> list[str]:
        """The fine-tunings that a version has or can get."""
        return [name for name in self.study.tuning_names if self.tuned(version, name) is not None]

    def trainable_of(self, version: str) -> list[str]:
        """Those of them that can be done."""
        return [name for name in self.tunings_of(version) if self.study.tuning(name) is not None]

    def delta(self, source: str, tuning: str, which: str = "") -> str:
        return f"Δ{which}({self._of(source, tuning)})"

    def _of(self, model: str, tuning: str) -> str:
        return model if len(self.study.tuning_names) == 1 else f"{model}, {tuning}"

    def base(self, version: str) -> Model:
        return self.builder.base(version, self.family)

    def tuned(self, version: str, tuning: str) -> Model | None:
        """FT(M): what is there already, or what [tune] makes of M; None where there is neither."""
        found = self.study.version(version)
        name = f"FT({self._of(version, tuning)})"
        if tuning in found.tuned:
            thing = self.builder.model(found.tuned[tuning], self.family)
            return Model(name, version, thing, self.family, None, None)
        if found.target_only or self.study.tuning(tuning) is None:
            return None
        return self._tuned(version, tuning, name, None)

    def fine_tune_base(self, version: str, tuning: str, steps: int) -> Model:
        """FT(M) for another number of steps."""
        return self._tuned(version, tuning, f"FT({self._of(version, tuning)}) for {steps} steps", steps)

    def _tuned(self, version: str, tuning: str, name: str, steps: int | None) -> Model:
        declared = self.study.tuning(tuning)
        assert declared is not None
        start = self.base(version)
        if declared.after is not None:
            earlier = self.tuned(version, declared.after)
            assert earlier is not None, "the file was checked"
            start = earlier
            if steps is not None and earlier.steps_total is not None:
                steps -= earlier.steps_total
        return self.fine_tune(start, tuning, name, steps=steps)

    def fine_tune(self, start: Model, tuning: str, name: str, *, steps: int | None = None, rate: float = 1.0) -> Model:
        """FT(start), with the paper's schedule from its beginning; `rate` is a part of the learning rate."""
        declared = self.study.tuning(tuning)
        assert declared is not None
        settings = dict(declared.settings)
        if steps is not None:
            settings["steps"] = steps
            settings.pop("epochs", None)
        recipe = recipe_of(declared.recipe, **settings, seed=self.seed)
        if rate != 1:
            recipe = replace(recipe, learning_rate=recipe.learning_rate * rate)
        validation = self._validation(tuning) if declared.eval_every is not None else None
        taking = _Taking(self.builder, self.family)
        taking.take("start", start.thing)
        taking.data("data", declared.data)
        if declared.chat_template is not None:
            taking.data_as("chat_template", declared.chat_template)
        if validation is not None:
            taking.data("validation", validation.validation)
        made = taking.step(
            "tune",
            self._named(f"tune {name}", self.seed),
            {
                "recipe": recipe.record(),
                "mix": list(declared.mix),
                "end_token": declared.end_token,
                "lora": None if declared.lora is None else parse_lora(declared.lora).record(),
                "dtype": self._carried,
                "eval_every": declared.eval_every,
                "running": _running(declared, validation),
            },
            {"model": name, "before": start.steps_total},
        )
        if validation is not None:
            settings = _curve_settings(declared, validation)
            self.builder.score(start, validation.validation, settings, None, [{"start_of": made.identity}])
        total = None if start.steps_total is None or recipe.steps is None else start.steps_total + recipe.steps
        return Model(name, start.version, Parent(made), self.family, self.seed, total)

    def transfer(self, source: str, target: str, tuning: str, scale: float = 1.0) -> Model:
        """M_target + α·Δ_source."""
        tuned = self.tuned(source, tuning)
        assert tuned is not None, "the file was checked"
        factor = "" if scale == 1 else f"{scale:g}·"
        return self.plus_delta(source, tuned, target, f"{target} + {factor}{self.delta(source, tuning)}", scale)

    def plus_delta(self, source: str, tuned: Model, target: str, name: str, scale: float = 1.0) -> Model:
        """M_target + α·(tuned − M_source)."""
        onto = self.base(target)
        taking = _Taking(self.builder, self.family)
        for role, model in (("base", self.base(source)), ("tuned", tuned), ("target", onto)):
            taking.take(role, model.thing)
        choices = {"scale": scale, "dtype": self._carried, "settings": dict(self.study.transferring)}
        about = {"model": name, "before": tuned.steps_total}
        made = taking.step("transfer", self._named(f"transfer {name}", tuned.seed), choices, about)
        return Model(name, target, Parent(made), self.family, tuned.seed, tuned.steps_total)

    def transfer_then_tune(self, source: str, target: str, tuning: str, rate: float = 1.0) -> Model:
        """FT(M_target + Δ_source)."""
        start = self.transfer(source, target, tuning)
        slower = "" if rate == 1 else f" at {rate:g} of the rate"
        return self.fine_tune(start, tuning, f"{start.name} → FT{slower}", rate=rate)

    def recycle_directly(self, before: str, version: str, tuning: str) -> Model:
        """FT(M_i + Δ^dir), where Δ^dir = FT(M_{i−1}) − M_{i−1}."""
        tuned = self.tuned(before, tuning)
        assert tuned is not None, "the file was checked"
        start = self.plus_delta(before, tuned, version, f"{version} + {self.delta(before, tuning, 'dir')}")
        return self.fine_tune(start, tuning, f"{start.name} → FT")

    def evaluate(self, model: Model, kind: str, source: str | None, tuning: str, **more: Any) -> None:
        """Score a model on what its tuning is asked."""
        trained = kind in ("transfer-then-tune", "recycle-iterative", "recycle-direct") and "step" not in more
        if trained and model.steps_total is not None:
            self.totals.append((model.version, tuning, model.steps_total))
        result = _result(kind, source, model, tuning, **more)
        self.builder.ask(model, self.study.evaluation(tuning), [result])

    def precision(self, base: str, tuned: Model, tuning: str) -> None:
        """What carrying Δ through bfloat16 would have lost."""
        taking = _Taking(self.builder, self.family)
        taking.take("base", self.base(base).thing)
        taking.take("tuned", tuned.thing)
        about = {"precision": {"base": base, "tuned": tuned.name, "tuning": tuning, **self._which(tuned.seed)}}
        taking.step(
            "precision", self._named(f"precision {tuned.name} − {base}", tuned.seed), {"dtype": CARRIED_LOSS}, about
        )

    def path(
        self,
        a: Model,
        b: Model,
        data: tuple[str, ...],
        which: str,
        pair: Pair,
        tuning: str | None,
        beyond: float | None = None,
    ) -> None:
        """Loss on the line from `a` to `b`."""
        lines = self.study.lines
        taking = _Taking(self.builder, self.family)
        taking.take("a", a.thing)
        taking.take("b", b.thing)
        taking.data("data", data)
        settings = dict(lines.settings)
        template = settings.pop("chat_template", None)
        if template is not None:
            taking.data_as("chat_template", str(template))
        seed = a.seed if a.seed is not None else b.seed
        choices = {"points": lines.points, "threshold": lines.threshold, "beyond": beyond, "settings": settings}
        told = {"a": a.name, "b": b.name, "which": which, "source": pair[0], "target": pair[1], "tuning": tuning}
        taking.step("path", self._named(f"path {a.name} – {b.name}", seed), choices, {"path": told | self._which(seed)})

    def distance(self, a: str, b: str, tuning: str | None) -> None:
        """Distances of two versions, and of their diff vectors."""
        taking = _Taking(self.builder, self.family)
        taking.take("a", self.base(a).thing)
        taking.take("b", self.base(b).thing)
        seed = None
        for role, version in (("a_tuned", a), ("b_tuned", b)) if tuning is not None else ():
            tuned = self.tuned(version, str(tuning))
            assert tuned is not None
            taking.take(role, tuned.thing)
            seed = tuned.seed if tuned.seed is not None else seed
        named = f"distance {a} – {b}" if len(self.study.tuning_names) < 2 else f"distance {a} – {b}, {tuning}"
        about = {"distance": {"a": a, "b": b, "tuning": tuning, **self._which(seed)}}
        taking.step("distance", self._named(named, seed), {}, about)

    def _validation(self, tuning: str) -> Evaluation:
        evaluation = self.study.evaluation(tuning)
        assert evaluation is not None and evaluation.validation, "the file was checked"
        return evaluation

    def _which(self, seed: int | None) -> dict[str, Any]:
        return {"family": self.family, "seed": seed}

    def _named(self, name: str, seed: int | None) -> str:
        return self.builder.named(name, seed, self.family)


class _Builder:
    """The steps so far, and of which results each evaluation is the answer."""

    def __init__(self, study: Study, inputs: Inputs) -> None:
        self.study = study
        self._inputs = inputs
        self._graph = Graph()
        self._results: dict[str, list[Mapping[str, Any]]] = {}
        self.totals: dict[tuple[int | None, int], list[tuple[str, str, int]]] = {
            (family, seed): [] for family in study.families for seed in study.seeds
        }

    def add(self, step: Step) -> Step:
        return self._graph.add(step)

    def graph(self) -> Graph:
        """All steps; those that score know which results they are the answer of."""
        return Graph(
            replace(step, about={**step.about, "results": self._results[step.identity]})
            if step.identity in self._results
            else step
            for step in self._graph
        )

    def named(self, name: str, seed: int | None, family: int | None) -> str:
        name += f", seed {seed}" if seed is not None and len(self.study.seeds) > 1 else ""
        return name + (f", family {family}" if family is not None and len(self.study.families) > 1 else "")

    def model(self, spec: str, family: int | None) -> Thing:
        """A model by the file's name for it."""
        return self._lab(spec, family) if spec.startswith(LAB) else self._inputs.model(spec)

    def data(self, spec: str, family: int | None) -> Thing:
        """Data, a task or a chat template by the file's name for it."""
        return self._lab(spec, family) if spec.startswith(LAB) else self._inputs.data(spec)

    def _lab(self, spec: str, family: int | None) -> Parent:
        assert family is not None, "where the lab is asked for, families are counted"
        recipe, part = catalogue.find(spec)
        choices = catalogue.choices(recipe, self.study.lab, family)
        made = self.add(Step("family", f"family {recipe} {self.study.lab}, seed {family}", choices))
        return Parent(made, part)

    def base(self, version: str, family: int | None) -> Model:
        """M_i."""
        thing = self.model(self.study.version(version).model, family)
        return Model(version, version, thing, family if isinstance(thing, Parent) else None)

    def ask(self, model: Model, evaluation: Evaluation | None, results: list[dict[str, Any]]) -> None:
        """Score a model; with `loss`, measure its answers' loss too."""
        if evaluation is None:
            return
        if evaluation.tasks or evaluation.suite is not None:
            self.score(model, evaluation.tasks, evaluation.settings, evaluation.suite, results)
        if evaluation.loss:
            kept = ("limit", "chat_template", "backend", "device", "dtype", "batch_size")
            settings = {name: value for name, value in evaluation.settings.items() if name in kept}
            self.score(model, evaluation.loss, settings | {"loss": True}, None, results)

    def score(
        self,
        model: Model,
        tasks: tuple[str, ...],
        settings: Mapping[str, Any],
        suite: str | None,
        results: list[dict[str, Any]],
    ) -> Step:
        """One evaluation of one model, which answers `results`."""
        taking = _Taking(self, model.family)
        taking.take("model", model.thing)
        taking.data("tasks", tasks)
        chosen = dict(settings)
        template = chosen.pop("chat_template", None)
        if template is not None:
            taking.data_as("chat_template", str(template))
        name = self.named(f"evaluate {model.name}", model.seed, model.family)
        name += ", loss" if chosen.get("loss") else ""
        name += ", start of a curve" if any("start_of" in result for result in results) else ""
        step = taking.step("evaluate", name, {"suite": suite, "settings": chosen, "seed": 0}, {"model": model.name})
        answered = self._results.setdefault(step.identity, [])
        answered += [result for result in results if result not in answered]
        return step


class _Taking:
    """The things that a step takes, by role: parents, or what is there already."""

    def __init__(self, builder: _Builder, family: int | None) -> None:
        self._builder, self._family = builder, family
        self._parents: dict[str, Parent] = {}
        self._choices: dict[str, Any] = {}
        self._inputs: dict[str, str] = {}

    def take(self, role: str, thing: Thing) -> None:
        if isinstance(thing, Parent):
            self._parents[role] = thing
        else:
            self._choices[role] = thing.choice
            self._inputs[role] = thing.place

    def data(self, role: str, specs: Iterable[str]) -> None:
        for place, spec in enumerate(specs):
            self.data_as(f"{role}.{place}", spec)

    def data_as(self, role: str, spec: str) -> None:
        self.take(role, self._builder.data(spec, self._family))

    def step(self, kind: str, name: str, choices: Mapping[str, Any], about: Mapping[str, Any]) -> Step:
        return self._builder.add(Step(kind, name, {**choices, **self._choices}, self._parents, about, self._inputs))


def _result(kind: str, source: str | None, model: Model, tuning: str, **more: Any) -> dict[str, Any]:
    """What a scored model is, for results.json."""
    return {
        "kind": kind,
        "name": model.name,
        "source": source,
        "target": model.version,
        "tuning": None if kind == "base" else tuning,
        "family": model.family,
        "seed": model.seed,
        "steps_total": model.steps_total,
        **more,
    }


def _running(tuning: Tuning, validation: Evaluation | None) -> dict[str, Any]:
    """How a fine-tuning goes about its work, and how its curve is asked."""
    return {**({} if validation is None else _curve_settings(tuning, validation)), **tuning.running}


def _curve_settings(tuning: Tuning, validation: Evaluation) -> dict[str, Any]:
    asked = tuning.running.get("max_new_tokens", validation.settings.get("max_new_tokens"))
    return {} if asked is None else {"max_new_tokens": asked}


def _in_order(study: Study, one: str, other: str) -> Pair:
    """Two versions in the file's order: what has no direction is done once."""
    names = [version.name for version in study.versions]
    first, second = sorted((one, other), key=names.index)
    return first, second
