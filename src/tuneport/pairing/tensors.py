"""Every tensor of base, tuned and target gets a fate.

In come the headers of the checkpoints, out come pairs: which tensor of the tuned model is subtracted from by which of
the base, and onto which of the target the difference goes. The promise is total accounting: a tensor that does not fit
is refused with the flag that decides, all of them at once, and the caller stops before the first byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tuneport.checkpoint.adapter import UNTRAINED, Change
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.matrices import EMBEDDING, is_head_weight, is_vocabulary
from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import PairingError, UsageError

Fate = Literal["transferred", "resized", "copied", "dropped", "refused"]

# GPTQ and AWQ, bitsandbytes, compressed-tensors, float8 with scales.
QUANTISED = re.compile(
    r"\.(qweight|qzeros|g_idx|weight_packed|weight_scale(_inv)?|absmax|quant_map|SCB|quant_state\..*)$"
)
MOST_MUST_PAIR = 0.9


@dataclass(frozen=True)
class ParentPair:
    """A tensor of base and tuned: ``diff`` has a value wherever both are there. ``exact`` are integers and booleans.

    ``change`` says what an adapter did to it, where the tuned model is base and adapter.
    """

    name: str
    base: StoredTensor
    tuned: StoredTensor
    change: Change | None = None

    @property
    def exact(self) -> bool:
        """Integers and booleans have no difference: base must equal tuned."""
        return DTYPES[self.base.dtype].kind == "exact"

    @property
    def untrained(self) -> bool:
        """Whether an adapter leaves it as it is: there is no difference, and nothing is read to find that out."""
        return self.change is not None and self.change.is_none


@dataclass(frozen=True)
class Parents:
    """What base and tuned share, and the fate of what only one of them has, by name; pairs that do not fit."""

    pairs: Mapping[str, ParentPair]
    alone: Mapping[str, TensorPair]
    refusals: tuple[str, ...]


@dataclass(frozen=True)
class TensorPair:
    """One line of the account: a tensor of the output, or one that has no place in it."""

    name: str
    fate: Fate
    reason: str = ""
    pair: ParentPair | None = None
    target: StoredTensor | None = None
    by_token: bool = False


@dataclass(frozen=True)
class Rule:
    """``--rule REGEX=SCALE``: the last rule whose expression is found in a target's name replaces ``--scale``."""

    pattern: str
    scale: float

    def matches(self, name: str) -> bool:
        """Whether the expression is found in ``name``."""
        return re.search(self.pattern, name) is not None


def scale_of(name: str, scale: float, rules: Sequence[Rule]) -> float:
    """The scale of one tensor."""
    return next((rule.scale for rule in reversed(rules) if rule.matches(name)), scale)


def main_dtype(tensors: Iterable[StoredTensor]) -> str:
    """The float dtype that most elements have: what ``--dtype`` casts."""
    counts: dict[str, int] = {}
    for tensor in tensors:
        if DTYPES[tensor.dtype].kind == "float":
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.elements
    return max(counts, key=lambda dtype: counts[dtype]) if counts else "F32"


def written_tensors(checkpoint: Checkpoint, tied: bool) -> dict[str, StoredTensor]:
    """The tensors that count in a checkpoint: a tied head that is stored beside its embedding is the same one twice."""
    embedding = [name for name in checkpoint.tensors if EMBEDDING.search(name)]
    if not tied or not embedding:
        return dict(checkpoint.tensors)
    return {name: tensor for name, tensor in checkpoint.tensors.items() if not is_head_weight(name)}


def stored_twice(checkpoint: Checkpoint, tied: bool) -> list[tuple[StoredTensor, StoredTensor]]:
    """Embedding and head of a tied model that stores both; only the first of the two is carried."""
    embeddings = [tensor for name, tensor in checkpoint.tensors.items() if EMBEDDING.search(name)]
    written = written_tensors(checkpoint, tied)
    heads = [tensor for name, tensor in checkpoint.tensors.items() if name not in written]
    return [(embeddings[0], head) for head in heads]


def find_tensor(written: Mapping[str, StoredTensor], tied: bool, name: str) -> StoredTensor | None:
    """Of `written_tensors`, the one that another checkpoint calls ``name``: in a tied model embedding and head are one."""
    if name in written:
        return written[name]
    if tied and (EMBEDDING.search(name) or is_head_weight(name)):
        candidates = [tensor for other, tensor in written.items() if EMBEDDING.search(other) or is_head_weight(other)]
        return candidates[0] if len(candidates) == 1 else None
    return None


def check_readable(checkpoint: Checkpoint) -> None:
    """Stop at what has no weights to subtract: an adapter, quantised and complex weights. Raises `PairingError`."""
    if checkpoint.adapter is not None:
        raise PairingError(
            f"{checkpoint.role} {checkpoint.label} is a PEFT adapter; only --tuned takes one. Merge it with peft "
            "(merge_and_unload().save_pretrained(…)) and give the merged folder."
        )
    method = checkpoint.config.get("quantization_config")
    quantised = [
        name
        for name, tensor in checkpoint.tensors.items()
        if DTYPES[tensor.dtype].kind == "quantised" or QUANTISED.search(name)
    ]
    other = [name for name, tensor in checkpoint.tensors.items() if DTYPES[tensor.dtype].kind == "complex"]
    where = f"{checkpoint.role} {checkpoint.label}"
    if method or quantised:
        kind = method.get("quant_method", "of unknown kind") if isinstance(method, dict) else "by its tensors"
        shown = f", for example `{quantised[0]}` ({checkpoint.tensors[quantised[0]].dtype})" if quantised else ""
        raise PairingError(
            f"{where} is quantised ({kind}{shown}). Differences of quantised weights mean nothing; give the "
            "unquantised checkpoint, or dequantise it first."
        )
    if other:
        raise PairingError(f"{where}: `{other[0]}` is complex ({checkpoint.tensors[other[0]].dtype}); not supported.")


def check_architectures(*checkpoints: Checkpoint) -> None:
    """One message when the models are of different kinds, instead of hundreds of names. Raises `PairingError`."""
    kinds = {checkpoint.role: checkpoint.config.get("model_type") for checkpoint in checkpoints}
    if len({kind for kind in kinds.values() if kind is not None}) > 1:
        told = "; ".join(
            f"{c.role} {c.label} is {_article(c)} with {len(c.tensors)} tensors and {c.parameters:,} parameters"
            for c in checkpoints
        )
        raise PairingError(
            f"These are different architectures: {told}. A diff vector can only be added to another version of the "
            "same architecture."
        )


def pair_parents(
    base: Checkpoint,
    tuned: Checkpoint,
    tied: tuple[bool, bool],
    vocabulary_rows: bool,
    drop: str | None,
    changes: Mapping[str, Change] | None = None,
) -> Parents:
    """What can be subtracted from what. ``tied`` says whether head and embedding are one in base and in tuned.

    ``vocabulary_rows``: rows of embeddings may differ, they match by token. ``changes``: what an adapter does to the
    base's tensors, by name, where the tuned model is base and adapter.
    """
    base_tensors, tuned_tensors = written_tensors(base, tied[0]), written_tensors(tuned, tied[1])
    pairs: dict[str, ParentPair] = {}
    refusals: list[str] = []
    only_base = {}
    paired_in_tuned = set()
    for name, stored in base_tensors.items():
        partner = find_tensor(tuned_tensors, tied[1], name)
        if partner is None:
            only_base[name] = stored
            continue
        paired_in_tuned.add(partner.name)
        pair = ParentPair(name, stored, partner, None if changes is None else changes.get(name, UNTRAINED))
        kinds = {DTYPES[stored.dtype].kind, DTYPES[partner.dtype].kind}
        if len(kinds) > 1 or (pair.exact and stored.dtype != partner.dtype):
            refusals.append(f"`{name}` is {stored.dtype} in the base and {partner.dtype} in the tuned model.")
        elif not _same_shape(stored.shape, partner.shape, vocabulary_rows and is_vocabulary(name)):
            refusals.append(
                f"`{name}` is {_times(stored.shape)} in the base and {_times(partner.shape)} in the tuned model."
            )
        pairs[name] = pair
    only_tuned = {name: stored for name, stored in tuned_tensors.items() if name not in paired_in_tuned}
    wanted = {name: stored for name, stored in base_tensors.items() if name in pairs or not _found(drop, name)}
    _check_most_pair(base, tuned, sum(pair.base.elements for pair in pairs.values()), wanted)
    alone = {name: _alone(name, stored, "base", drop) for name, stored in only_base.items()}
    alone |= {name: _alone(name, stored, "tuned model", drop) for name, stored in only_tuned.items()}
    return Parents(pairs, alone, tuple(refusals))


def pair_target(
    pairs: Mapping[str, ParentPair],
    alone: Mapping[str, TensorPair],
    target: Checkpoint,
    *,
    tied_parents: bool,
    tied_target: bool,
    vocabulary_rows: bool,
    rules: Sequence[Rule],
    drop: str | None,
    gains_rows: bool = False,
) -> list[TensorPair]:
    """The account: each tensor of the target and each leftover of the parents, with its fate.

    ``alone`` are the lines of tensors that only one parent has.
    ``vocabulary_rows``: embeddings whose rows differ are matched by token; ``gains_rows``: the output has tokens more.
    """
    account: list[TensorPair] = []
    used: set[str] = set()
    written = written_tensors(target, tied_target)
    for name, stored in written.items():
        pair = _find_pair(pairs, name, tied_parents)
        if pair is None:
            account.append(_without_diff(name, stored, alone.get(name), rules))
            continue
        used.add(pair.name)
        account.append(_with_diff(name, pair, stored, vocabulary_rows, gains_rows, rules))
    for name, pair in pairs.items():
        if name not in used:
            account.append(_without_place(name, pair, drop))
    account += [line for name, line in alone.items() if name not in written]
    _check_most_pair_target(pairs, target, account)
    return account


def check_patterns(rules: Sequence[Rule], drop: str | None, names: Iterable[str]) -> None:
    """A pattern that finds nothing is a slip of the pen. Raises `UsageError`."""
    names = list(names)
    for pattern, flag in [(rule.pattern, "--rule") for rule in rules] + ([(drop, "--drop")] if drop else []):
        if not any(re.search(pattern, name) for name in names):
            raise UsageError(f"{flag} {pattern!r} matches no tensor; names look like `{names[0] if names else '-'}`.")


def _find_pair(pairs: Mapping[str, ParentPair], name: str, tied: bool) -> ParentPair | None:
    if name in pairs:
        return pairs[name]
    if tied and (EMBEDDING.search(name) or is_head_weight(name)):
        found = [pair for other, pair in pairs.items() if EMBEDDING.search(other) or is_head_weight(other)]
        return found[0] if len(found) == 1 else None
    return None


def _with_diff(
    name: str,
    pair: ParentPair,
    target: StoredTensor,
    vocabulary_rows: bool,
    gains_rows: bool,
    rules: Sequence[Rule],
) -> TensorPair:
    if pair.exact:
        if DTYPES[target.dtype].kind != "exact":
            reason = f"`{name}` is {pair.base.dtype} in the base and {target.dtype} in the target."
            return TensorPair(name, "refused", reason, pair, target)
        if pair.untrained:
            return TensorPair(name, "copied", str(pair.change), pair, target)
        return TensorPair(name, "copied", "integers: base and tuned must be equal, checked while running", pair, target)
    if DTYPES[target.dtype].kind != "float":
        reason = f"`{name}` is {pair.base.dtype} in the base and {target.dtype} in the target."
        return TensorPair(name, "refused", reason, pair, target)
    by_token = vocabulary_rows and is_vocabulary(name)
    how = str(pair.change) if pair.change is not None else ""
    same = target.shape == pair.base.shape == pair.tuned.shape
    resized = not same and by_token and _same_shape(target.shape, pair.base.shape, True)
    if pair.untrained and (same or resized) and not (by_token and gains_rows):
        return TensorPair(name, "copied", how, pair, target)
    if same:
        return TensorPair(name, "transferred", how, pair, target, by_token)
    if resized:
        rows = f"{pair.base.shape[0]}, {pair.tuned.shape[0]} and {target.shape[0]} rows in base, tuned and target"
        reason = f"{rows}; matched by token" + (f"; {how}" if how else "")
        return TensorPair(name, "resized", reason, pair, target, True)
    if scale_of(name, 1.0, rules) == 0:
        return TensorPair(name, "copied", "its shapes differ (--rule …=0)", pair, target)
    reason = (
        f"`{name}` is {_times(pair.base.shape)} in the base, {_times(pair.tuned.shape)} in the tuned model and "
        f"{_times(target.shape)} in the target; only rows of embeddings may differ."
    )
    return TensorPair(name, "refused", reason, pair, target)


def _alone(name: str, stored: StoredTensor, side: str, drop: str | None) -> TensorPair:
    if _found(drop, name):
        return TensorPair(name, "dropped", f"only the {side} has it (--drop)")
    reason = (
        f"`{name}` ({_times(stored.shape)}) is in the {side} and not in its partner. "
        f"Pass `--drop '{_exact_pattern(name)}'` to leave it out."
    )
    return TensorPair(name, "refused", reason)


def _without_diff(name: str, target: StoredTensor, alone: TensorPair | None, rules: Sequence[Rule]) -> TensorPair:
    if alone is not None and alone.fate == "dropped":
        return TensorPair(name, "copied", alone.reason, None, target)
    if scale_of(name, 1.0, rules) == 0:
        return TensorPair(name, "copied", "no difference is known (--rule …=0)", None, target)
    if alone is not None:
        return TensorPair(name, "refused", alone.reason, None, target)
    reason = (
        f"`{name}` ({_times(target.shape)}) is only in the target. Pass `--rule '{_exact_pattern(name)}=0'` to copy it."
    )
    return TensorPair(name, "refused", reason, None, target)


def _without_place(name: str, pair: ParentPair, drop: str | None) -> TensorPair:
    if pair.untrained:
        return TensorPair(name, "dropped", f"the target has no such tensor; {pair.change}", pair)
    if _found(drop, name):
        return TensorPair(name, "dropped", "the target has no such tensor (--drop)", pair)
    reason = (
        f"`{name}` ({_times(pair.base.shape)}) is in base and tuned, but not in the target. "
        f"Pass `--drop '{_exact_pattern(name)}'` to leave its difference out."
    )
    return TensorPair(name, "refused", reason, pair)


def _check_most_pair(
    base: Checkpoint, tuned: Checkpoint, paired: int, base_tensors: Mapping[str, StoredTensor]
) -> None:
    total = max(sum(tensor.elements for tensor in base_tensors.values()), 1)
    if paired < MOST_MUST_PAIR * total:
        _refuse_as_a_whole(base, tuned, paired / total)


def _check_most_pair_target(pairs: Mapping[str, ParentPair], target: Checkpoint, account: list[TensorPair]) -> None:
    total = max(sum(line.target.elements for line in account if line.target), 1)
    paired = sum(line.target.elements for line in account if line.target and line.pair and line.fate != "refused")
    unpaired = sum(line.target.elements for line in account if line.target and line.fate == "refused")
    if unpaired > (1 - MOST_MUST_PAIR) * total:
        example = next(line for line in account if line.fate == "refused")
        reason = _other_prefix(pairs, target.tensors) or f"They look like different models: {example.reason}"
        raise PairingError(
            f"Only {paired / total:.0%} of the parameters of target {target.label} ({_article(target)}) have a partner "
            f"in base and tuned. {reason}"
        )


def _refuse_as_a_whole(one: Checkpoint, other: Checkpoint, share: float) -> None:
    reason = _other_prefix(one.tensors, other.tensors)
    reason = reason or "They are different models; which one is not the one you meant?"
    raise PairingError(
        f"Only {share:.0%} of the parameters of {one.role} {one.label} ({_article(one)}) have a partner in "
        f"{other.role} {other.label} ({_article(other)}). {reason}"
    )


def _other_prefix(ones: Mapping[str, Any], others: Mapping[str, Any]) -> str | None:
    """What to do where names agree but for a prefix, as GPT-2's on the Hub and those of its fine-tunings do."""
    for short, long in ((ones, others), (others, ones)):
        prefixes = {name.partition(".")[0] + "." for name in long} - {name.partition(".")[0] + "." for name in short}
        for prefix in prefixes:
            if 2 * sum(prefix + name in long for name in short) > len(short):
                return (
                    f"Only one of them has the prefix `{prefix}` before its names: load each with AutoModelForCausalLM "
                    "and save it again (save_pretrained), so that all are named alike."
                )
    return None


def _article(checkpoint: Checkpoint) -> str:
    kind = checkpoint.config.get("model_type")
    architectures = checkpoint.config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    return f"`{kind}` ({name})" if name else f"`{kind}`" if kind else "of unknown type"


def _same_shape(one: tuple[int, ...], other: tuple[int, ...], rows_may_differ: bool) -> bool:
    if rows_may_differ:
        return len(one) == len(other) >= 1 and one[1:] == other[1:]
    return one == other


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a scalar"


def _exact_pattern(name: str) -> str:
    return "^" + re.escape(name) + "$"


def _found(pattern: str | None, name: str) -> bool:
    return pattern is not None and re.search(pattern, name) is not None
