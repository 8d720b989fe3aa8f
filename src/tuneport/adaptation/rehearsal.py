"""What `adapt` would do: which rungs, on which prompts, and about how much disk, memory and time they take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tuneport.adaptation.adapt_options import AdaptOptions
from tuneport.adaptation.climb import MOST_FITTED, write_rows
from tuneport.adaptation.layer_scales import BATCH
from tuneport.adaptation.prompt_parts import Parts
from tuneport.adaptation.rungs import distil_rung, tune_rung
from tuneport.adaptation.rungs.layers_rung import STEPS
from tuneport.adaptation.rungs.scale_rung import SCALES
from tuneport.adaptation.rungs.trained import common
from tuneport.diagnosis.probing.prompt_probe import small_files
from tuneport.engine.plan import Plan
from tuneport.errors import spoken
from tuneport.scoring.devices import best_device, bytes_per_second, operations_per_second
from tuneport.scoring.evaluate_options import USUAL_ANSWER
from tuneport.scoring.models import Seat, find_models, tokenizer_of
from tuneport.shown import Found
from tuneport.tuning.forecast import asking_seconds, tokens_of_prompt
from tuneport.tuning.run import rehearse


class PlannedAdaptation(Found):
    """What `adapt` would do, by key as its JSON is."""

    def heading(self) -> str:
        """One line."""
        return f"plan of adapt: {', '.join(self['rungs'])}"

    def in_words(self) -> str:
        """All of it, for a person."""
        parts = self["parts"]
        lines = [
            f"rungs            {', '.join(self['rungs'])}",
            f"prompts          {parts['fit']:,} to fit on, {parts['select']:,} to select, {parts['test']:,} to report",
            f"measure          {self['measure']['select']} (select), {self['measure']['test']} (test)",
            f"disk (about)     {_size(self['disk'])} while it runs, {_size(self['size'])} in the end",
        ]
        asking = self["asking"]
        lines.append(
            f"asking           the same {asking['prompts']:,} prompts of {asking['models']} models; time (at most) "
            f"{_minutes(asking['seconds'])} on one {asking['device']}"
        )
        if self["few"]:
            lines.append(f"only add         {self['few']}")
        for name, told in self["training"].items():
            device = next(iter(told["memory_per_device"].values()))
            lines.append(
                f"{name:<16} {told['steps']:,} steps on {told['examples']['examples']:,} examples; memory (about) "
                f"{_size(device['total'])}, time (about) {_minutes(told['seconds']['training'])} on one {told['device']}"
            )
        return "\n".join(lines + [f"warning: {each}" for each in self["warnings"]])


def planned(given: AdaptOptions, parts: Parts, plan: Plan, measure: Mapping[str, str]) -> PlannedAdaptation:
    """The plan. Nothing is written but a temporary file of prompts."""
    source, target = plan.inputs[1], plan.inputs[-1]
    rungs = [name for name in given.wanted if name == "add" or parts.few is None]
    training: dict[str, Any] = {}
    wanted = [name for name in ("distil", "tune") if name in rungs]
    template = _template(given, plan) if wanted else None
    with TemporaryDirectory(prefix="tuneport-") as place:
        for name in wanted:
            training[name] = dict(_training(name, given, parts, Path(place), template))
    size = sum(tensor.nbytes for tensor in target.tensors.values())
    # Each rung's own checkpoint (distil may have two), the source's where it is an adapter; and of a training the weights
    # and two moments in float32.
    twice = "scale" in rungs and "distil" in rungs
    copies = size * (len(rungs) + twice + (source.adapter is not None))
    states = 0 if given.fitting.lora is not None or not training else 3 * 4 * target.parameters
    return PlannedAdaptation(
        {
            "rungs": rungs,
            "parts": {name: len(getattr(parts, name).examples) for name in ("fit", "select", "test")},
            "measure": dict(measure),
            "few": None if parts.few is None else spoken([parts.few])[0],
            "training": training,
            "asking": _asking(given, parts, plan, rungs),
            "size": size,
            "disk": copies + states,
            "warnings": list(spoken(parts.notes)),
        }
    )


def _asking(given: AdaptOptions, parts: Parts, plan: Plan, rungs: Sequence[str]) -> dict[str, Any]:
    """How long prompts are asked and texts read: of the target, of the source, and of what each rung makes; at most, for answers
    of full length are assumed.
    """
    target, device = plan.inputs[-1], best_device()
    rate, memory = operations_per_second(bfloat16=device == "cuda"), bytes_per_second()
    tokenizer = tokenizer_of(find_models([os.fspath(given.onto)])[0])
    held = [*parts.select.examples, *parts.test.examples]
    read, new = tokens_of_prompt(tokenizer, held), given.asking.max_new_tokens or USUAL_ANSWER
    texts = [example for task in parts.texts for example in task.examples]

    def seconds(asked: int) -> float:
        return asking_seconds(target, asked, read, new, given.eval_batch_size, rate=rate, memory=memory)

    # Where scales are kept, distil has two starts. The source answers once, and is judged where there are answers of the user's.
    twice = "distil" in rungs and bool({"scale", "layers"} & set(rungs))
    models = 1 + len(rungs) + twice + 1 + parts.labelled(parts.select)
    found = models * seconds(len(held))
    if texts:
        counted = sum(len(tokenizer(example.answer).input_ids) for example in texts)
        found += models * 2 * target.parameters * counted / rate
    if "scale" in rungs:
        found += (len(SCALES) + 1) * seconds(min(MOST_FITTED, len(parts.fit.examples)))
    if "layers" in rungs:  # forward and backward
        found += 6 * target.parameters * STEPS * min(BATCH, len(parts.fit.examples)) * (read + new) / rate
    if "distil" in rungs:
        found += 2 * seconds(len(parts.fit.examples))  # answered, and read once more
    return {"models": models, "prompts": len(held), "seconds": found, "device": device}


def _training(name: str, given: AdaptOptions, parts: Parts, place: Path, template: str | None) -> Mapping[str, Any]:
    """The forecast of a rung that trains, with the target in place of the best so far, which has its shape."""
    file = place / f"{name}.jsonl"
    write_rows(file, parts.fit.examples, answered=name == "tune")
    chosen = tune_rung.choices(given, file) if name == "tune" else distil_rung.choices(given, file, given.tuned)
    if template is not None:
        (place / "chat.jinja").write_text(template, encoding="utf-8")
        chosen["chat_template"] = place / "chat.jinja"
    return rehearse(given.onto, out=place / "out", **common(given, len(parts.fit.examples)), **chosen)


def _template(given: AdaptOptions, plan: Plan) -> str | None:
    """The chat template that target + Δ has and the target lacks."""
    if tokenizer_of(find_models([os.fspath(given.onto)])[0]).chat_template:
        return None
    with small_files(plan) as folder:
        found = tokenizer_of(Seat("target + Δ", folder)).chat_template
    return found if isinstance(found, str) else None


def _size(nbytes: float) -> str:
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.1f} MiB"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
