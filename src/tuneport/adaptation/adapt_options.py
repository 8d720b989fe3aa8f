"""The options of `adapt`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from tuneport.engine.choices import Choices, Running
from tuneport.errors import ABSENT, Fault, UsageError, named
from tuneport.options import Bounds, Options, Place, nested, option
from tuneport.scoring.evaluate_options import (
    BATCH_SIZE,
    Asking,
    chat_template_option,
    check_device,
    columns_option,
    data_option,
    device_option,
)
from tuneport.tuning.recipes import Lora, parse_lora

RUNGS = ("add", "scale", "layers", "distil", "tune")
MAPS = ("layers",)  # tried only where they are named: they cost like distil, and win less (docs/adapt.md)
HELD_OUT = 200  # prompts in each of the parts that are held out, where no files are named for them
FEWEST_FITTED = 16
_fitting = partial(option, group="fitting")
_gate = partial(option, group="what is kept")
_FROM_ONE, _RATE = Bounds(least=1), Bounds(above=0, most=1)


def _parse_rungs(value: object) -> tuple[str, ...]:
    """Names of rungs, also several in one text, as the command line has them. Raises ValueError."""
    listed = list(value) if isinstance(value, list | tuple) else [value]
    given = [name for each in listed for name in (each.split(",") if isinstance(each, str) else [each])]
    given = [name.strip() if isinstance(name, str) else name for name in given]
    unknown = [each for each in given if each not in RUNGS]
    if unknown:
        raise ValueError(f"must be {', '.join(RUNGS[:-1])} or {RUNGS[-1]}")
    return tuple(name for name in RUNGS if name in given)


@dataclass(frozen=True)
class Fitting(Options):
    """How the rungs that train go about it. Defaults are measured (docs/adapt.md)."""

    steps: int = _fitting(50, "weight updates of distil", bounds=_FROM_ONE)
    learning_rate: float | None = _fitting(
        None,
        "peak learning rate of distil (default: half of the fine-tuning's, if tune.json says it, else 1e-5)",
        bounds=_RATE,
    )
    batch_size: int = _fitting(32, "examples per update", bounds=_FROM_ONE)
    tune_epochs: float = _fitting(3.0, "passes of tune over the examples", bounds=Bounds(above=0))
    tune_learning_rate: float | None = _fitting(
        None,
        "peak learning rate of tune (default: a quarter of the fine-tuning's, if tune.json says it, else 1.25e-6)",
        bounds=_RATE,
    )
    without_retain: bool = _fitting(False, "let distil drift from the target: measure texts, but do not train on any")
    max_length: int | None = _fitting(
        None, "maximum tokens of an example (default: 2048, or the model's context)", bounds=Bounds(least=2)
    )
    gradient_checkpointing: bool = _fitting(
        False, "recompute activations instead of keeping them (less memory, slower)"
    )
    lora: Lora | None = _fitting(
        None,
        metavar="rank=N,…",
        parse=parse_lora,
        accepts="str | Lora | None",
        help="train an adapter, as for `tune`, and add it to the weights afterwards (less memory)",
    )


@dataclass(frozen=True, kw_only=True)
class AdaptOptions(Options):
    """The options of `adapt`."""

    base: Place = option(metavar="MODEL", positional=True, help="the base model that was fine-tuned")
    tuned: Place = option(
        metavar="MODEL", positional=True, help="the fine-tuned model, or a PEFT adapter of the base; it is the teacher"
    )
    onto: Place = option(metavar="MODEL", positional=True, help="the target: another version of the base")
    out: Place = option(metavar="DIR", positional=True, help="folder to write (created when complete)")
    prompts: tuple[Any, ...] = data_option("FILE", "prompts, without answers: add, scale and distil", ())
    examples: tuple[Any, ...] = data_option("FILE", "prompts with answers: all rungs", ())
    select: tuple[Any, ...] = data_option(
        "FILE", f"prompts that decide which rung is kept (default: {HELD_OUT} of the given ones, held out)", ()
    )
    test: tuple[Any, ...] = data_option(
        "FILE", f"prompts that the reported figures come from (default: {HELD_OUT} of the given ones, held out)", ()
    )
    retain: tuple[Any, ...] = data_option(
        "FILE",
        "texts on which the model is to stay near the target: half of them are trained on, the other half measured "
        "(default: texts that the target itself writes)",
        (),
    )
    columns: Mapping[str, str] | None = columns_option()
    up_to: Literal["add", "scale", "layers", "distil", "tune"] | None = option(
        None,
        metavar="RUNG",
        help="last rung to try: add, scale, layers, distil or tune; layers is tried only where it is named (default: all "
        "others that the data allow)",
    )
    rungs: tuple[str, ...] = option(
        (), metavar="RUNG[,RUNG…]", repeatable=True, separator=",", parse=_parse_rungs, help="try only these rungs"
    )
    fitting: Fitting = nested(Fitting)
    asking: Asking = nested(Asking, "match", "max_new_tokens")
    chat_template: Place | None = chat_template_option("chat template for models that have none")
    device: str | None = device_option()
    eval_batch_size: int = option(BATCH_SIZE, "batch size for asking", group="models", identity=False, bounds=_FROM_ONE)
    keep_harmed: bool = _gate(False, "keep a rung that is better even if it loses much of what the target could do")
    keep_diff: bool = _gate(False, "also store what was added to the target as a diff vector, in DIR/diff")
    choices: Choices = nested(Choices)
    running: Running = nested(Running)

    def __post_init__(self) -> None:
        """Check every value, and which of them go together."""
        super().__post_init__()
        if self.device is not None:
            check_device(self.device)
        if bool(self.prompts) == bool(self.examples):
            told = "are both given" if self.prompts else "is missing"
            remedy = f"Give either {named('prompts')} or {named('examples')}"
            raise UsageError(Fault("prompts", ABSENT, told, remedy))
        if self.up_to is not None and self.rungs:
            raise UsageError(Fault("up_to", self.up_to, f"does not go with {named('rungs')}", "Give one of them"))
        if "tune" in (self.up_to, *self.rungs) and self.prompts:
            name = "up_to" if self.up_to else "rungs"
            raise UsageError(Fault(name, "tune", "needs answers to train on", f"Give {named('examples')}"))

    @property
    def wanted(self) -> tuple[str, ...]:
        """The rungs to try, in order; the first is always add."""
        if self.rungs:
            return tuple(name for name in RUNGS if name == "add" or name in self.rungs)
        last = self.up_to or ("tune" if self.examples else "distil")
        return tuple(name for name in RUNGS[: RUNGS.index(last) + 1] if name == last or name not in MAPS)
