"""The recipes: what is chosen about a fine-tuning, and what the paper chose.

In come the words of the command line or the arguments of a Python call, out come frozen records of choices, checked.
Defaults are section 3.1's where it says something. Where it is silent the source is named; docs/design.md lists where
the authors' training script (open-instruct's settings as they published them) and the text differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

from tuneport.errors import UsageError

SCHEDULES = ("linear", "cosine", "constant")
PRECISIONS = ("auto", "float32", "bfloat16")


def _choice(default: Any, help: str) -> Any:
    """A choice with its default and what the command line says of it."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Recipe:
    """What all recipes share. Raises `UsageError`, naming every value that cannot be meant."""

    name: ClassVar[str]

    # Section 3.1: learning rate 5e-6, 30K steps, batch size 8 (4 GPUs × 1 × 2 accumulation steps in the script).
    learning_rate: float = _choice(5e-6, "the peak of the schedule")
    steps: int | None = _choice(30_000, "updates of the weights")
    epochs: float | None = _choice(None, "passes over the data, instead of --steps")
    batch_size: int = _choice(8, "examples in an update, over all devices")
    # Footnote 4: AdamW, linear schedule, warm-up ratio 0.03.
    schedule: Literal["linear", "cosine", "constant"] = _choice("linear", "linear, cosine or constant")
    warmup_ratio: float = _choice(0.03, "part of the steps on which the rate rises")
    # Footnote 4: 2048 (the script: 4096). None: that, or the model's context where it is shorter.
    sequence_length: int | None = _choice(None, "most tokens of an example (2048, or the model's context)")
    # Footnote 4 takes embeddings out of the decay and gives no number; the script says 0.0.
    weight_decay: float = _choice(0.0, "AdamW's; never on embeddings, norms and biases")
    # Neither text nor script: AdamW's own values, and the usual bound on the gradient.
    beta1: float = _choice(0.9, "AdamW's first decay rate")
    beta2: float = _choice(0.999, "AdamW's second decay rate")
    max_gradient_norm: float = _choice(1.0, "gradients are scaled down to this norm")
    # The script's. It decides the order of the data, and adapters' random starts.
    seed: int = _choice(123, "of the data's order and of whatever is drawn")
    precision: Literal["auto", "float32", "bfloat16"] = _choice(
        "auto", "of the computation: bfloat16 on a GPU and float32 on a CPU, unless said; weights train in float32"
    )
    device_batch_size: int | None = _choice(None, "examples that a device takes at once (default: its share)")
    gradient_checkpointing: bool = _choice(False, "compute activations twice instead of keeping them")

    def __post_init__(self) -> None:
        """Check every value."""
        faults = list(_faults(self))
        if faults:
            raise UsageError("; ".join(faults) + ".")

    @property
    def examples_per_step(self) -> int:
        """Sequences that the model sees in an update, over all devices."""
        return self.batch_size

    def record(self) -> dict[str, Any]:
        """The choices as JSON."""
        return {"recipe": self.name, **asdict(self)}


@dataclass(frozen=True)
class SftRecipe(Recipe):
    """Supervised fine-tuning: next-token prediction, with the loss on the answers alone."""

    name = "sft"


@dataclass(frozen=True)
class DpoRecipe(Recipe):
    """Direct preference optimisation against the model as it was at the start.

    The paper carries over the diff vectors of others' DPO (appendix A) and trains none itself. The defaults are Tülu 3 8B's
    (Lambert et al., 2024), from the command in open-instruct's docs/tulu3.md (commit 0becd2c): 8 GPUs × 1 × 16 pairs in an
    update, learning rate 5e-7, linear, warm-up ratio 0.1, one epoch, `dpo_norm` with beta 5, no weight decay.
    """

    name = "dpo"
    learning_rate: float = _choice(5e-7, "the peak of the schedule")
    steps: int | None = _choice(None, "updates of the weights, instead of --epochs")
    epochs: float | None = _choice(1.0, "passes over the data")
    batch_size: int = _choice(128, "examples in an update, over all devices")
    warmup_ratio: float = _choice(0.1, "part of the steps on which the rate rises")
    beta: float = _choice(5.0, "weight of staying near the start")
    loss: Literal["sigmoid", "sigmoid_norm"] = _choice("sigmoid_norm", "sigmoid, or sigmoid_norm (by answer length)")


@dataclass(frozen=True)
class GrpoRecipe(Recipe):
    """Group relative policy optimisation, with rewards that a program can verify.

    The paper trains none itself. The defaults follow Tülu 3.1 8B, from the command in open-instruct's docs/tulu3.md (commit
    0becd2c): 48 prompts × 16 answers drawn at once, learning rate 5e-7, constant, temperature 1, KL weight 0.01. That
    command makes two updates of what it draws, half of it in each, where this makes one of all. Its answers have up to 2048
    tokens after prompts of up to 2048; here both share the sequence length, so an answer has 512. It sets a limit
    of 10 million answers; the 1,000 steps (768,000 answers) are a choice made here.
    """

    name = "grpo"
    learning_rate: float = _choice(5e-7, "the peak of the schedule")
    steps: int | None = _choice(1_000, "updates of the weights")
    batch_size: int = _choice(48, "prompts in an update, over all devices")
    schedule: Literal["linear", "cosine", "constant"] = _choice("constant", "linear, cosine or constant")
    warmup_ratio: float = _choice(0.0, "part of the steps on which the rate rises")
    generations: int = _choice(16, "answers that are drawn for each prompt")
    answer_length: int = _choice(512, "most tokens of an answer")
    temperature: float = _choice(1.0, "of the sampling")
    kl: float = _choice(0.01, "weight of staying near the start (0: no reference model is held)")
    rewards: tuple[str, ...] = _choice(
        ("exact",), "[WEIGHT*]exact, [WEIGHT*]format=REGEX or [WEIGHT*]module:function (repeatable)"
    )

    @property
    def examples_per_step(self) -> int:
        """Answers in an update."""
        return self.batch_size * self.generations


RECIPES: Mapping[str, type[Recipe]] = {kind.name: kind for kind in (SftRecipe, DpoRecipe, GrpoRecipe)}


def recipe_of(recipe: str | Recipe, **given: Any) -> Recipe:
    """A recipe by name, with those choices that are given instead of its defaults."""
    if isinstance(recipe, Recipe):
        return replace(recipe, **given) if given else recipe
    if recipe not in RECIPES:
        raise UsageError(f"--recipe {recipe!r}: choose {', '.join(RECIPES)}.")
    kind = RECIPES[recipe]
    foreign = sorted(given.keys() - {choice.name for choice in fields(kind)})
    if foreign:
        raise UsageError(f"--recipe {recipe} has no {', '.join(flag(name) for name in foreign)}.")
    if "epochs" in given and "steps" not in given:
        given["steps"] = None
    if "steps" in given and "epochs" not in given:
        given["epochs"] = None
    return kind(**given)


def flag(name: str) -> str:
    """How the command line spells a choice."""
    return "--reward" if name == "rewards" else "--" + name.replace("_", "-")


def _faults(recipe: Recipe) -> Sequence[str]:
    values = asdict(recipe)
    found = []

    def check(name: str, fine: bool, wanted: str) -> None:
        if not fine:
            found.append(f"{flag(name)} {values[name]!r}: give {wanted}")

    for name in ("learning_rate", "max_gradient_norm", "temperature", "beta"):
        if name in values:
            check(name, _number(values[name]) and values[name] > 0, "a number above 0")
    if _number(recipe.learning_rate) and recipe.learning_rate > 1:
        found.append(f"--learning-rate {recipe.learning_rate}: above 1 nothing is learned; the paper takes 5e-6")
    for name in ("weight_decay", "warmup_ratio", "beta1", "beta2"):
        check(name, _number(values[name]) and 0 <= values[name] < 1, "a number from 0, and below 1")
    for name, least in (("kl", 0),):
        if name in values:
            check(name, _number(values[name]) and values[name] >= least, f"a number from {least} on")
    for name in ("batch_size", "steps", "sequence_length", "device_batch_size", "generations", "answer_length"):
        if values.get(name) is not None:
            least = 2 if name in ("generations", "sequence_length") else 1
            check(name, _whole(values[name]) and values[name] >= least, f"a whole number from {least} on")
    if values["epochs"] is not None:
        check("epochs", _number(values["epochs"]) and values["epochs"] > 0, "a number above 0")
    check("seed", _whole(values["seed"]) and 0 <= values["seed"] < 2**32, "a whole number from 0 on, below 2^32")
    check("schedule", values["schedule"] in SCHEDULES, " or ".join(SCHEDULES))
    check("precision", values["precision"] in PRECISIONS, " or ".join(PRECISIONS))
    if "loss" in values:
        check("loss", values["loss"] in ("sigmoid", "sigmoid_norm"), "sigmoid or sigmoid_norm")
    if (recipe.steps is None) == (recipe.epochs is None):
        found.append("give either --steps or --epochs")
    return found


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Lora:
    """A low-rank adapter instead of all parameters. ``targets`` are peft's; None of ``alpha`` means twice the rank.

    ``tokens`` are those whose rows of embedding and head are trained too: ``chat`` (the special tokens of the template),
    ``new`` (only those that the model did not have, which always are), or their names. None means ``chat`` where sft gives
    the model a template or an end token: a base may never have read them, and nothing else would teach it their rows.
    """

    rank: int = 16
    alpha: float | None = None
    targets: str | tuple[str, ...] = "all-linear"
    rslora: bool = False
    modules_to_save: tuple[str, ...] = ()
    tokens: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check every value. Raises `UsageError`."""
        if not _whole(self.rank) or self.rank < 1:
            raise UsageError(f"--lora rank={self.rank}: give a whole number from 1 on.")
        if self.alpha is not None and (not _number(self.alpha) or self.alpha <= 0):
            raise UsageError(f"--lora alpha={self.alpha}: give a number above 0.")
        if isinstance(self.tokens, str) and self.tokens not in ("chat", "new"):
            raise UsageError(f"--lora tokens={self.tokens}: give chat, new, or names as a tuple.")

    def record(self) -> dict[str, Any]:
        """The choices as JSON."""
        return {**asdict(self), "alpha": self.alpha if self.alpha is not None else 2 * self.rank}


def parse_lora(text: str) -> Lora:
    """``rank=16,alpha=32,targets=all-linear,rslora=true,save=lm_head``; lists with ``+``. Raises `UsageError`."""
    given: dict[str, Any] = {}
    seen: set[str] = set()
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        if not equals or not value:
            raise UsageError(f"--lora {text!r}: write it as rank=16,alpha=32,targets=q_proj+v_proj,rslora=true.")
        if key in seen:
            raise UsageError(f"--lora {text!r}: {key} is given twice.")
        seen.add(key)
        try:
            if key == "rank":
                given["rank"] = int(value)
            elif key == "alpha":
                given["alpha"] = float(value)
            elif key == "targets":
                given["targets"] = value if value == "all-linear" else tuple(value.split("+"))
            elif key == "rslora" and value in ("true", "false"):
                given["rslora"] = value == "true"
            elif key == "save":
                given["modules_to_save"] = tuple(value.split("+"))
            elif key == "tokens":
                given["tokens"] = value if value in ("chat", "new") else tuple(value.split("+"))
            else:
                raise UsageError(
                    f"--lora {part.strip()!r}: choose rank, alpha, targets, rslora=true|false, save or tokens (other kinds of "
                    "adapter, dropout and biases cannot be carried over exactly, and are not offered)."
                )
        except ValueError:
            raise UsageError(f"--lora {part.strip()!r}: {value!r} is no number.") from None
    return Lora(**given)


@dataclass(frozen=True)
class Running:
    """How a run goes about its work; none of this changes a weight of the output."""

    save_every: int = 500
    eval_every: int | None = None
    tasks: tuple[str, ...] = ()
    match: str | None = None
    max_new_tokens: int = 256
    eval_batch_size: int = 16
    report_to: str | None = None
    shard_size: str = "5GB"
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check the numbers. Raises `UsageError`."""
        if not _whole(self.save_every) or self.save_every < 1:
            raise UsageError(f"--save-every {self.save_every}: give a whole number from 1 on.")
        if self.eval_every is not None and (not _whole(self.eval_every) or self.eval_every < 1):
            raise UsageError(f"--eval-every {self.eval_every}: give a whole number from 1 on.")
        for name in ("max_new_tokens", "eval_batch_size"):
            if not _whole(getattr(self, name)) or getattr(self, name) < 1:
                raise UsageError(f"{flag(name)} {getattr(self, name)}: give a whole number from 1 on.")
        if (self.eval_every is None) != (not self.tasks):
            raise UsageError("--eval-every and --tasks belong together: give both, or neither.")
        if self.match is not None and not self.tasks:
            raise UsageError("--match says what counts in an answer of --tasks: give both, or --tasks alone.")
        if self.report_to not in (None, "tensorboard", "trackio"):
            raise UsageError(f"--report-to {self.report_to!r}: choose tensorboard or trackio.")
        if not re.fullmatch(r"\d+(\.\d+)?\s*[KMGT]?I?B", self.shard_size.upper()):
            raise UsageError(f"--shard-size {self.shard_size!r}: write it as 5GB or 200KB.")
