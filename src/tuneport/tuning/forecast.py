"""What a fine-tuning would take before it begins: steps, tokens, memory, and about how long on this machine.

Time comes from the tokens of the data and two short timings of the device. Estimates for choosing, not promises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.errors import spoken
from tuneport.examples.questions import Example
from tuneport.scoring.devices import best_device, bytes_per_second, operations_per_second
from tuneport.scoring.evaluate_options import BATCH_SIZE, USUAL_ANSWER
from tuneport.tuning.distillation.record_answers import bytes_of_a_place
from tuneport.tuning.memory import memory_per_device
from tuneport.tuning.prepare import TEXT_PART, Prepared, identity, transferred_start
from tuneport.tuning.recipes import DistilRecipe, GrpoRecipe, TuningRun

_LAYER_SECONDS = 4e-4  # the least that a layer takes for the next token, whatever its size: calls, not arithmetic


def forecast(prepared: Prepared, running: TuningRun, devices: Sequence[int] = (1, 2, 4, 8)) -> dict[str, Any]:
    """What a run would do: steps, tokens, memory on each device, and what a transferred start changes."""
    recipe, counts = prepared.recipe, prepared.encoded.counts
    computed = 4 if recipe.precision == "float32" else 2
    return {
        "model": identity(prepared.start),
        "parameters": prepared.start.parameters,
        "recipe": prepared.recipe.record(),
        "examples": counts.record(),
        "max_length": prepared.length,
        "chat": prepared.chat.record(),
        "steps": prepared.steps,
        "epochs": round(prepared.epochs, 3),
        "tokens": prepared.tokens,
        "seconds": _likely_seconds(prepared, running),
        "device": best_device(),
        "memory_per_device": {
            str(count): memory_per_device(
                prepared.start,
                recipe,
                prepared.lora,
                _longest(prepared),
                count,
                computed,
                whole_logits=bool(prepared.taught) or prepared.teaching is not None,
            ).record()
            for count in devices
        },
        "teacher": _teacher(prepared),
        "part": TEXT_PART if prepared.text_only else None,
        "start": transferred_start(prepared),
        "warnings": [*spoken(prepared.warnings), *prepared.notes],
    }


def _longest(prepared: Prepared) -> int:
    """Tokens of the longest sequence; an answer that is made is as long as it may be."""
    recipe = prepared.recipe
    made = recipe.max_completion_length if isinstance(recipe, GrpoRecipe | DistilRecipe) else 0
    if isinstance(recipe, DistilRecipe) and recipe.retain:
        return prepared.length  # texts may be that long
    return min(prepared.length, prepared.encoded.counts.longest + made)


def _teacher(prepared: Prepared) -> dict[str, Any] | None:
    """The teacher, which answers alone on one device before the model is loaded: bytes of its weights there, and of its
    answers on disk at most.
    """
    if prepared.teaching is None:
        return None
    teaching, loaded = prepared.teaching, prepared.teaching.checkpoint
    if loaded is None:
        return {"name": teaching.name, "recorded": True, "memory": None, "disk": 0}
    text = loaded.config.get("text_config", loaded.config)
    return {
        "name": teaching.name,
        "recorded": False,
        "memory": loaded.parameters * 4 if best_device() == "cpu" else loaded.nbytes,
        "disk": teaching.prompts * (teaching.longest + 1) * bytes_of_a_place(int(text.get("vocab_size") or 0)),
    }


def forecast_in_words(told: dict[str, Any]) -> str:
    """A forecast for a person."""
    memory = "; ".join(f"{count} × {_size(bytes_['total'])}" for count, bytes_ in told["memory_per_device"].items())
    counts = told["examples"]
    lines = [
        f"model            {told['model']['name']}, {told['parameters']:,} parameters",
        f"examples         {counts['examples']:,} with {counts['tokens']:,} tokens, "
        + (f"{counts['answer_tokens']:,} of them in answers" if counts["answer_tokens"] else "without answers"),
        f"sequence length  {told['max_length']} (longest example {counts['longest']})",
        f"steps            {told['steps']:,} = {told['epochs']:g} epochs, about {told['tokens']:,} tokens",
        f"ends answers     {told['chat']['end_token']!r}, template: {told['chat']['template'] or 'none'}",
        f"memory (about)   {memory} (number of devices × memory of each, shared out by FSDP 2)",
    ]
    if (teacher := told["teacher"]) is not None:
        lines.insert(
            1, f"teacher          {teacher['name']}" + (", its recorded answers" if teacher["recorded"] else "")
        )
        if not teacher["recorded"]:
            lines.append(
                f"                 before it the teacher alone: {_size(teacher['memory'])} on one device; its answers take up "
                f"to {_size(teacher['disk'])} of disk"
            )
    training, scoring = told["seconds"]["training"], told["seconds"]["scoring"]
    lines.append(f"time (about)     {_range(training)} on one {told['device']} of this machine")
    if told["seconds"]["answering"]:
        lines.append(f"                 and {_range(told['seconds']['answering'])} for the teacher's answers, at most")
    if scoring is None:
        lines.append("                 without scoring the harness's tasks during training")
    elif scoring:
        lines.append(f"                 and {_range(scoring)} for scoring during training, at most")
    if told["part"] is not None:
        lines.append(f"trains           only its {told['part']} part; all else (towers, projectors) stays unchanged")
    if told["chat"]["new_tokens"]:
        lines.append(f"new tokens       {', '.join(told['chat']['new_tokens'])}")
    if told["start"] is not None:
        lines.append(f"start            {told['start']['words']}")
    return "\n".join(lines)


def _range(seconds: float) -> str:
    low, high = (_duration(seconds * times) for times in (1, 3))
    return low if low == high else f"{low} to {high}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{max(1, math.ceil(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.1f} MiB"


def _likely_seconds(prepared: Prepared, running: TuningRun) -> dict[str, Any]:
    """Seconds of ``training`` and of ``scoring`` on the way, on one of this machine's devices; None where not known.

    Answers count as generated: token by token, with all weights read for each token of a batch. Answers of full length are
    assumed, so that what generates takes this long at most.
    """
    recipe, start = prepared.recipe, prepared.start
    fast = recipe.precision != "float32" and best_device() == "cuda"
    rate, memory = operations_per_second(bfloat16=fast), bytes_per_second()
    seen: float = prepared.tokens
    decoding = 0.0
    if isinstance(recipe, GrpoRecipe | DistilRecipe):
        seen += prepared.steps * recipe.examples_per_step * recipe.max_completion_length
    if isinstance(recipe, GrpoRecipe):
        decoding = prepared.steps * recipe.max_completion_length * _seconds_of_token(start, memory)
    training = recipe.operations * start.parameters * seen / rate + decoding
    scoring = _scoring(prepared, running, rate, memory)
    return {"answering": _answering(prepared, rate, memory), "training": training, "scoring": scoring}


def _answering(prepared: Prepared, rate: float, memory: float) -> float:
    """Seconds of a teacher's answers: prompts read, answers of full length generated, and both read once more."""
    if prepared.teaching is None or prepared.teaching.checkpoint is None:
        return 0.0
    teacher, teaching, counts = prepared.teaching.checkpoint, prepared.teaching, prepared.encoded.counts
    tokens = 2 * counts.tokens + 3 * teaching.prompts * teaching.longest
    together = math.ceil(teaching.prompts / BATCH_SIZE)
    return 2 * teacher.parameters * tokens / rate + together * teaching.longest * _seconds_of_token(teacher, memory)


def _scoring(prepared: Prepared, running: TuningRun, rate: float, memory: float) -> float | None:
    """Seconds of all points of the curve; None where it asks tasks of the harness, which are not read before."""
    if running.eval_every is None:
        return 0.0
    if prepared.selection.names:
        return None
    points = math.ceil(prepared.steps / running.eval_every)
    new = min(running.max_new_tokens or USUAL_ANSWER, prepared.length)
    asked = [example for task in prepared.selection.own for example in task.examples]
    read = tokens_of_prompt(prepared.tokenizer, asked)
    return points * asking_seconds(
        prepared.start, len(asked), read, new, running.eval_batch_size, rate=rate, memory=memory
    )


def tokens_of_prompt(tokenizer: Any, asked: Sequence[Example]) -> float:
    """Tokens of a prompt, about: the mean of some of them."""
    few = asked[:: max(1, len(asked) // 64)]
    return fmean(len(tokenizer(str(example.messages or example.prompt)).input_ids) for example in few)


def asking_seconds(
    model: Checkpoint, asked: int, read: float, new: int, batch: int, *, rate: float, memory: float
) -> float:
    """Seconds in which a model answers so many prompts of ``read`` tokens with ``new`` tokens each, ``batch`` at a time.

    ``rate`` are operations a second, ``memory`` bytes that are read a second.
    """
    forward = 2 * model.parameters * asked * (read + new) / rate
    return forward + math.ceil(asked / batch) * new * _seconds_of_token(model, memory)


def _seconds_of_token(start: Checkpoint, memory: float) -> float:
    """For the next token of a batch: all weights are read, and each layer is called."""
    text = start.config.get("text_config", start.config)
    layers = int(text.get("num_hidden_layers") or text.get("n_layer") or 1)
    return max(start.parameters * 4 / memory, layers * _LAYER_SECONDS)
