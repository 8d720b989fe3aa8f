"""What a person may choose, checked.

In come the words of the command line or the arguments of a Python call, out come two frozen records: `Choices` decide
what the output is (they are part of the plan, and of its digest), `Running` decides how the run goes about it (memory,
workers), which changes no byte.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

from tuneport.checkpoint.dtypes import FLOAT_SPELLINGS
from tuneport.engine.budget import parse_size
from tuneport.errors import UsageError
from tuneport.pairing.spelling_rules import Rename
from tuneport.pairing.tensors import ScaleRule

SIDES = ("base", "tuned", "target")
Matching = Literal["strings", "positions"]
MATCHINGS = ("strings", "positions")
DEFAULT_SHARD_SIZE = "5GB"


@dataclass(frozen=True)
class Choices:
    """Everything that decides what the output is. Raises `UsageError` for values that cannot be meant."""

    scale: float = 1.0
    rules: tuple[ScaleRule, ...] = ()
    drop: str | Sequence[str] | None = None
    renames: tuple[Rename, ...] = ()
    dtype: str | None = None
    rounding: Literal["nearest", "stochastic"] = "nearest"
    seed: int = 0
    config: Mapping[str, str] = field(default_factory=dict)
    sidecar: Mapping[str, str] = field(default_factory=dict)
    new_tokens: Literal["append", "all", "drop"] = "append"
    vocabulary: Matching | None = None
    vocabulary_rules: Mapping[str, Matching] = field(default_factory=dict)
    digest_inputs: bool = False
    shard_size: str = DEFAULT_SHARD_SIZE

    def __post_init__(self) -> None:
        """Check every value, and spell the dtype as safetensors does."""
        _check_scale(self.scale, "--scale")
        for rule in self.rules:
            _check_pattern(rule.pattern, "--rule")
            _check_scale(rule.scale, f"--rule {rule.pattern}")
        drop = (self.drop,) if isinstance(self.drop, str) else tuple(self.drop or ())
        for pattern in drop:
            _check_pattern(pattern, "--drop")
        object.__setattr__(self, "drop", drop)
        for rename in self.renames:
            _check_pattern(rename.pattern, "--rename")
            _check_replacement(rename)
        if self.dtype is not None:
            spelled = FLOAT_SPELLINGS.get(self.dtype.lower(), self.dtype)
            if spelled not in FLOAT_SPELLINGS.values():
                raise UsageError(f"--dtype {self.dtype!r}: choose bfloat16, float16, float32 or float64.")
            object.__setattr__(self, "dtype", spelled)
        _check_among(self.rounding, ("nearest", "stochastic"), "--rounding")
        _check_among(self.new_tokens, ("append", "all", "drop"), "--new-tokens")
        if self.vocabulary is not None:
            _check_among(self.vocabulary, MATCHINGS, "--vocabulary")
        for pattern, how in self.vocabulary_rules.items():
            _check_pattern(pattern, "--vocabulary")
            _check_among(how, MATCHINGS, f"--vocabulary {pattern}")
        for flag, chosen in (("--config", self.config), ("--sidecar", self.sidecar)):
            for name, side in chosen.items():
                _check_among(side, SIDES, f"{flag} {name}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise UsageError(f"--seed {self.seed!r}: give a whole number from 0 on.")
        parse_size(self.shard_size)

    @property
    def shard_bytes(self) -> int:
        """The most bytes of a shard."""
        return parse_size(self.shard_size)

    @property
    def dropped(self) -> tuple[str, ...]:
        """The expressions of --drop."""
        return tuple(self.drop or ())

    @property
    def patterns(self) -> list[tuple[str, str]]:
        """Every expression that must find a tensor, with its flag."""
        rules = [("--rule", rule.pattern) for rule in self.rules]
        matched = [("--vocabulary", pattern) for pattern in self.vocabulary_rules]
        return [*rules, *(("--drop", pattern) for pattern in self.dropped), *matched]

    def how_to_match(self, name: str) -> Matching | None:
        """How ``--vocabulary REGEX=…`` has a tensor's rows matched; the last expression that is found in its name counts."""
        found = (how for pattern, how in reversed(list(self.vocabulary_rules.items())) if re.search(pattern, name))
        return next(found, None)

    def record(self) -> dict[str, Any]:
        """The choices as JSON, for the plan and the manifest."""
        return asdict(self)


@dataclass(frozen=True)
class Running:
    """How a run goes about its work; none of this changes a byte of the output."""

    strict: bool = False
    allow_nonfinite: bool = False
    max_memory: str | None = None
    workers: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check the numbers. Raises `UsageError`."""
        if self.max_memory is not None:
            parse_size(self.max_memory)
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers {self.workers}: give at least 1.")

    @property
    def memory_limit(self) -> int | None:
        """--max-memory in bytes, or None where the default holds."""
        return None if self.max_memory is None else parse_size(self.max_memory)


def parse_rule(text: str) -> ScaleRule:
    """``REGEX=SCALE``, split at the last ``=``. Raises `UsageError`."""
    pattern, separator, scale = text.rpartition("=")
    try:
        number = float(scale)
    except ValueError:
        number = math.nan
    if not separator or not pattern or math.isnan(number):
        raise UsageError(f"--rule {text!r}: write it as REGEX=SCALE, for example 'embed_tokens=0'.")
    return ScaleRule(pattern, number)


def parse_vocabulary(texts: Sequence[str]) -> tuple[Matching | None, dict[str, Matching]]:
    """What ``--vocabulary`` says of all matrices, and by expression of some. Raises `UsageError`."""
    of_all: Matching | None = None
    rules: dict[str, Matching] = {}
    for text in texts:
        pattern, separator, how = text.rpartition("=")
        if how not in MATCHINGS or bool(separator) != bool(pattern):
            raise UsageError(
                f"--vocabulary {text!r}: write strings, positions, REGEX=strings or REGEX=positions, for example "
                "'per_layer=strings'."
            )
        if pattern:
            rules.pop(pattern, None)  # the last one wins, so it goes to the end
            rules[pattern] = cast(Matching, how)
        else:
            of_all = cast(Matching, how)
    return of_all, rules


def parse_rename(text: str) -> Rename:
    """``REGEX=REPLACEMENT``, split at the last ``=``; the replacement may be empty, or hold ``\\1``. Raises `UsageError`."""
    pattern, separator, replacement = text.rpartition("=")
    if not separator or not pattern:
        raise UsageError(f"--rename {text!r}: write it as REGEX=REPLACEMENT, for example '^transformer\\.='.")
    return Rename(pattern, replacement)


def parse_side(text: str, flag: str) -> tuple[str, str]:
    """``NAME=base|tuned|target``, split at the last ``=``. Raises `UsageError`."""
    name, separator, side = text.rpartition("=")
    if not separator or not name or side not in SIDES:
        raise UsageError(f"{flag} {text!r}: write it as NAME=base, NAME=tuned or NAME=target.")
    return name, side


def _check_scale(scale: object, flag: str) -> None:
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise UsageError(f"{flag}: {scale!r} is no finite number.")


def _check_pattern(pattern: str, flag: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"{flag} {pattern!r} is no regular expression: {error}.") from None


def _check_replacement(rename: Rename) -> None:
    """A replacement refers to groups that the expression has."""
    try:
        re.sub(rename.pattern, rename.replacement, "")  # the replacement is read before anything is looked for
    except (re.error, IndexError) as error:
        raise UsageError(
            f"--rename {rename.pattern!r}: {rename.replacement!r} is not a valid replacement: {error}."
        ) from None


def _check_among(value: object, allowed: tuple[str, ...], flag: str) -> None:
    if value not in allowed:
        raise UsageError(f"{flag} {value!r}: choose {', '.join(allowed[:-1])} or {allowed[-1]}.")
