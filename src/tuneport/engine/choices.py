"""The options of a transfer: `Choices` determine the output, `Running` how the run works.

Choices are part of the plan and its digest; `Running` changes no byte of the output. Texts of the command line and of
study files, and numbers and mappings of Python calls, become the same checked records.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, cast

from tuneport.checkpoint.dtypes import FLOAT_SPELLINGS
from tuneport.engine.scaling.presets import PRESETS, Preset, PresetName
from tuneport.errors import Fault, UsageError
from tuneport.options import Bounds, Options, option, parse_size, size_text
from tuneport.pairing.name_rules import OF_ALL, Rename, ScaleRule
from tuneport.pairing.row_rules import OF_THE_TENSOR, RowRule, tokens_in

SIDES = ("base", "tuned", "target")
Matching = Literal["strings", "positions"]
MATCHINGS = ("strings", "positions")
DEFAULT_SHARD_SIZE = "5GB"


def _expression(text: object) -> str:
    """A regular expression. Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError("must be a regular expression, a string")
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{text!r} is not a valid regular expression: {error}") from None
    return text


def parse_scale(value: object) -> float:
    """A scale from a number or a text. Raises ValueError."""
    try:
        number = math.nan if isinstance(value, bool) else float(cast(Any, value))
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("must be a finite number")
    return number


def parse_rule_scale(value: object) -> tuple[float | None, float | None]:
    """A scale (None: that of all), or the first and the last of a ramp, from a number, a text or two numbers.

    Raises ValueError.
    """
    if value == OF_ALL:
        return None, None
    ends: Sequence[object] = value.split("..", 1) if isinstance(value, str) else cast(Any, value)
    several = isinstance(ends, list | tuple) and len(ends) == 2
    try:
        return (parse_scale(ends[0]), parse_scale(ends[1])) if several else (parse_scale(value), None)
    except ValueError:
        raise ValueError(f"must be a finite number, {OF_ALL!r}, or a ramp over the layers such as 0.2..1.0") from None


def _pairs(value: object, written: str) -> list[tuple[object, object]]:
    """(left, right) of a mapping, of texts LEFT=RIGHT (split at the last ``=``), or of pairs. Raises ValueError."""
    if isinstance(value, Mapping):
        return list(value.items())
    found: list[tuple[object, object]] = []
    for each in [value] if isinstance(value, str) or not isinstance(value, Sequence) else value:
        if isinstance(each, str):
            left, separator, right = each.rpartition("=")
            if not separator or not left:
                raise ValueError(f"{each!r} must be written as {written}")
            found.append((left, right))
        elif isinstance(each, Sequence) and len(each) == 2:
            found.append((each[0], each[1]))
        else:
            raise ValueError(f"must be a mapping, or strings written as {written}")
    return found


def parse_rules(value: object) -> tuple[ScaleRule, ...]:
    """Rules from ``{REGEX: SCALE}``, texts ``REGEX=SCALE`` or rules. Raises ValueError."""
    if isinstance(value, Sequence) and value and all(isinstance(each, ScaleRule) for each in value):
        value = [(rule.pattern, rule.value) for rule in value]
    pairs = _pairs(value, "REGEX=SCALE, for example 'embed_tokens=0'")
    return tuple(ScaleRule(_expression(pattern), *parse_rule_scale(scale)) for pattern, scale in pairs)


def parse_row_rules(value: object) -> tuple[RowRule, ...]:
    """Rules for tokens from ``{TOKENS: SCALE}``, texts ``TOKENS=SCALE`` or rules. Raises ValueError."""
    if isinstance(value, Sequence) and value and all(isinstance(each, RowRule) for each in value):
        value = [(rule.tokens, OF_THE_TENSOR if rule.scale is None else rule.scale) for rule in value]
    found = []
    for given, scale in _pairs(value, "TOKENS=SCALE, for example '@template=1'"):
        tokens = tokens_in(given) if isinstance(given, str) else tuple(given) if isinstance(given, Sequence) else ()
        if not tokens or not all(isinstance(token, str) and token for token in tokens):
            raise ValueError("must name tokens: strings between commas, or a list of strings")
        if scale != OF_THE_TENSOR:
            try:
                scale = parse_scale(scale)
            except ValueError:
                raise ValueError(f"must have a finite number, or {OF_THE_TENSOR!r} for the tensor's own") from None
        found.append(RowRule(tokens, None if scale == OF_THE_TENSOR else cast(float, scale)))
    return tuple(found)


def parse_renames(value: object) -> tuple[Rename, ...]:
    """Renames from ``{REGEX: REPLACEMENT}``, texts ``REGEX=REPLACEMENT`` (it may be empty, or hold ``\\1``) or renames."""
    if isinstance(value, Sequence) and value and all(isinstance(each, Rename) for each in value):
        value = [(rename.pattern, rename.replacement) for rename in value]
    found = []
    for pattern, replacement in _pairs(value, r"REGEX=REPLACEMENT, for example '^transformer\.='"):
        rename = Rename(_expression(pattern), str(replacement))
        try:
            re.sub(rename.pattern, rename.replacement, "")  # the replacement is read before anything is looked for
        except (re.error, IndexError) as error:
            raise ValueError(
                f"{rename.pattern!r}: {rename.replacement!r} is not a valid replacement: {error}"
            ) from None
        found.append(rename)
    return tuple(found)


def parse_sides(value: object) -> dict[str, str]:
    """Sides by name, from a mapping or texts ``NAME=base|tuned|target``. Raises ValueError."""
    found = {}
    for name, side in _pairs(value, "NAME=base, NAME=tuned or NAME=target"):
        if side not in SIDES:
            raise ValueError(f"{name}={side}: choose base, tuned or target")
        found[str(name)] = str(side)
    return found


def parse_dtype(value: object) -> str:
    """A float dtype as safetensors spells it, from its name or from torch's object of that name. Raises ValueError."""
    name = str(value).removeprefix("torch.")
    spelled = FLOAT_SPELLINGS.get(name.lower(), name)
    if spelled not in FLOAT_SPELLINGS.values():
        raise ValueError("must be bfloat16, float16, float32 or float64")
    return spelled


def _parse_drop(value: object) -> tuple[str, ...]:
    return tuple(_expression(each) for each in ([value] if isinstance(value, str) else cast(Any, value or ())))


def _parse_vocabulary(value: object) -> object:
    """``strings`` or ``positions``, and by expression for some; from a text, texts, or a mapping. Raises ValueError."""
    given = [value] if isinstance(value, str) else cast(Any, value or ())
    words = [] if isinstance(given, Mapping) else [each for each in given if each in MATCHINGS]
    some = given if isinstance(given, Mapping) else [each for each in given if each not in MATCHINGS]
    written = "strings, positions, REGEX=strings or REGEX=positions, for example 'per_layer=strings'"
    found: dict[str, str] = {}
    for pattern, how in _pairs(some, written):
        if how not in MATCHINGS:
            raise ValueError(f"'{pattern}={how}' must be written as {written}")
        found.pop(_expression(pattern), None)  # the last one wins, so it goes to the end
        found[str(pattern)] = str(how)
    return words[-1] if words and not found else (words[-1] if words else None, found) if found else None


_arithmetic = partial(option, group="arithmetic")
_repeated = partial(_arithmetic, (), repeatable=True)
_sidecars = partial(option, group="config, tokenizer, vocabulary")
_of_a_side = partial(_sidecars, (), repeatable=True, parse=parse_sides, accepts="Mapping[str, str] | Sequence[str]")
_running = partial(option, identity=False, group="the run")


@dataclass(frozen=True)
class Choices(Options):
    """Everything that determines the output. Raises `UsageError` with every value that is not valid."""

    scale: float = _arithmetic(1.0, "factor for the diff vector", metavar="X")
    preset: PresetName | None = _arithmetic(
        None,
        "a published recipe; tuneport says which options it stands for, and your own win: chat-vector (embeddings and head "
        "stay, but for the chat template's tokens), instruct-residual (new base + old instruct − old base), shadow (a base's "
        "fine-tuning onto its instruct model)",
    )
    rules: tuple[ScaleRule, ...] = _repeated(
        help="another scale for tensors whose names match the regular expression; the last match wins; 0 keeps the "
        "target's tensor; FIRST..LAST is a ramp over the layers that match; `scale` is the scale of all",
        metavar="REGEX=SCALE",
        parse=parse_rules,
        accepts="Mapping[str, float | str | tuple[float, float]] | Sequence[str]",
    )
    row_rules: tuple[RowRule, ...] = _repeated(
        help="another scale for the rows of tokens in embeddings and heads: token strings between commas, @template (added "
        "tokens that the tuned model's chat template writes), @special or @all; the last rule with a token wins; 0 keeps the "
        "target's rows; `scale` instead of a number is the scale of the tensor",
        metavar="TOKENS=SCALE",
        parse=parse_row_rules,
        accepts="Mapping[str | tuple[str, ...], float | str] | Sequence[str]",
    )
    drop: tuple[str, ...] = _repeated(
        help="leave out tensors that the target lacks (with `diff`: that only one of the two models has)",
        metavar="REGEX",
        parse=_parse_drop,
        accepts="str | Sequence[str]",
    )
    renames: tuple[Rename, ...] = _repeated(
        help="rename tensors of base, tuned or adapter before they are compared with the target's: replace what the "
        r"regular expression matches (split at the last =; \1 is the first group; several are applied in order)",
        metavar="REGEX=REPLACEMENT",
        parse=parse_renames,
        accepts="Mapping[str, str] | Sequence[str]",
    )
    dtype: str | None = _arithmetic(
        None,
        "store tensors of the target's main dtype as bfloat16, float16, float32 or float64",
        metavar="DTYPE",
        parse=parse_dtype,
        accepts="str | torch.dtype | None",
    )
    rounding: Literal["nearest", "stochastic"] = _arithmetic("nearest", "how to round the result")
    seed: int = _arithmetic(0, "random seed for stochastic rounding", bounds=Bounds(least=0))
    config: Mapping[str, str] = _of_a_side(
        help="take a config field from base, tuned or target; generation.FIELD and tokenizer.FIELD for the other "
        "files, tokenizer.SECTION for a section of tokenizer.json",
        metavar="FIELD=SIDE",
    )
    sidecar: Mapping[str, str] = _of_a_side(
        help="take a file beside the weights from base, tuned or target", metavar="NAME=SIDE"
    )
    new_tokens: Literal["append", "all", "drop"] = _sidecars(
        "append",
        "append: add tokens that only the tuned model has; all: also tokens that base and tuned have and the target "
        "lacks; drop: add none",
    )
    vocabulary: Matching | None = _sidecars(
        None,
        "match rows of embeddings and heads by token string or by position; REGEX=strings or REGEX=positions chooses "
        "for tensors whose names match",
        metavar="strings|positions",
        repeatable=True,
        parse=_parse_vocabulary,
        accepts="str | Mapping[str, str] | Sequence[str] | None",
    )
    vocabulary_rules: Mapping[str, Matching] = field(default_factory=dict)
    digest_inputs: bool = _sidecars(False, "record a digest of every input tensor in the manifest")
    shard_size: str = _sidecars(DEFAULT_SHARD_SIZE, "maximum bytes per file", metavar="SIZE", parse=size_text)

    def __post_init__(self) -> None:
        """Check every value; a vocabulary's expressions go where `how_to_match` looks."""
        super().__post_init__()
        if self.preset is not None:
            self._take(PRESETS[self.preset])
        if isinstance(self.vocabulary, tuple):
            of_all, rules = self.vocabulary
            object.__setattr__(self, "vocabulary", of_all)
            object.__setattr__(self, "vocabulary_rules", {**self.vocabulary_rules, **rules})
        elif self.vocabulary_rules:  # of a record
            try:
                _parse_vocabulary(self.vocabulary_rules)
            except ValueError as error:
                raise UsageError(Fault("vocabulary", self.vocabulary_rules, str(error))) from None

    def _take(self, preset: Preset) -> None:
        """Put a preset's options before one's own, unless these begin with them (the choices of a record)."""
        for name in ("rules", "row_rules"):
            added, own = getattr(preset, name), getattr(self, name)
            if own[: len(added)] != added:
                object.__setattr__(self, name, (*added, *own))
        object.__setattr__(self, "sidecar", {**preset.sidecar, **self.sidecar})

    @property
    def shard_bytes(self) -> int:
        """The most bytes of a shard."""
        return parse_size(self.shard_size)

    @property
    def patterns(self) -> list[tuple[str, str]]:
        """Every expression that must find a tensor, with its option."""
        rules = [("rules", rule.pattern) for rule in self.rules]
        matched = [("vocabulary", pattern) for pattern in self.vocabulary_rules]
        return [*rules, *(("drop", pattern) for pattern in self.drop), *matched]

    def how_to_match(self, name: str) -> Matching | None:
        """How ``vocabulary`` has a tensor's rows matched; the last expression that is found in its name counts."""
        found = (how for pattern, how in reversed(list(self.vocabulary_rules.items())) if re.search(pattern, name))
        return next(found, None)

    def record(self) -> dict[str, Any]:
        """The choices as JSON, for the plan and the manifest."""
        return asdict(self)


@dataclass(frozen=True)
class Running(Options):
    """How a run goes about its work; none of this changes a byte of the output."""

    strict: bool = _running(False, "stop instead of warning")
    allow_nonfinite: bool = _running(False, "write NaN and infinity instead of stopping")
    overwrite: bool = _running(False, "replace an existing output of tuneport (never other files)")
    max_memory: str | None = _running(
        None, "memory limit (default: 128MiB; 256MiB if tokenizers differ)", metavar="SIZE", parse=size_text
    )
    workers: int | None = _running(None, "worker threads (default: all usable CPUs)", bounds=Bounds(least=1))

    @property
    def memory_limit(self) -> int | None:
        """``max_memory`` in bytes, or None where the default holds."""
        return None if self.max_memory is None else parse_size(self.max_memory)
