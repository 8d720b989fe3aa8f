"""What the functions of the core are asked for: `transfer`, `diff`, `apply`, `plan`, `verify`, `inspect`, `publish`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from tuneport.engine.choices import Choices, Running, parse_scale
from tuneport.errors import ABSENT, Fault, UsageError, named
from tuneport.options import Bounds, Options, Place, nested, option
from tuneport.output.licences import parse_licence

Warn = Callable[[str], None]
# Diff vectors with the scale of each; None where only `scale` says it.
Scaled = tuple[tuple[Place, float | None], ...]
_SCALED = "str | PathLike[str] | Sequence[str | tuple[str, float]] | Mapping[str, float]"


def _callable(value: object) -> object:
    if not callable(value):
        raise ValueError("must be a function of one string")
    return value


# Folders and Hub ids that go in or come out; Python takes them without their names, the command line some without a flag.
_place = partial(option, positional=True)
_argument = partial(_place, argument=True)
_base = partial(_place, help="the version that was fine-tuned", metavar="MODEL")
_tuned = partial(_place, help="the fine-tuned model, or a PEFT adapter of the base", metavar="MODEL")
_onto = partial(_place, help="the target: the other version", metavar="MODEL")
_out = partial(_place, help="folder to write; it appears when it is whole", metavar="DIR")
# Who is told of warnings before the first byte is written; Python's alone.
_warn = partial(
    option,
    None,
    "called with each warning that is known before the first byte is written",
    flag=False,
    identity=False,
    parse=_callable,
    accepts="Callable[[str], None]",
)


@dataclass(frozen=True, kw_only=True)
class TransferOptions(Options):
    """The options of `transfer`."""

    base: Place = _base()
    tuned: Place = _tuned()
    onto: Place = _onto()
    out: Place = _out()
    choices: Choices = nested(Choices)
    running: Running = nested(Running)
    warn: Warn | None = _warn()


@dataclass(frozen=True, kw_only=True)
class DiffOptions(Options):
    """The options of `diff`."""

    base: Place = _base()
    tuned: Place = _tuned()
    out: Place = _out(metavar="DIFF")
    encoding: Literal["exact"] = option("exact", help="how the vector is stored")
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


@dataclass(frozen=True, kw_only=True)
class ApplyOptions(Options):
    """The options of `apply`."""

    diffs: Scaled = _argument(
        help="folder that `tuneport diff` wrote, and its scale",
        metavar="DIFF[=SCALE]",
        repeatable=True,
        parse=parse_diffs,
        accepts=_SCALED,
    )
    onto: Place = _onto()
    out: Place = _out()
    choices: Choices = nested(Choices)
    running: Running = nested(Running)
    warn: Warn | None = _warn()


@dataclass(frozen=True, kw_only=True)
class PlanOptions(Options):
    """The options of `plan`: those of the run that it is the plan of."""

    base: Place | None = _base(None)
    tuned: Place | None = _tuned(None)
    onto: Place | None = _onto(None)
    out: Place | None = _out(None)
    diffs: Scaled | None = option(
        None,
        "diff vectors instead of base and tuned, as for `apply`",
        parse=parse_diffs,
        accepts=f"{_SCALED} | None",
    )
    choices: Choices = nested(Choices)
    running: Running = nested(Running)

    def __post_init__(self) -> None:
        """Check every value, and which of them go together."""
        super().__post_init__()
        if self.diffs is not None and (self.base is not None or self.tuned is not None):
            raise UsageError(
                Fault("diffs", ABSENT, "goes with onto alone", f"Leave out {named('base')} and {named('tuned')}")
            )
        needed = ["onto"] if self.diffs is not None else ["base", "tuned"]
        if absent := [name for name in needed if getattr(self, name) is None]:
            raise UsageError([Fault(name, ABSENT, "is missing") for name in absent])


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(Options):
    """The options of `verify`."""

    out: Place = _argument(help="folder that tuneport wrote", metavar="DIR")
    base: Place | None = _base(None)
    tuned: Place | None = _tuned(None)
    onto: Place | None = _onto(None)
    diffs: tuple[Place, ...] = option((), metavar="DIFF", repeatable=True, help="parent of an `apply`")
    full: bool = option(False, help="recompute everything, not a sample")
    seed: int = option(0, bounds=Bounds(least=0), help="which sample is recomputed")
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
        problem = "A push goes to the main branch: leave out what follows @"
    elif not _REPOSITORY.fullmatch(repo):
        problem = "Letters, digits, - _ . are allowed, with one slash between owner and name"
    elif any(part[0] in "-." or part[-1] in "-." or "--" in part or ".." in part for part in repo.split("/")):
        problem = "A name neither begins nor ends with - or ., and holds neither -- nor .."
    elif repo.endswith(".git"):
        problem = "A name does not end with .git"
    if problem:
        raise ValueError(f"is not a valid name of a repository. {problem}; write ORG/NAME, or your user's name/NAME")
    return repo


@dataclass(frozen=True, kw_only=True)
class PublishOptions(Options):
    """The options of `publish`."""

    folder: Place = _argument(help="finished folder that tuneport wrote", metavar="DIR")
    repo: str = _place(help="repository on the Hub", metavar="ORG/NAME", parse=parse_repository)
    overwrite: bool = option(False, help="replace files there that tuneport did not push")
    scores: Place | None = option(
        None, metavar="FILE.json", help="scores of this model by `tuneport evaluate`, for the card (a model-index)"
    )
    license: str | None = option(None, metavar="ID", parse=parse_licence, help="the model's licence, for the card")
    running: Running = nested(Running, "max_memory", "workers")


_publishing = partial(option, group="publishing")


@dataclass(frozen=True, kw_only=True)
class PushOptions(Options):
    """What the command line asks of commands whose output can be published; Python has `publish`."""

    push_to: str | None = _publishing(
        None,
        "when the output is whole, push it to this repository on the Hub (public, unless it is there already and "
        "private, or your organisation's default is another); needs a token that may write",
        metavar="ORG/NAME",
        parse=parse_repository,
    )
    push_overwrite: bool = _publishing(False, "replace files there that tuneport did not push (default: stop)")
    scores: Place | None = _publishing(
        None,
        "scores of the model by `tuneport evaluate`, for the card that is pushed (a model-index)",
        metavar="FILE.json",
    )
    license: str | None = _publishing(
        None,
        "licence for the card that is pushed, as the Hub calls it (default: the parents', where they allow to say)",
        metavar="ID",
        parse=parse_licence,
    )
