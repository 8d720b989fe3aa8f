"""The probe: the tuned model answers prompts; target and target + Δ are asked the same, and are given its answers.

One model is in memory at a time, in float32. The target is loaded once, asked, overwritten in place from the transfer's plan
(`carried_weights`) and asked again; of the output only its small files are written, to a folder that is removed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tuneport.checkpoint.open_model import fetched, open_checkpoint
from tuneport.checkpoint.reading import readers_by_role
from tuneport.diagnosis.probing.carried_weights import carry
from tuneport.diagnosis.probing.probe_options import ProbeOptions
from tuneport.diagnosis.probing.probe_prompts import GreedyAnswer, Heard, Questions, hear, hear_source, read_questions
from tuneport.diagnosis.probing.probe_record import (
    CARRIED,
    SOURCE,
    TARGET,
    answers_record,
    prompts_record,
    retained_record,
)
from tuneport.engine.choices import Choices
from tuneport.engine.plan import Plan
from tuneport.engine.summands.pair_summand import plan_transfer
from tuneport.errors import recorded
from tuneport.examples.questions import digest_of_task
from tuneport.files.opening import contents
from tuneport.libraries import quietly
from tuneport.options import Place
from tuneport.progress import Progress
from tuneport.scoring.devices import free_memory
from tuneport.scoring.harness import in_words
from tuneport.scoring.models import Loading, Seat, find_models, load, look_over, need_device, need_harness, tokenizer_of
from tuneport.scoring.run import template_text, versions


@dataclass
class Probe:
    """What is asked, and what the tuned model said, once it was asked."""

    given: ProbeOptions
    questions: Questions
    loading: Loading
    base: Place | None
    tuned: Place | None
    workers: int | None
    source: tuple[Heard, tuple[GreedyAnswer | None, ...]] | None = None
    warnings: list[str] = field(default_factory=list)

    def of(self, plan: Plan, onto: Place, progress: Progress) -> dict[str, Any]:
        """The record of one target."""
        warnings: list[str] = []
        with quietly():
            if self.given.probe and self.source is None:
                self.source = self._source(progress)
            heard = self._pair(plan, onto, progress, warnings)
        answers: tuple[GreedyAnswer | None, ...] = ()
        if self.source is not None:
            source, answers = self.source
            heard = {SOURCE: source, **heard}
        tasks = (*self.questions.prompts, *self.questions.texts)
        settings = {"match": self.given.asking.match, "max_new_tokens": self.given.asking.max_new_tokens}
        return {
            "prompts": prompts_record(heard, answers) if self.given.probe else None,
            "answers": answers_record(heard) if self.given.probe else None,
            "retain": retained_record(heard[TARGET], heard[CARRIED]),
            "data": [{"task": task.name, "digest": digest_of_task(task)} for task in tasks],
            "settings": {**settings, "device": self.given.device, "chat_template": self.loading.chat_template},
            "warnings": recorded(dict.fromkeys([*self.warnings, *warnings])),
            "versions": versions(),
        }

    def _source(self, progress: Progress) -> tuple[Heard, tuple[GreedyAnswer | None, ...]]:
        """The tuned model; an adapter's product is added to its base in place, in float32."""
        assert self.base is not None and self.tuned is not None, "prompts are asked of base and tuned"
        tuned, asked = open_checkpoint(self.tuned, "tuned"), replace(self.questions, texts=())
        progress.note = name = f"tuned {tuned.label}"
        with ExitStack() as stack:
            if tuned.adapter is None:
                seat = find_models([os.fspath(self.tuned)])[0]
                self.warnings += look_over(seat, self.loading, asked.everything).warnings
                model = load(seat, self.loading, self.warnings.extend)
            else:
                base, target = open_checkpoint(self.base, "base"), open_checkpoint(self.base, "target")
                plan = plan_transfer(base, tuned, target, Choices(dtype="float32"))
                plan.stop_if_refused()
                folder = stack.enter_context(small_files(plan))
                model = load(find_models([os.fspath(self.base)])[0], self.loading, self.warnings.extend)
                model = self._carried(model, plan, Seat(name, folder), asked, self.warnings)
            with in_words(f"{name} could not be asked"):
                found = hear_source(asked, model, self.given.asking)
        del model
        free_memory()
        progress.add()
        return found

    def _pair(self, plan: Plan, onto: Place, progress: Progress, warnings: list[str]) -> dict[str, Heard]:
        """Target and target + Δ; a target without a chat template is asked through that of target + Δ."""
        answers = () if self.source is None else self.source[1]
        progress.note = label = f"target {plan.inputs[-1].label}"
        with small_files(plan) as folder:
            carried = Seat(f"{label} + Δ", folder)
            model = load(find_models([os.fspath(onto)])[0], self.loading, warnings.extend)
            if not model.tokenizer.chat_template:
                model.tokenizer.chat_template = tokenizer_of(carried).chat_template
            with in_words(f"{label} could not be asked"):
                heard = {TARGET: hear(self.questions, model, self.given.asking, answers)}
            progress.add()
            progress.note = carried.name
            model = self._carried(model, plan, carried, self.questions, warnings)
            with in_words(f"{carried.name} could not be asked"):
                heard[CARRIED] = hear(self.questions, model, self.given.asking, answers)
        del model
        free_memory()
        progress.add()
        return heard

    def _carried(self, model: Any, plan: Plan, seat: Seat, asked: Questions, warnings: list[str]) -> Any:
        """A loaded target as target + Δ: its weights in place, with the small files of the output, which lie in the seat's folder."""
        plan = replace(plan, inputs=tuple(fetched(checkpoint) for checkpoint in plan.inputs))
        warnings += look_over(seat, self.loading, asked.everything).warnings
        with readers_by_role(plan.inputs) as readers:
            carry(model.model, f"target {plan.inputs[-1].label}", plan, readers, self.workers)
            for reader in readers.values():
                reader.check_unchanged()
        return load(seat, self.loading, warnings.extend, weights=model.model)


@contextmanager
def small_files(plan: Plan) -> Iterator[str]:
    """A folder, while the block runs, with config, tokenizer and template of the output; code of others stays where it is."""
    with TemporaryDirectory(prefix="tuneport-") as folder:
        for name, content in plan.files.items():
            if not name.endswith(".py"):
                place = Path(folder) / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(contents(content))
        yield folder


def prepared(given: ProbeOptions, base: Place | None, tuned: Place | None, workers: int | None) -> Probe:
    """What is to be asked, with every fault that can be told before weights are read. Raises `TuneportError`."""
    need_harness("hf")
    loading = Loading("hf", given.device, "float32", given.batch_size, template_text(given.chat_template))
    need_device(loading)
    questions = read_questions(given)
    told = [warning for task in (*questions.prompts, *questions.texts) for warning in (*task.warnings, *task.notes)]
    return Probe(given, questions, loading, base, tuned, workers, warnings=told)
