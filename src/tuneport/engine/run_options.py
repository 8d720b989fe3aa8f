"""The options of the core's functions: `transfer`, `diff`, `apply`, `plan`, `verify`, `inspect`, `publish`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Literal

from tuneport.checkpoint.adapter_config import MOST_RANK
from tuneport.engine.choices import DEFAULT_SHARD_SIZE, Choices, Running, parse_scale
from tuneport.errors import ABSENT, Fault, UsageError, named
from tuneport.options import Bounds, Options, Place, nested, option, size_text
from tuneport.output.licences import parse_licence

Warn = Callable[[str], None]
# Diff vectors with the scale of each; None where only `scale` says it.
Scaled = tuple[tuple[Place, float | None], ...]
_SCALED = "str | PathLike[str] | Sequence[str | tuple[str, float]] | Mapping[str, float]"


def _callable(value: object) -> object:
    if not callable(value):
        raise ValueError("must be a function that takes one string")
    return value


# Folders and Hub ids that go in or come out; Python takes them without their names, the command line some without a flag.
_place = partial(option, positional=True)
_argument = partial(_place, argument=True)
_base = partial(_place, help="the base model that was fine-tuned", metavar="MODEL")
_tuned = partial(_place, help="the fine-tuned model, or a PEFT adapter of the base", metavar="MODEL")
# Of several pairs, which are added one after another.
_bases = partial(
    _base, repeatable=True, help="the base model that was fine-tuned; one for each tuned model, or one for all"
)
_tuneds = partial(
    _tuned,
    repeatable=True,
    help="the fine-tuned model, or a PEFT adapter of the base; several are added one after another",
)
_BUT_SCALE = tuple(each.name for each in fields(Choices) if each.name not in ("scale", "vocabulary_rules"))
_onto = partial(_place, help="the target: another version of the base", metavar="MODEL")
_out = partial(_place, help="folder to write (created when complete)", metavar="DIR")
# A function that gets warnings before anything is written; only in Python.
_warn = partial(
    option,
    None,
    "function called with each warning before anything is written",
    flag=False,
    identity=False,
    parse=_callable,
    accepts="Callable[[str], None]",
)


@dataclass(frozen=True, kw_only=True)
class DiffOptions(Options):
    """The options of `diff`."""

    base: Place = _base()
    tuned: Place = _tuned()
    out: Place = _out(metavar="DIFF")
    encoding: Literal["exact", "float32"] = option(
        "exact",
        help="exact: coded without loss, about a tenth of float32 for a fine-tuning in bfloat16; float32: plain tensors",
    )
    choices: Choices = nested(Choices, "drop", "renames", "vocabulary", "shard_size")
    running: Running = nested(Running)
    warn: Warn | None = _warn()


def parse_diffs(value: object) -> Scaled:
    """(folder, scale) of each diff vector; None where only ``scale`` says it. Raises ValueError.

    From a folder, texts ``DIFF`` or ``DIFF=SCALE`` (a folder whose own name holds ``=`` is taken as it stands), pairs, or a mapping.
    """
    if isinstance(value, str | os.PathLike):
        value = [value]
    if not isinstance(value, Mapping | Sequence) or not value:
        raise ValueError("must be a folder that `diff` wrote, several, or (folder, scale) pairs")
    found: list[tuple[Place, float | None]] = []
    for each in value.items() if isinstance(value, Mapping) else value:
        if isinstance(each, os.PathLike) or (isinstance(each, str) and ("=" not in each or Path(each).is_dir())):
            found.append((each, None))
            continue
        pair = each.rpartition("=")[::2] if isinstance(each, str) else each
        if not isinstance(pair, Sequence) or len(pair) != 2 or not isinstance(pair[0], str | os.PathLike):
            raise ValueError(f"{each!r} must be a folder, or a folder and its scale")
        try:
            found.append((pair[0], parse_scale(pair[1])))
        except ValueError:
            given = each if isinstance(each, str) else os.fspath(pair[0])
            raise ValueError(
                f"{given!r}: {pair[1]!r} must be a finite number; write DIFF or DIFF=SCALE, for example v1-to-chat=0.5"
            ) from None
    return tuple(found)


def parse_any_diffs(value: object) -> Scaled:
    """As `parse_diffs`, or none at all."""
    return () if value is None or (isinstance(value, Mapping | Sequence) and not value) else parse_diffs(value)


@dataclass(frozen=True)
class ScaleOptions(Options):
    """The scales of what is added: one for all, or one for each in order."""

    scale: tuple[float, ...] = option(
        (1.0,),
        "factor for the diff vector; once for all of them, or once for each in order",
        metavar="X",
        group="arithmetic",
        repeatable=True,
        accepts="float | Sequence[float]",
    )


Pairs = tuple[tuple[Place, Place], ...]


def paired(base: Sequence[Place], tuned: Sequence[Place]) -> Pairs:
    """Each tuned model with its base; a single base is that of all. Raises `UsageError`."""
    if faults := [Fault(name, ABSENT, "is missing") for name, given in (("base", base), ("tuned", tuned)) if not given]:
        raise UsageError(faults)
    if len(base) not in (1, len(tuned)):
        problem = f"is given {len(base)} times, but {named('tuned')} {len(tuned)} times"
        raise UsageError(
            Fault("base", ABSENT, problem, "Give a base for each tuned model, in the same order, or one for all")
        )
    return tuple(zip(base if len(base) == len(tuned) else [base[0]] * len(tuned), tuned, strict=True))


def scales_of(given: tuple[float, ...], own: Sequence[float | None]) -> tuple[float, ...]:
    """The scale of each difference: its own (None: it has none), else the one that is given for all or in its place.

    Raises `UsageError` where the number of scales fits neither.
    """
    without = own.count(None)
    if len(given) not in (1, without):
        problem = f"is given {len(given)} times for {without} diff vector(s) without a scale of their own"
        raise UsageError(Fault("scale", ABSENT, problem, "Give it once for all, or once for each in their order"))
    in_order = iter(given if len(given) == without else given * without)
    return tuple(next(in_order) if scale is None else scale for scale in own)


@dataclass(frozen=True, kw_only=True)
class TransferOptions(Options):
    """The options of `transfer`."""

    base: tuple[Place, ...] = _bases()
    tuned: tuple[Place, ...] = _tuneds()
    onto: Place = _onto()
    out: Place = _out()
    diffs: Scaled = option(
        (),
        "folder written by `tuneport diff`, with an optional scale; added after the tuned models",
        metavar="DIFF[=SCALE]",
        repeatable=True,
        parse=parse_any_diffs,
        accepts=_SCALED,
    )
    scales: ScaleOptions = nested(ScaleOptions)
    choices: Choices = nested(Choices, *_BUT_SCALE)
    running: Running = nested(Running)
    warn: Warn | None = _warn()

    def __post_init__(self) -> None:
        """Check every value, and which of them go together."""
        super().__post_init__()
        scales_of(self.scales.scale, [None] * len(self.pairs) + [own for _, own in self.diffs])

    @property
    def pairs(self) -> Pairs:
        """Each tuned model with its base."""
        return paired(self.base, self.tuned)


@dataclass(frozen=True, kw_only=True)
class ApplyOptions(Options):
    """The options of `apply`."""

    diffs: Scaled = _argument(
        help="folder written by `tuneport diff`, with an optional scale",
        metavar="DIFF[=SCALE]",
        repeatable=True,
        parse=parse_diffs,
        accepts=_SCALED,
    )
    onto: Place = _onto()
    out: Place = _out()
    scales: ScaleOptions = nested(ScaleOptions)
    choices: Choices = nested(Choices, *_BUT_SCALE)
    running: Running = nested(Running)
    warn: Warn | None = _warn()

    def __post_init__(self) -> None:
        """Check every value, and which of them go together."""
        super().__post_init__()
        scales_of(self.scales.scale, [own for _, own in self.diffs])


def parse_budget(value: object) -> str:
    """A share such as ``5%``, or bytes such as ``200MiB``, as it was given. Raises ValueError."""
    text = str(value).strip()
    if text.endswith("%"):
        try:
            share = float(text[:-1])
        except ValueError:
            share = -1.0
        if not 0 < share <= 100:
            raise ValueError("is not a valid share; write it like 5%")
        return text
    try:
        return size_text(text)
    except ValueError:
        raise ValueError("is not a valid budget; write it like 5% or 200MiB") from None


_adapter = partial(option, None, group="the adapter")
DEFAULT_RANK = 64


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """The options of `export`."""

    diff: Place = _argument(help="folder written by `tuneport diff`", metavar="DIFF")
    onto: Place = _onto(help="the target: the model that will load what is exported")
    out: Place = _out()
    form: Literal["peft", "sparse"] = _place(
        help="peft: a LoRA adapter of the target; sparse: a patch with the values that change in the target"
    )
    rank: int | None = _adapter(
        help=f"highest rank of each matrix (default: {DEFAULT_RANK})", bounds=Bounds(least=1, most=MOST_RANK)
    )
    energy: float | None = _adapter(
        help="share of ‖Δ‖² to keep in each matrix, instead of one rank", bounds=Bounds(above=0, most=1), metavar="X"
    )
    budget: str | None = _adapter(
        help="most bytes of all factors, or a share of the target's bytes, spread over the matrices by their singular "
        "values, instead of one rank",
        metavar="SIZE|X%",
        parse=parse_budget,
    )
    choices: Choices = nested(
        Choices, "scale", "preset", "rules", "row_rules", "drop", "renames", "new_tokens", "vocabulary", "shard_size"
    )
    running: Running = nested(Running)
    warn: Warn | None = _warn()

    def __post_init__(self) -> None:
        """Check every value, and which of them go together."""
        super().__post_init__()
        given = [name for name in ("rank", "energy", "budget") if getattr(self, name) is not None]
        if self.form == "sparse" and given:
            raise UsageError([Fault(name, ABSENT, f"is used with {named('form', 'peft')} alone") for name in given])
        if self.form == "peft" and self.choices.shard_size != DEFAULT_SHARD_SIZE:
            problem = f"is used with {named('form', 'sparse')} alone: an adapter is one file"
            raise UsageError(Fault("shard_size", self.choices.shard_size, problem))
        if len(given) > 1:
            raise UsageError(
                [Fault(name, ABSENT, "is given with another choice of the ranks", "Give one") for name in given]
            )


@dataclass(frozen=True, kw_only=True)
class PlanOptions(Options):
    """The options of `plan`: those of the run that it is the plan of."""

    base: tuple[Place, ...] = _bases(())
    tuned: tuple[Place, ...] = _tuneds(())
    onto: Place | None = _onto(None)
    out: Place | None = _out(None)
    diffs: Scaled = option(
        (),
        "diff vectors instead of base and tuned, as for `apply`, or added after them",
        parse=parse_any_diffs,
        accepts=f"{_SCALED} | None",
    )
    scales: ScaleOptions = nested(ScaleOptions)
    choices: Choices = nested(Choices, *_BUT_SCALE)
    running: Running = nested(Running)

    def __post_init__(self) -> None:
        """Check every value, and which of them go together."""
        super().__post_init__()
        pairs = self.pairs
        if self.onto is None and (self.diffs or len(pairs) > 1):
            raise UsageError(Fault("onto", ABSENT, "is missing"))
        scales_of(self.scales.scale, [None] * len(pairs) + [own for _, own in self.diffs])

    @property
    def pairs(self) -> Pairs:
        """Each tuned model with its base; none where there are diff vectors alone."""
        return () if self.diffs and not self.base and not self.tuned else paired(self.base, self.tuned)


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(Options):
    """The options of `verify`."""

    out: Place = _argument(help="output folder of tuneport", metavar="DIR")
    base: tuple[Place, ...] = _bases(())
    tuned: tuple[Place, ...] = _tuneds(())
    onto: Place | None = _onto(None)
    diffs: tuple[Place, ...] = option((), metavar="DIFF", repeatable=True, help="diff vector that was applied")
    full: bool = option(False, help="recompute everything instead of a sample")
    seed: int = option(0, bounds=Bounds(least=0), help="random seed (which sample to recompute)")
    sign: Place | None = option(
        None, metavar="KEY", help="sign the folder with this SSH key (by ssh-keygen), once everything else is proved"
    )
    signers: Place | None = option(
        None,
        metavar="FILE",
        help="file of allowed signers, as ssh and git have it: one of them must have signed the folder",
    )
    running: Running = nested(Running, "max_memory", "workers")


@dataclass(frozen=True, kw_only=True)
class InspectOptions(Options):
    """The options of `inspect`."""

    path: Place = _argument(help="folder or Hub id; of a study, folder or URL", metavar="PATH")


_REPOSITORY = re.compile(r"[A-Za-z0-9_.-]{1,96}/[A-Za-z0-9_.-]{1,96}")


def parse_repository(value: object) -> str:
    """A repository's name, ORG/NAME. Raises ValueError; nothing is asked over the network."""
    repo, problem = str(value), ""
    if "@" in repo:
        problem = "A push always goes to the main branch: leave out @ and what follows"
    elif not _REPOSITORY.fullmatch(repo):
        problem = "Letters, digits, - _ . are allowed, with one slash between owner and name"
    elif any(part[0] in "-." or part[-1] in "-." or "--" in part or ".." in part for part in repo.split("/")):
        problem = "A name must not begin or end with - or ., or contain -- or .."
    elif repo.endswith(".git"):
        problem = "A name must not end with .git"
    if problem:
        raise ValueError(f"is not a valid repository name. {problem}; write ORG/NAME or USER/NAME")
    return repo


@dataclass(frozen=True, kw_only=True)
class PublishOptions(Options):
    """The options of `publish`."""

    folder: Place = _argument(help="finished output folder of tuneport", metavar="DIR")
    repo: str = _place(help="repository on the Hub to push to", metavar="ORG/NAME", parse=parse_repository)
    overwrite: bool = option(False, help="also replace files there that tuneport did not push")
    scores: Place | None = option(
        None, metavar="FILE.json", help="file of `tuneport evaluate` with this model's scores, for the model card"
    )
    license: str | None = option(None, metavar="ID", parse=parse_licence, help="licence for the model card")
    running: Running = nested(Running, "max_memory", "workers")


_publishing = partial(option, group="publishing")


@dataclass(frozen=True, kw_only=True)
class PushOptions(Options):
    """What the command line asks of commands whose output can be published; Python has `publish`."""

    push_to: str | None = _publishing(
        None,
        "push the finished output to this repository on the Hub; needs a token with write access "
        "(a new repository is public, unless your organisation's default is private)",
        metavar="ORG/NAME",
        parse=parse_repository,
    )
    push_overwrite: bool = _publishing(False, "also replace files there that tuneport did not push (default: stop)")
    scores: Place | None = _publishing(
        None,
        "file of `tuneport evaluate` with the model's scores, for the pushed model card",
        metavar="FILE.json",
    )
    license: str | None = _publishing(
        None,
        "licence for the pushed model card, by its Hub id (default: that of the parents, where they agree)",
        metavar="ID",
        parse=parse_licence,
    )
