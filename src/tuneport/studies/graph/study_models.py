"""The models of a study by their names in the paper: FT(M_i), M_i + Δ_j, and the measurements between them.

Each model has the step that makes it (`steps.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tuneport.adaptation.adapt_options import RUNGS
from tuneport.results.schema import ADAPTED, DIRECT, DIRECT_START, FURTHER, THEN_TUNED, TRANSFER, TUNED, Model
from tuneport.studies.declared import Evaluation, Pair, Study, Tuning
from tuneport.studies.graph.graph import Parent
from tuneport.studies.graph.steps import Builder, StudyModel, apart
from tuneport.tuning.recipes import parse_lora, recipe_of

CARRIED_LOSS = "bfloat16"  # what carrying Δ in it would have lost is measured (section 6 says nothing of dtypes)


@dataclass(frozen=True)
class PaperModels:
    """One family and one seed of the fine-tuning: the models of the paper by name."""

    builder: Builder
    family: int | None
    seed: int

    @property
    def study(self) -> Study:
        """The study that all of it is of."""
        return self.builder.study

    @property
    def totals(self) -> list[tuple[str, str, int]]:
        """What was fine-tuned from a transferred start: version, tuning, all steps that went into it."""
        return self.builder.totals[self.family, self.seed]

    @property
    def rates(self) -> tuple[float, ...]:
        """The parts of the learning rate at which a transferred start is fine-tuned further."""
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

    def name(self, what: Model) -> str:
        """What a model is called."""
        return what.name(len(self.study.tuning_names) > 1)

    def base(self, version: str) -> StudyModel:
        """M_i, of this family."""
        return self.builder.base(version, self.family)

    def tuned(self, version: str, tuning: str) -> StudyModel | None:
        """FT(M): what is there already, or what [tune] makes of M; None where there is neither."""
        found, what = self.study.version(version), Model(TUNED, None, version, tuning)
        if tuning in found.tuned:
            thing = self.builder.model(found.tuned[tuning], self.family)
            return StudyModel(self.name(what), what, thing, self.family, None, None, None)
        if found.target_only or self.study.tuning(tuning) is None:
            return None
        return self.fine_tune_base(what)

    def can_be_tuned_longer(self, version: str, tuning: str) -> bool:
        """Whether FT(M) can be made for another number of steps in all: by us, from the version or a stage of known steps."""
        found, declared = self.study.version(version), self.study.tuning(tuning)
        if found.target_only or tuning in found.tuned or declared is None:
            return False
        earlier = None if declared.after is None else self.tuned(version, declared.after)
        return earlier is None or earlier.steps_total is not None

    def fine_tune_base(self, what: Model) -> StudyModel:
        """FT(M), for another number of steps in all where it says so."""
        declared, start, steps = self.study.tuning(str(what.tuning)), self.base(what.target), what.steps
        if declared is not None and declared.after is not None:
            earlier = self.tuned(what.target, declared.after)
            assert earlier is not None, "the file was checked"
            start = earlier
            if steps is not None:
                assert earlier.steps_total is not None, "see can_be_tuned_longer"
                steps -= earlier.steps_total
        return self.fine_tune(start, what, steps)

    def fine_tune(self, start: StudyModel, what: Model, steps: int | None = None) -> StudyModel:
        """FT(start), with the paper's schedule from its beginning, at a part of the learning rate where it says so."""
        tuning, name = str(what.tuning), self.name(what)
        declared = self.study.tuning(tuning)
        assert declared is not None
        settings = dict(declared.settings)
        if steps is not None:
            settings["steps"] = steps
            settings.pop("epochs", None)
        recipe = recipe_of(declared.recipe, **settings, seed=self.seed)
        if what.rate != 1:
            recipe = replace(recipe, learning_rate=recipe.learning_rate * what.rate)
        validation = self._validation(tuning) if declared.eval_every is not None else None
        read_on = () if validation is None else validation.validation
        made = self.builder.step(
            "tune",
            self._named(f"tune {name}", self.seed),
            {
                "recipe": recipe.record(),
                "mix": list(declared.mix),
                "end_token": declared.end_token,
                "lora": None if declared.lora is None else parse_lora(declared.lora).text,
                "dtype": self._carried,
                "eval_every": declared.eval_every,
                "running": _running(declared, validation),
            },
            {"model": name, "before": start.steps_total, "running": apart(declared.running)[1]},
            {
                "start": start.thing,
                **self.builder.numbered("data", declared.data, self.family, questions=False),
                **self.builder.template(declared.chat_template, self.family),
                **self.builder.numbered("validation", read_on, self.family),
            },
        )
        if validation is not None:
            settings = _curve_settings(declared, validation) | _start_settings(declared, validation)
            self.builder.score(start, validation.validation, settings, None, [{"start_of": made.identity}])
        total, here = (
            None if before is None or recipe.steps is None else before + recipe.steps
            for before in (start.steps_total, start.steps_on_target)
        )
        adapts = None if declared.lora is None else start.thing
        return StudyModel(name, what, Parent(made), self.family, self.seed, total, here, adapts)

    def transfer(self, source: str, target: str, tuning: str, scale: float = 1.0) -> StudyModel:
        """M_target + α·Δ_source."""
        return self.plus_delta(self.tuned(source, tuning), Model(TRANSFER, source, target, tuning, scale))

    def plus_delta(self, tuned: StudyModel | None, what: Model) -> StudyModel:
        """M_target + α·(tuned − M_source)."""
        assert tuned is not None, "the file was checked"
        name, base, target = self.name(what), self.base(str(what.source)), self.base(what.target)
        things = {"base": base.thing, "tuned": tuned.thing, "target": target.thing}
        choices = {"scale": what.scale, "dtype": self._carried, "settings": dict(self.study.transferring)}
        about = {"model": name, "before": tuned.steps_total}
        made = self.builder.step("transfer", self._named(f"transfer {name}", tuned.seed), choices, about, things)
        return StudyModel(name, what, Parent(made), self.family, tuned.seed, tuned.steps_total)

    def adapt(self, source: str, target: str, tuning: str) -> StudyModel:
        """What the ladder makes of M_target + Δ_source."""
        adapting = self.study.adapting(tuning)
        assert adapting is not None, "the file was checked"
        return self.climb(self.tuned(source, tuning), Model(ADAPTED, source, target, tuning), adapting.rungs)

    def heal(self, tuned: StudyModel, what: Model, last: str) -> StudyModel:
        """What the ladder makes of M_target + (tuned − M_source), as far as ``last``: what Algorithm 1 fine-tunes."""
        adapting = self.study.adapting(str(what.tuning))
        assert adapting is not None, "the file was checked"
        as_far = RUNGS[: RUNGS.index(last) + 1]
        return self.climb(tuned, what, tuple(rung for rung in as_far if rung in (*adapting.rungs, last)))

    def climb(self, tuned: StudyModel | None, what: Model, rungs: tuple[str, ...]) -> StudyModel:
        """The step of `adapt`: it makes the transfer itself, as its first rung, beside the study's own."""
        adapting = self.study.adapting(str(what.tuning))
        assert tuned is not None and adapting is not None, "the file was checked"
        name, base, target = self.name(what), self.base(str(what.source)), self.base(what.target)
        things = {"base": base.thing, "tuned": tuned.thing, "target": target.thing}
        for role, specs in adapting.data.items():
            things |= self.builder.numbered(role, specs, self.family, questions=False)
        settings = dict(adapting.settings)
        things |= self.builder.template(settings.pop("chat_template", None), self.family)
        choices = {
            "rungs": list(rungs),
            "fitting": dict(adapting.fitting),
            "dtype": self._carried,
            "settings": {**settings, **self.study.transferring},
        }
        about = {"model": name, "before": tuned.steps_total, "running": dict(adapting.running)}
        made = self.builder.step("adapt", self._named(f"adapt {name}", tuned.seed), choices, about, things)
        tunes = RUNGS[-1] in rungs  # on examples; whether that is kept shows only in the end
        total, here = (None, None) if tunes else (tuned.steps_total, 0)
        return StudyModel(name, what, Parent(made), self.family, tuned.seed, total, here)

    def transfer_then_tune(self, source: str, target: str, tuning: str, rate: float = 1.0) -> StudyModel:
        """FT(M_target + Δ_source)."""
        start = self.transfer(source, target, tuning)
        return self.fine_tune(start, replace(start.what, kind=THEN_TUNED, rate=rate))

    def recycle_directly(self, before: str, version: str, tuning: str, steps_total: int | None = None) -> StudyModel:
        """FT(M_i + Δ^dir), where Δ^dir = FT(M_{i−1}) − M_{i−1}; until `steps_total` went into it in all, if given."""
        start = self.plus_delta(self.tuned(before, tuning), Model(DIRECT_START, before, version, tuning))
        what = replace(start.what, kind=DIRECT, steps=steps_total)
        if steps_total is None:
            return self.fine_tune(start, what)
        assert start.steps_total is not None, "steps can be counted"
        return self.fine_tune(start, what, steps_total - start.steps_total)

    def evaluate(self, model: StudyModel) -> None:
        """Score a model on what its tuning is asked."""
        what = model.what
        if what.kind in FURTHER and model.steps_total is not None:
            self.totals.append((what.target, str(what.tuning), model.steps_total))
        self.builder.ask(self._whole(model), self.study.evaluation(str(what.tuning)), [result_row(model)])

    def _whole(self, model: StudyModel) -> StudyModel:
        """The model itself; of an adapter, what it makes of its start: its folder names a start that lies elsewhere here."""
        if model.adapts is None:
            return model
        things = {"base": model.adapts, "tuned": model.thing, "target": model.adapts}
        choices: dict[str, Any] = {"scale": 1.0, "dtype": self._carried, "settings": {}}
        about = {"model": model.name, "before": model.steps_total}
        made = self.builder.step("transfer", self._named(f"merge {model.name}", model.seed), choices, about, things)
        return replace(model, thing=Parent(made))

    def rounding(self, base: str, tuned: StudyModel) -> None:
        """What carrying Δ through bfloat16 would have lost."""
        things = {"base": self.base(base).thing, "tuned": tuned.thing}
        about = {"rounding": {"tuned": tuned.name, **self._which(tuned.seed)}}
        name = self._named(f"rounding {tuned.name} − {base}", tuned.seed)
        self.builder.step("rounding", name, {"dtype": CARRIED_LOSS}, about, things)

    def path(
        self,
        a: StudyModel,
        b: StudyModel,
        data: tuple[str, ...],
        which: str,
        pair: Pair,
        tuning: str | None,
        beyond: float | None = None,
    ) -> None:
        """Loss on the line from `a` to `b`."""
        lines = self.study.lines
        settings, running = apart(lines.settings)
        template = self.builder.template(settings.pop("chat_template", None), self.family)
        things = {"a": a.thing, "b": b.thing, **self.builder.numbered("data", data, self.family), **template}
        seed = a.seed if a.seed is not None else b.seed
        choices = {"points": lines.points, "threshold": lines.threshold, "beyond": beyond, "settings": settings}
        told = {"a": a.name, "b": b.name, "which": which, "source": pair[0], "target": pair[1], "tuning": tuning}
        about = {"path": told | self._which(seed), "running": running}
        self.builder.step("path", self._named(f"path {a.name} – {b.name}", seed), choices, about, things)

    def distance(self, a: str, b: str, tuning: str | None) -> None:
        """Distance of two versions, and norms and cosine of the diff vectors that they have of this tuning."""
        things, seed = {"a": self.base(a).thing, "b": self.base(b).thing}, None
        for role, version in (("a_tuned", a), ("b_tuned", b)) if tuning is not None else ():
            tuned = self.tuned(version, str(tuning))
            if tuned is not None:
                things[role] = tuned.thing
                seed = tuned.seed if tuned.seed is not None else seed
        several = tuning is not None and len(self.study.tuning_names) > 1
        named = f"distance {a} – {b}" + (f", {tuning}" if several else "")
        about = {"distance": {"a": a, "b": b, "tuning": tuning, **self._which(seed)}}
        self.builder.step("distance", self._named(named, seed), {}, about, things)

    def compare(self, source: str, target: str, tuning: str) -> None:
        """The figures, gates and verdict of carrying Δ_source onto M_target."""
        tuned = self.tuned(source, tuning)
        assert tuned is not None, "the file was checked"
        things = {"base": self.base(source).thing, "tuned": tuned.thing, "target": self.base(target).thing}
        about = {"compare": {"source": source, "target": target, "tuning": tuning, **self._which(tuned.seed)}}
        choices = {"dtype": self._carried, "settings": dict(self.study.transferring)}
        name = self.name(Model(TRANSFER, source, target, tuning))
        self.builder.step("compare", self._named(f"compare {name}", tuned.seed), choices, about, things)

    def _validation(self, tuning: str) -> Evaluation:
        evaluation = self.study.evaluation(tuning)
        assert evaluation is not None and evaluation.validation, "the file was checked"
        return evaluation

    def _which(self, seed: int | None) -> dict[str, Any]:
        return {"family": self.family, "seed": seed}

    def _named(self, name: str, seed: int | None) -> str:
        return self.builder.named(name, seed, self.family)


def result_row(model: StudyModel) -> dict[str, Any]:
    """What a scored model is, for results.json."""
    names = ("family", "seed", "steps_total", "steps_on_target")
    return {"name": model.name, **vars(model.what), **{name: getattr(model, name) for name in names}}


def _running(tuning: Tuning, validation: Evaluation | None) -> dict[str, Any]:
    """How a fine-tuning's curve is asked."""
    return {**({} if validation is None else _curve_settings(tuning, validation)), **apart(tuning.running)[0]}


def _curve_settings(tuning: Tuning, validation: Evaluation) -> dict[str, Any]:
    asked = {
        "match": validation.settings.get("match"),
        "max_new_tokens": tuning.running.get("max_new_tokens", validation.settings.get("max_new_tokens")),
    }
    return {name: value for name, value in asked.items() if value is not None}


def _start_settings(tuning: Tuning, validation: Evaluation) -> dict[str, Any]:
    """What a curve's start needs besides: a base has no chat template of its own."""
    template = validation.settings.get("chat_template", tuning.chat_template)
    return {**apart(validation.settings)[1], **({} if template is None else {"chat_template": template})}
