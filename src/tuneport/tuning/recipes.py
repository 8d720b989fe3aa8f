"""The recipes: the options of a fine-tuning, with the paper's values as defaults.

Texts of the command line and arguments of Python calls become frozen, checked records. Defaults are those of section
3.1, if it gives one. Otherwise the source is named; docs/design/tuning.md lists where the authors' training script
(open-instruct's settings as they published them) and the text differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tuneport.errors import ABSENT, PYTHON, Fault, UsageError, named
from tuneport.examples.naming import parse_data
from tuneport.options import Bounds, Options, Place, nested, option, size_text, variants
from tuneport.scoring.evaluate_options import BATCH_SIZE, USUAL_ANSWER, columns_option, data_option, strict_option

if TYPE_CHECKING:
    from tuneport.examples.training_data import Share

_RATE = Bounds(above=0, most=1)  # above 1 nothing is learned; the paper takes 5e-6
_FROM_ONE, _POSITIVE, _PART = Bounds(least=1), Bounds(above=0), Bounds(least=0, below=1)


def _running(default: Any, help: str, **declared: Any) -> Any:
    """A choice that changes no weight."""
    return option(default, help=help, identity=False, group="the run", **declared)


def _choice(default: Any, help: str, bounds: Bounds | None = None, **declared: Any) -> Any:
    """A choice of a recipe."""
    return option(default, help=help, bounds=bounds, group="recipe", **declared)


@dataclass(frozen=True)
class Recipe(Options):
    """Options that all recipes share. Raises `UsageError` with every invalid value."""

    name: ClassVar[str]
    operations: ClassVar[int]  # for each parameter and token that is seen: forward 2, backward 4
    asks: ClassVar[bool] = False  # the data are prompts alone: answers are made
    trains_rows: ClassVar[bool] = False  # an adapter may train rows of embedding and head
    repeats: ClassVar[bool] = False  # many passes over few examples are meant
    logits: ClassVar[int] = 2  # copies in float32, where those of a whole batch are held

    # Section 3.1: learning rate 5e-6, 30K steps, batch size 8 (4 GPUs × 1 × 2 accumulation steps in the script).
    learning_rate: float = _choice(5e-6, "peak learning rate of the schedule", _RATE)
    steps: int | None = _choice(30_000, "number of weight updates", _FROM_ONE)
    epochs: float | None = _choice(None, "passes over the data, instead of steps", _POSITIVE)
    batch_size: int = _choice(8, "examples per update, over all devices", _FROM_ONE)
    # Footnote 4: AdamW, linear schedule, warm-up ratio 0.03.
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = _choice("linear", "linear, cosine or constant")
    warmup_ratio: float = _choice(0.03, "fraction of the steps for warm-up", _PART)
    # Footnote 4: 2048 (the script: 4096). None: that, or the model's context where it is shorter.
    max_length: int | None = _choice(
        None, "maximum tokens of an example (default: 2048, or the model's context)", Bounds(least=2)
    )
    # Footnote 4 takes embeddings out of the decay and gives no number; the script says 0.0.
    weight_decay: float = _choice(0.0, "AdamW's weight decay (not applied to embeddings, norms and biases)", _PART)
    # Neither text nor script: AdamW's own values, and the usual bound on the gradient.
    beta1: float = _choice(0.9, "AdamW's first decay rate", _PART)
    beta2: float = _choice(0.999, "AdamW's second decay rate", _PART)
    max_grad_norm: float = _choice(1.0, "maximum norm of gradients (clipping)", _POSITIVE)
    # The script's. It decides the order of the data, and adapters' random starts.
    seed: int = _choice(123, "random seed (order of the data, sampling)", Bounds(least=0, below=2**32))
    precision: Literal["auto", "float32", "bfloat16"] = _choice(
        "auto",
        "dtype of the computation (auto: bfloat16 on a GPU, float32 on a CPU); trained weights are kept in float32",
    )
    per_device_train_batch_size: int | None = _choice(
        None, "examples per device and pass (default: its share)", _FROM_ONE
    )
    gradient_checkpointing: bool = _choice(False, "recompute activations instead of keeping them (less memory, slower)")

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        if (self.steps is None) == (self.epochs is None):
            raise UsageError(Fault("steps", self.steps, f"give either {named('steps')} or {named('epochs')}"))

    @property
    def examples_per_step(self) -> int:
        """Sequences that the model sees in an update, over all devices."""
        return self.batch_size

    @property
    def reads(self) -> tuple[Any, ...]:
        """Files and folders that the recipe itself names; no output may replace them."""
        return ()

    def record(self) -> dict[str, Any]:
        """The choices as JSON."""
        return {"recipe": self.name, **asdict(self)}


@dataclass(frozen=True)
class SftRecipe(Recipe):
    """Supervised fine-tuning: next-token prediction, with the loss on the answers alone."""

    name = "sft"
    operations = 6
    trains_rows = True


@dataclass(frozen=True)
class DpoRecipe(Recipe):
    """Direct preference optimisation against the model as it was at the start.

    The paper transfers the diff vectors of others' DPO (appendix A) and trains none itself. The defaults are Tülu 3
    8B's (Lambert et al., 2024), from the command in open-instruct's docs/tulu3.md (commit 0becd2c): 8 GPUs × 1 × 16
    pairs in an update, learning rate 5e-7, linear, warm-up ratio 0.1, one epoch, `dpo_norm` with beta 5, no weight
    decay.
    """

    name = "dpo"
    operations = 8  # a reference passes forward too
    learning_rate: float = _choice(5e-7, "peak learning rate of the schedule", _RATE)
    steps: int | None = _choice(None, "number of weight updates, instead of epochs", _FROM_ONE)
    epochs: float | None = _choice(1.0, "passes over the data", _POSITIVE)
    batch_size: int = _choice(128, "examples per update, over all devices", _FROM_ONE)
    warmup_ratio: float = _choice(0.1, "fraction of the steps for warm-up", _PART)
    dpo_beta: float = _choice(5.0, "strength of the preference loss; higher values stay closer to the start", _POSITIVE)
    dpo_loss: Literal["sigmoid", "sigmoid_norm"] = _choice(
        "sigmoid_norm", "sigmoid, or sigmoid_norm (normalised by answer length)"
    )


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
    operations = 10  # a drawn answer is read once more, to know how likely it was, and the reference passes forward
    asks = True
    learning_rate: float = _choice(5e-7, "peak learning rate of the schedule", _RATE)
    steps: int | None = _choice(1_000, "number of weight updates", _FROM_ONE)
    batch_size: int = _choice(48, "prompts per update, over all devices", _FROM_ONE)
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = _choice("constant", "linear, cosine or constant")
    warmup_ratio: float = _choice(0.0, "fraction of the steps for warm-up", _PART)
    num_generations: int = _choice(16, "answers sampled per prompt", Bounds(least=2))
    max_completion_length: int = _choice(512, "maximum tokens of an answer", _FROM_ONE)
    temperature: float = _choice(1.0, "sampling temperature", _POSITIVE)
    kl_coef: float = _choice(
        0.01,
        "weight of the KL penalty that keeps the model near the start (0: without a reference model)",
        Bounds(least=0),
    )
    rewards: tuple[str, ...] = _choice(
        ("exact",), "[WEIGHT*]exact, [WEIGHT*]format=REGEX or [WEIGHT*]module:function", repeatable=True, metavar="WORD"
    )

    @property
    def examples_per_step(self) -> int:
        """Answers in an update."""
        return self.batch_size * self.num_generations


@dataclass(frozen=True)
class DistilRecipe(Recipe):
    """Learn from a teacher's answers to prompts: at each token of them, the KL divergence from the teacher's distribution.

    Meant for a model that is close already: a target with a diff vector, whose teacher is the tuned source. The paper has no
    such step. The defaults are those of our trials: 50 steps of 32 answers took tiny models most of the way, and 25 to 100 steps
    made little difference.
    """

    name = "distil"
    operations = 6
    asks = True
    trains_rows = True
    repeats = True
    logits = 4
    # Half of the rate that the source was fine-tuned with, as in trials with tiny models and SmolLM2 (there 2e-5). Half of section
    # 3.1's rate would be 2.5e-6, of which 50 steps move most weights by less than bfloat16 can store.
    learning_rate: float = _choice(1e-5, "peak learning rate of the schedule", _RATE)
    steps: int | None = _choice(50, "number of weight updates", _FROM_ONE)
    batch_size: int = _choice(32, "prompts per update, over all devices", _FROM_ONE)
    teacher: Place | None = _choice(
        None,
        "folder or Hub id of the model whose answers are learned, or a folder of its recorded answers",
        metavar="MODEL",
    )
    max_completion_length: int = _choice(USUAL_ANSWER, "maximum tokens of an answer", _FROM_ONE)
    retain: tuple[Any, ...] = _choice(
        (),
        "texts on which the model is to stay as it is: adds the KL divergence from its start",
        repeatable=True,
        metavar="FILE",
        parse=parse_data,
        accepts="str | PathLike[str] | DataFrame | Dataset | Sequence[str | PathLike[str] | DataFrame | Dataset]",
    )
    retain_from: Place | None = _choice(
        None, "model whose distribution on these texts is kept (default: the model itself, as it starts)"
    )
    # Of 0.1, 1 and 10 the one that kept scores and texts (docs/design/tuning.md, trials).
    retain_weight: float = _choice(1.0, "weight of that KL divergence", _POSITIVE)

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        if self.teacher is None:
            raise UsageError(Fault("teacher", ABSENT, "is missing", "Name the model whose answers are to be learned"))
        if self.retain_from is not None and not self.retain:
            raise UsageError(Fault("retain_from", ABSENT, f"needs {named('retain')}", "Name the texts too"))

    @property
    def reads(self) -> tuple[Any, ...]:
        """The teacher and the texts."""
        return (self.teacher, *self.retain, *([] if self.retain_from is None else [self.retain_from]))

    def record(self) -> dict[str, Any]:
        """The choices as JSON. Teacher and texts are not among them: a plan names them by their contents."""
        kept = {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if each.name not in ("teacher", "retain", "retain_from")
        }
        if not self.retain:
            del kept["retain_weight"]
        return {"recipe": self.name, **kept}


RECIPES: Mapping[str, type[Recipe]] = {kind.name: kind for kind in (SftRecipe, DpoRecipe, GrpoRecipe, DistilRecipe)}


def recipe_of(recipe: str | Recipe, **given: Any) -> Recipe:
    """A recipe by name, with the given choices instead of its defaults. Raises `UsageError`."""
    if isinstance(recipe, Recipe):
        return replace(recipe, **given) if given else recipe
    kind = RECIPES[_known(recipe)]
    foreign = sorted(given.keys() - {choice.name for choice in fields(kind)})
    if foreign:
        raise UsageError([Fault(name, given[name], f"is not an option of the recipe {recipe}") for name in foreign])
    if "epochs" in given and "steps" not in given:
        given["steps"] = None
    if "steps" in given and "epochs" not in given:
        given["epochs"] = None
    return kind(**given)


def _known(recipe: object) -> Any:
    if not isinstance(recipe, Recipe) and recipe not in RECIPES:
        raise UsageError(Fault("recipe", recipe, f"must be {', '.join(list(RECIPES)[:-1])} or {list(RECIPES)[-1]}"))
    return recipe


@dataclass(frozen=True)
class Lora(Options):
    """A low-rank adapter instead of all parameters. ``targets`` are peft's; None of ``alpha`` means twice the rank.

    ``tokens`` are those whose rows of embedding and head are trained too: ``chat`` (the special tokens of the template),
    ``new`` (only those that the model did not have, which always are), or their names. None means ``chat`` where sft gives
    the model a template or an end token: a base may never have read them, and nothing else would teach it their rows.
    """

    rank: int = option(16, help="rank of the two factors", bounds=_FROM_ONE)
    alpha: float | None = option(None, help="default: twice the rank", bounds=_POSITIVE)
    targets: str | tuple[str, ...] = "all-linear"
    rslora: bool = option(False, help="scale by alpha / √rank instead of alpha / rank")
    modules_to_save: tuple[str, ...] = ()
    tokens: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check every value. Raises `UsageError`."""
        super().__post_init__()
        if isinstance(self.tokens, str) and self.tokens not in ("chat", "new"):
            raise UsageError(Fault("tokens", self.tokens, "must be chat, new, or names as a tuple"))

    def record(self) -> dict[str, Any]:
        """The choices as JSON."""
        return {**asdict(self), "alpha": self.alpha if self.alpha is not None else 2 * self.rank}

    @property
    def text(self) -> str:
        """All choices as `parse_lora` takes them, but for those that are nothing."""
        chosen = [(key, self.record()[name]) for key, (name, _) in _LORA.items()]
        return ",".join(f"{key}={_spelled(value)}" for key, value in chosen if value not in (None, False, ()))


def _spelled(value: Any) -> str:
    return "+".join(value) if isinstance(value, tuple) else str(value).lower()


def parse_lora(given: object) -> Lora:
    """``rank=16,alpha=32,targets=all-linear,rslora=true,save=lm_head``; lists with ``+``. Raises ValueError."""
    if isinstance(given, Lora):
        return given
    found: dict[str, Any] = {}
    for part in str(given).split(","):
        key, equals, value = part.strip().partition("=")
        if not equals or not value:
            raise ValueError("must be written as rank=16,alpha=32,targets=q_proj+v_proj,rslora=true")
        if key not in _LORA:
            raise ValueError(
                f"{part.strip()!r}: choose rank, alpha, targets, rslora=true|false, save or tokens (other adapter "
                f"types, dropout and biases cannot be transferred exactly, so they are not supported)"
            )
        name, of_text = _LORA[key]
        if name in found:
            raise ValueError(f"{key} is given twice")
        try:
            found[name] = of_text(value)
        except (KeyError, ValueError):
            raise ValueError(f"{part.strip()!r}: {value!r} is not a valid {key}") from None
    try:
        return Lora(**found)
    except UsageError as error:
        raise ValueError("; ".join(f"{fault.option}={fault.beside(PYTHON)}" for fault in error.faults)) from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split("+"))


_LORA: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "rank": ("rank", int),
    "alpha": ("alpha", float),
    "targets": ("targets", lambda text: text if text == "all-linear" else _names(text)),
    "rslora": ("rslora", lambda text: {"true": True, "false": False}[text]),
    "save": ("modules_to_save", _names),
    "tokens": ("tokens", lambda text: text if text in ("chat", "new") else _names(text)),
}


@dataclass(frozen=True)
class TuningRun(Options):
    """How a run goes about its work; none of this changes a weight of the output."""

    save_every: int = _running(500, "steps between checkpoints to resume from", bounds=_FROM_ONE)
    eval_every: int | None = _running(
        None, "score the model every N steps and write the scores to curve.jsonl", bounds=_FROM_ONE
    )
    tasks: tuple[str, ...] = _running(
        (),
        "what to score during training, as for `evaluate`",
        metavar="NAME[,NAME…]",
        repeatable=True,
        separator=",",
    )
    match: str | None = _running(
        None,
        "regular expression with one group; only that group is compared with the answer, as for `evaluate`",
        metavar="REGEX",
    )
    max_new_tokens: int | None = _running(
        None, "maximum tokens of an answer that is scored (default: as for `evaluate`)", bounds=_FROM_ONE
    )
    eval_batch_size: int = _running(BATCH_SIZE, "batch size for scoring", bounds=_FROM_ONE)
    report_to: Literal["tensorboard", "trackio"] | None = _running(None, "also send the log to this tracker")
    shard_size: str = _running("5GB", "maximum bytes per file", metavar="SIZE", parse=size_text)
    strict: bool = strict_option()
    overwrite: bool = _running(False, "replace an existing output of tuneport (never other files)")

    def __post_init__(self) -> None:
        """Check every value, and which of them go together."""
        super().__post_init__()
        if (self.eval_every is None) != (not self.tasks):
            told = f"{named('eval_every')} and {named('tasks')} belong together: give both, or neither"
            raise UsageError(Fault("eval_every", self.eval_every, told))
        if self.match is not None and not self.tasks:
            told = f"applies to answers of {named('tasks')}: give both, or only {named('tasks')}"
            raise UsageError(Fault("match", self.match, told))


def _parse_mix(given: object) -> tuple[Share, ...]:
    from tuneport.examples.training_data import Share, parse_share

    if isinstance(given, Mapping):
        given = [f"{name}={amount}" for name, amount in given.items()]
    if not isinstance(given, Sequence):
        raise ValueError("must be a mapping from names to counts or fractions, or strings NAME=COUNT or NAME=FRACTION")
    texts = [given] if isinstance(given, str) else given
    return tuple(each if isinstance(each, Share) else parse_share(str(each)) for each in texts)


@dataclass(frozen=True, kw_only=True)
class TuneOptions(Options):
    """The options of `tune`."""

    model: Place = option(
        metavar="MODEL", positional=True, argument=True, help="folder or Hub id of the model to fine-tune"
    )
    data: tuple[Any, ...] = data_option(
        "DATA",
        "JSONL, JSON, CSV or Parquet file, org/name[/CONFIG][@REVISION][:SPLIT] on the Hub, or a table in Python. "
        "Fields: messages, prompt and completion, or text (sft); prompt, chosen and rejected (dpo); prompt and what "
        "rewards need (grpo); prompt, or messages that end with a question (distil). After a name, ?FIELD:COLUMN&COLUMN=VALUE reads a field from another column and keeps "
        "only rows with a value",
    )
    recipe: Any = option(
        "sft",
        metavar="sft|dpo|grpo|distil",
        positional=True,
        parse=_known,
        accepts="str | Recipe",
        help="training method",
    )
    out: Place = option(metavar="DIR", help="folder to write (created when complete)")
    columns: Mapping[str, str] | None = columns_option()
    mix: Any = option(
        (),
        metavar="NAME=FRACTION|COUNT",
        repeatable=True,
        parse=_parse_mix,
        accepts="Mapping[str, float | int] | Sequence[str]",
        help="use only part of one data source",
    )
    chat_template: Place | None = option(
        None, metavar="NAME|FILE", help="chat template: chatml, llama3, tulu or a Jinja file (default: the model's own)"
    )
    end_token: str | None = option(
        None, metavar="TOKEN", help="token that ends an answer (default: the template's, or the model's)"
    )
    lora: Lora | None = option(
        None,
        metavar="rank=N,…",
        parse=parse_lora,
        accepts="str | Lora | None",
        help="train an adapter: rank, alpha, targets=all-linear or names joined by +, rslora=true, save=modules, "
        "tokens=chat, new or names joined by + (tokens whose rows are trained too; default: new tokens, and those of "
        "a chat template or end token that sft or distil adds)",
    )
    dtype: str | None = option(
        None,
        metavar="DTYPE",
        parse=lambda value: str(value).removeprefix("torch."),
        accepts="str | torch.dtype | None",
        help="store the weights as bfloat16, float16 or float32 (default: as the model stores them)",
    )
    choices: Mapping[str, Any] = variants(lambda: RECIPES)
    running: TuningRun = nested(TuningRun)
