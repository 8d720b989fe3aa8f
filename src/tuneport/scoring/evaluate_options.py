"""The options of `evaluate`; those about one's own examples are `path`'s too."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import partial
from typing import Any, Literal

from tuneport.errors import ABSENT, Fault, UsageError, named
from tuneport.examples.naming import parse_columns, parse_data
from tuneport.options import Bounds, Options, Place, nested, option

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
_FROM_ONE = Bounds(least=1)
_own, _asking = partial(option, group="your own examples"), partial(option, group="models")
_paper, _judging = partial(option, group="the paper's evaluations"), partial(option, group="comparison")
_running = partial(option, identity=False, group="the run")
BATCH_SIZE = 16  # examples that are asked together
USUAL_ANSWER = 256  # tokens of an answer, where nobody says how many; the harness's own number


def _parse_match(value: object) -> str:
    try:
        groups = re.compile(str(value)).groups
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a valid regular expression: {error}") from None
    if not isinstance(value, str) or not value:
        raise ValueError("must be a regular expression, a string")
    if groups > 1:
        raise ValueError(f"has {groups} groups; use one group (the answer), or none")
    return value


def parse_batch_size(value: object) -> int | str:
    """A batch size as the harness takes it: a number, ``auto`` or ``auto:N``. Raises ValueError."""
    if isinstance(value, str) and re.fullmatch(r"auto(:[1-9]\d*)?", value):
        return value
    if isinstance(value, bool) or not re.fullmatch(r"0*[1-9]\d*", str(value)):
        raise ValueError("must be a whole number of at least 1, auto, or auto:N")
    return int(str(value))


def _parse_dtype(value: object) -> str:
    name = str(value).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"must be {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    return name


def _parse_triples(value: object) -> tuple[tuple[str, ...], ...]:
    given = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if given and all(isinstance(each, str) for each in given):
        given = [given]
    found = [tuple(map(str, each)) for each in given if isinstance(each, Sequence) and not isinstance(each, str)]
    if len(found) < len(given) or any(len(triple) != 3 for triple in found):
        raise ValueError("needs three of the models: target, transferred, tuned target")
    return tuple(found)


def data_option(metavar: str, help: str, default: Any = MISSING, **declared: Any) -> Any:
    """Data of one's own: names of files and data sets, or tables of pandas and datasets."""
    return option(
        default,
        metavar=metavar,
        positional=True,
        repeatable=True,
        parse=parse_data,
        accepts="str | PathLike[str] | DataFrame | Dataset | Sequence[str | PathLike[str] | DataFrame | Dataset]",
        help=help,
        **declared,
    )


def columns_option() -> Any:
    """Which columns hold what, for data whose names do not say it."""
    return option(
        None,
        flag=False,
        parse=parse_columns,
        accepts="Mapping[str, str] | None",
        help="mapping from fields to columns, such as {'prompt': 'question'}; in a name, write ?FIELD:COLUMN",
    )


def strict_option() -> Any:
    """Whether what looks wrong stops a run."""
    return _running(False, "stop instead of warning")


def check_device(device: str) -> None:
    """Raise `UsageError` for a device that no machine has; torch is not asked."""
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise UsageError(Fault("device", device, "must be cpu, cuda, cuda:N or mps"))


# What `path` asks as well.
chat_template_option = partial(_asking, None, metavar="NAME|FILE|MODEL")
device_option = partial(_asking, None, "cpu, cuda, mps or cuda:N (default: the best available)", metavar="DEVICE")
batch_size_option = partial(
    _asking,
    BATCH_SIZE,
    "examples to run at once: a number, or auto",
    metavar="N",
    identity=False,
    parse=parse_batch_size,
    accepts="int | str",
)
overwrite_option = partial(_running, False, "replace an existing record")


@dataclass(frozen=True)
class Asking(Options):
    """How one's own examples are asked and judged."""

    match: str | None = _own(
        None,
        "regular expression with one group; only that group is compared with the answer",
        metavar="REGEX",
        parse=_parse_match,
        accepts="str | None",
    )
    loss: bool = _own(False, "score the loss per token of the given answer instead of generating")
    max_new_tokens: int | None = _own(
        None, f"maximum tokens of an answer (default: {USUAL_ANSWER}, or what the context allows)", bounds=_FROM_ONE
    )
    limit: int | None = _own(None, "use only the first N examples of each task, for a quick test", bounds=_FROM_ONE)

    def __post_init__(self) -> None:
        """Check every value, and which of them go together."""
        super().__post_init__()
        if self.match is not None and self.loss:
            told = f"needs generated answers, but {named('loss')} generates none"
            raise UsageError(Fault("match", self.match, told))


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """The options of `evaluate`."""

    models: tuple[Place, ...] = option(
        (),
        metavar="MODEL",
        positional=True,
        argument=True,
        repeatable=True,
        help="folder or Hub id; several models are compared in pairs",
    )
    tasks: tuple[Any, ...] = data_option(
        "NAME[,NAME…]",
        "your own examples (JSONL, JSON, CSV or Parquet; org/name[/CONFIG][@REVISION][:SPLIT] on the Hub; in Python "
        "also a table), with ?FIELD:COLUMN&COLUMN=VALUE if columns have other names; or names of "
        "lm-evaluation-harness tasks",
        (),
        separator=",",
    )
    columns: Mapping[str, str] | None = columns_option()
    out: Place | None = option(None, metavar="FILE", positional=True, help="JSON file to write (created when complete)")
    suite: str | None = _paper(None, "llama3, tulu3, global-mmlu:LANG or livecodebench", metavar="NAME")
    variant: Literal["auto", "base", "tuned"] = _paper(
        "auto", "which variant of the suite's tasks; auto: tuned for models with a chat template"
    )
    run_code_in: str | None = _paper(
        None,
        "sandbox for model-written code (livecodebench): a command that runs Python from its stdin; without it, no "
        "code is run",
        metavar="COMMAND",
    )
    asking: Asking = nested(Asking)
    chat: bool = _asking(False, "use the models' chat templates for the harness's tasks")
    chat_template: Place | None = chat_template_option("chat template for models that have none")
    backend: Literal["hf", "vllm", "olmes"] = _asking("hf", "library that runs the models")
    device: str | None = device_option()
    dtype: str | None = _asking(
        None,
        "dtype to load the weights in (default: float32 on a CPU, else the model's own)",
        metavar="DTYPE",
        parse=_parse_dtype,
        accepts="str | torch.dtype | None",
    )
    batch_size: Any = batch_size_option()
    against: tuple[Place, ...] = _judging(
        (),
        "compare only with this model, which is scored too (default: all pairs of up to three models, else each with "
        "the first)",
        metavar="MODEL",
        repeatable=True,
    )
    recovered_gain: Any = _judging(
        (),
        "compute the recovered gain: the share of the tuned target's gain that the transferred model has",
        metavar=("TARGET", "TRANSFERRED", "TUNED"),
        nargs=3,
        repeatable=True,
        parse=_parse_triples,
        accepts="Sequence[Sequence[str]]",
    )
    trained_on: tuple[Place, ...] = _judging(
        (),
        "data that models were trained or chosen on, as for `tasks`, or folders written by `tune`; your examples "
        "found there are reported (also those found in `tune`'s files beside the models)",
        metavar="DATA",
        repeatable=True,
    )
    allow_selection: bool = _judging(
        False, "also score examples that models were chosen on, according to their curves (default: stop)"
    )
    seed: int = _judging(0, "random seed (bootstrap)", bounds=Bounds(least=0))
    strict: bool = strict_option()
    overwrite: bool = overwrite_option()

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        if self.device is not None and self.backend == "hf":
            check_device(self.device)
        if not self.models:
            raise UsageError(Fault("models", ABSENT, "is missing", "Name one folder or Hub id, or several to compare"))
