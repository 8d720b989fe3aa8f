"""What the functions of the core are asked for: `transfer`, `diff`, `apply`, `plan`, `verify`, `inspect`, `publish`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tuneport.engine.choices import Choices, Running, parse_scale
from tuneport.errors import ABSENT, Fault, UsageError, named
from tuneport.options import Bounds, Options, Place, nested, option

Warn = Callable[[str], None]
# Diff vectors with the scale of each; None where only `scale` says it.
Scaled = tuple[tuple[Place, float | None], ...]


def parent(help: str, default: Any = ..., metavar: str = "MODEL") -> Any:
    """A model that goes in, by folder or Hub id."""
    given = () if default is ... else (default,)
    return option(*given, metavar=metavar, positional=True, help=help)


_BASE = "the version that was fine-tuned"
_TUNED = "the fine-tuned model, or a PEFT adapter of the base"
_ONTO = "the target: the other version"
_OUT = "folder to write; it appears when it is whole"


def warn_option() -> Any:
    """Who is told of warnings before the first byte is written; Python's alone."""
    return option(
        None,
        flag=False,
        identity=False,
        parse=_callable,
        accepts="Callable[[str], None]",
        help="called with each warning that is known before the first byte is written",
    )


def _callable(value: object) -> object:
    if not callable(value):
        raise ValueError("must be a function of one string")
    return value


@dataclass(frozen=True, kw_only=True)
class TransferOptions(Options):
    """The options of `transfer`."""

    base: Place = parent(_BASE)
    tuned: Place = parent(_TUNED)
    onto: Place = parent(_ONTO)
    out: Place = parent(_OUT, metavar="DIR")
    choices: Choices = nested(Choices)
    running: Running = nested(Running)
    warn: Warn | None = warn_option()


@dataclass(frozen=True, kw_only=True)
class DiffOptions(Options):
    """The options of `diff`."""

    base: Place = parent(_BASE)
    tuned: Place = parent(_TUNED)
    out: Place = parent(_OUT, metavar="DIFF")
    encoding: Literal["exact"] = option("exact", help="how the vector is stored")
    choices: Choices = nested(Choices, "drop", "renames", "vocabulary", "shard_size")
    running: Running = nested(Running)
    warn: Warn | None = warn_option()


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
        if isinstance(each, os.PathLike):
            found.append((each, None))
        elif isinstance(each, str):
            folder, separator, scale = each.rpartition("=")
            plain = not separator or Path(each).is_dir()
            found.append((each, None) if plain else (folder, _scale_of_diff(each, scale)))
        elif isinstance(each, Sequence) and len(each) == 2 and isinstance(each[0], str | os.PathLike):
            found.append((each[0], _scale_of_diff(os.fspath(each[0]), each[1])))
        else:
            raise ValueError(f"{each!r} must be a folder, or a folder and its scale")
    return tuple(found)


def _scale_of_diff(given: str, scale: object) -> float:
    try:
        return parse_scale(scale)
    except ValueError:
        raise ValueError(
            f"{given!r}: {scale!r} must be a finite number; write DIFF or DIFF=SCALE, for example v1-to-chat=0.5"
        ) from None


@dataclass(frozen=True, kw_only=True)
class ApplyOptions(Options):
    """The options of `apply`."""

    diffs: Scaled = option(
        metavar="DIFF[=SCALE]",
        positional=True,
        argument=True,
        repeatable=True,
        parse=parse_diffs,
        accepts="str | PathLike[str] | Sequence[str | tuple[str, float]] | Mapping[str, float]",
        help="folder that `tuneport diff` wrote, and its scale",
    )
    onto: Place = parent(_ONTO)
    out: Place = parent(_OUT, metavar="DIR")
    choices: Choices = nested(Choices)
    running: Running = nested(Running)
    warn: Warn | None = warn_option()


@dataclass(frozen=True, kw_only=True)
class PlanOptions(Options):
    """The options of `plan`: those of the run that it is the plan of."""

    base: Place | None = parent(_BASE, None)
    tuned: Place | None = parent(_TUNED, None)
    onto: Place | None = parent(_ONTO, None)
    out: Place | None = parent(_OUT, None, metavar="DIR")
    diffs: Scaled | None = option(
        None,
        parse=parse_diffs,
        accepts="str | PathLike[str] | Sequence[str | tuple[str, float]] | Mapping[str, float] | None",
        help="diff vectors instead of base and tuned, as for `apply`",
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

    out: Place = option(metavar="DIR", positional=True, argument=True, help="folder that tuneport wrote")
    base: Place | None = parent(_BASE, None)
    tuned: Place | None = parent(_TUNED, None)
    onto: Place | None = parent(_ONTO, None)
    diffs: tuple[Place, ...] = option((), metavar="DIFF", repeatable=True, help="parent of an `apply`")
    full: bool = option(False, help="recompute everything, not a sample")
    seed: int = option(0, bounds=Bounds(least=0), help="which sample is recomputed")
    running: Running = nested(Running, "max_memory", "workers")


@dataclass(frozen=True, kw_only=True)
class InspectOptions(Options):
    """The options of `inspect`."""

    path: Place = option(
        metavar="PATH", positional=True, argument=True, help="folder or Hub id; of a study, folder or URL"
    )


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

    folder: Place = option(metavar="DIR", positional=True, argument=True, help="finished folder that tuneport wrote")
    repo: str = option(metavar="ORG/NAME", positional=True, parse=parse_repository, help="repository on the Hub")
    overwrite: bool = option(False, help="replace files there that tuneport did not push")
    running: Running = nested(Running, "max_memory", "workers")


@dataclass(frozen=True, kw_only=True)
class PushOptions(Options):
    """What the command line asks of commands whose output can be published; Python has `publish`."""

    push_to: str | None = option(
        None,
        metavar="ORG/NAME",
        parse=parse_repository,
        group="publishing",
        help="when the output is whole, push it to this repository on the Hub (public, unless it is there already and "
        "private, or your organisation's default is another); needs a token that may write",
    )
    push_overwrite: bool = option(
        False, group="publishing", help="replace files there that tuneport did not push (default: stop)"
    )
