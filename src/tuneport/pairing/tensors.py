"""Decide the fate of every tensor of base, tuned and target.

Pairs say which tensor of the base is subtracted from which of the tuned model, and to which of the target the
difference is added. Every tensor is accounted for: one that does not fit is refused with the option that decides, all
of them at once, before anything is written.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from tuneport.checkpoint.adapter import UNTRAINED, AdapterChange
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import Fault, PairingError, UsageError, named
from tuneport.files.printable import MOST_OF_A_NAME, expression_of, quoted
from tuneport.pairing.account import Account, ParentPair, TensorPair
from tuneport.pairing.buffers import is_computed_buffer
from tuneport.pairing.model_kinds import MOST_MUST_PAIR, in_words
from tuneport.pairing.name_rules import ScaleRule, scale_of
from tuneport.pairing.spelling_advice import advice
from tuneport.pairing.vocabulary_matrices import columns_of, rows_of, written_tensors
from tuneport.pairing.vocabulary_names import Ties
from tuneport.sidecars.config import is_tied
from tuneport.sidecars.config_kinds import kind_of

# GPTQ and AWQ, bitsandbytes, compressed-tensors, float8 with scales.
QUANTISED = re.compile(
    r"\.(qweight|qzeros|g_idx|weight_packed|weight_scale(_inv)?|absmax|quant_map|SCB|quant_state\..*)$"
)
# The fate's reason of a tensor beside the language model, where base or tuned is a language model alone.
BESIDE = "not part of the language model, which alone was fine-tuned; the target's is kept"
# The fate's reason of a tensor that nobody reads.
COMPUTED = "the model computes it itself; the stored copy is not used"


@dataclass(frozen=True)
class Parents:
    """What base and tuned share, by weight (``ties``), the fate of what only one of them has, by name, and misfits.

    ``by_token`` are the tensors whose rows match by token, ``drop`` patterns of those that may be lost. ``outside``: names
    beside the language model, where one of the models is that alone.
    """

    pairs: Mapping[str, ParentPair]
    ties: Ties
    by_token: Set[str]
    drop: Sequence[str]
    outside: Set[str]
    alone: Mapping[str, TensorPair] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()


def usual_dtype(tensor: StoredTensor) -> str:
    """The float dtype in which a tensor of the target is written if nobody says another: its own, and bfloat16 for one that
    is stored as codes with scales.
    """
    return "BF16" if tensor.is_dequantised else tensor.dtype


def main_dtype(tensors: Iterable[StoredTensor]) -> str:
    """The float dtype that most elements have: what ``--dtype`` casts."""
    counts: dict[str, int] = {}
    for tensor in tensors:
        if DTYPES[tensor.dtype].kind == "float":
            dtype = usual_dtype(tensor)
            counts[dtype] = counts.get(dtype, 0) + tensor.elements
    return max(counts, key=lambda dtype: counts[dtype]) if counts else "F32"


def stored_twice(checkpoint: Checkpoint, ties: Ties) -> list[tuple[StoredTensor, StoredTensor]]:
    """The copies that a tied model stores of one weight, each beside the one that is carried."""
    if not ties.tied:
        return []
    written = written_tensors(checkpoint, ties)
    shared = [(written[ties.weight(name)], name) for name in checkpoint.tensors if ties.is_shared(name)]
    return [(carried, checkpoint.tensors[name]) for carried, name in shared if carried.name != name]


def check_readable(checkpoint: Checkpoint) -> None:
    """Refuse models without weights to subtract: adapters, quantised and complex weights. Raises `PairingError`."""
    if checkpoint.adapter is not None:
        raise PairingError(
            f"{checkpoint.role} {checkpoint.label} is a PEFT adapter; only {named('tuned')} takes one. Merge it with peft "
            "(merge_and_unload().save_pretrained(…)) and give the merged folder."
        )
    method = checkpoint.config.get("quantization_config") or checkpoint.config.get("compression_config")
    quantised = [
        name
        for name, tensor in checkpoint.tensors.items()
        if DTYPES[tensor.dtype].kind == "quantised" or QUANTISED.search(name)
    ]
    if method:
        # Packed weights are matrices of integers. Where all are floats, only the config still says so, and the merge of the
        # configs leaves that out with a warning.
        quantised += [
            name
            for name, tensor in checkpoint.tensors.items()
            if DTYPES[tensor.dtype].kind == "exact" and tensor.dtype != "BOOL" and len(tensor.shape) > 1
        ]
    other = [name for name, tensor in checkpoint.tensors.items() if DTYPES[tensor.dtype].kind == "complex"]
    where = f"{checkpoint.role} {checkpoint.label}"
    if quantised:
        kind = method.get("quant_method", "unknown method") if isinstance(method, dict) else "by its tensors"
        shown = f", for example {quoted(quantised[0])} ({checkpoint.tensors[quantised[0]].dtype})"
        raise PairingError(
            f"{where} is quantised ({kind}{shown}). Differences of quantised weights have no meaning; give the "
            f"unquantised checkpoint, or dequantise it first."
        )
    if other:
        raise PairingError(
            f"{where}: {quoted(other[0])} is complex ({checkpoint.tensors[other[0]].dtype}); not supported."
        )


def pair_parents(
    base: Checkpoint,
    tuned: Checkpoint,
    ties: tuple[Ties, Ties],
    by_token: Set[str],
    drop: Sequence[str],
    changes: Mapping[str, AdapterChange] | None = None,
    outside: Set[str] = frozenset(),
) -> Parents:
    """What can be subtracted from what. ``ties`` say which names hold one weight in base and in tuned.

    ``changes``: what an adapter does to the base's tensors, by name, where the tuned model is base and adapter. The rest is as
    in `Parents`.
    """
    base_tensors = written_tensors(base, ties[0])
    tuned_tensors = written_tensors(tuned, ties[1])
    pairs = _Pairs(base_tensors, tuned_tensors, ties[1], changes)
    refusals: list[str] = []
    only_base: list[StoredTensor] = []
    paired_in_tuned: set[str] = set()
    paired = 0
    for weight, stored in base_tensors.items():
        if weight not in pairs:
            only_base.append(stored)
            continue
        pair = pairs[weight]
        name, partner = pair.name, pair.tuned
        paired += stored.elements
        paired_in_tuned.add(partner.name)
        kinds = {DTYPES[stored.dtype].kind, DTYPES[partner.dtype].kind}
        if is_computed_buffer(stored):
            pass  # whatever the two hold, the model does not read it
        elif len(kinds) > 1 or (pair.exact and stored.dtype != partner.dtype):
            refusals.append(f"{quoted(name)} is {stored.dtype} in the base and {partner.dtype} in the tuned model.")
        elif not _same_shape(stored, partner, name in by_token):
            refusals.append(
                f"{quoted(name)} is {_times(stored.shape)} in the base and {_times(partner.shape)} in the tuned model."
            )
    only_tuned = [stored for stored in tuned_tensors.values() if stored.name not in paired_in_tuned]
    wanted = (stored for stored in only_base if not _found(drop, stored.name) and stored.name not in outside)
    taking_part = itertools.chain((base_tensors[weight] for weight in pairs), wanted)
    total = max(sum(tensor.elements for tensor in taking_part if not is_computed_buffer(tensor)), 1)
    if paired < MOST_MUST_PAIR * total:
        refuse_as_a_whole(base, tuned, paired / total)
    alone = {
        stored.name: TensorPair(stored.name, "dropped", BESIDE)
        if stored.name in outside
        else _alone(stored, "base", drop)
        for stored in only_base
    }
    alone |= {stored.name: _alone(stored, "tuned model", drop) for stored in only_tuned}
    return Parents(pairs, ties[0], by_token, drop, outside, alone, tuple(refusals))


class _Pairs(Mapping[str, ParentPair]):
    """Tensors of base and tuned that hold one weight, by weight; each pair is made when it is looked at."""

    def __init__(
        self,
        base: Mapping[str, StoredTensor],
        tuned: Mapping[str, StoredTensor],
        ties_tuned: Ties,
        changes: Mapping[str, AdapterChange] | None,
    ) -> None:
        self._base, self._tuned, self._ties, self._changes = base, tuned, ties_tuned, changes

    def __iter__(self) -> Iterator[str]:
        return (weight for weight in self._base if weight in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, weight: object) -> bool:
        return weight in self._base and self._ties.weight(self._base[str(weight)].name) in self._tuned

    def __getitem__(self, weight: str) -> ParentPair:
        base = self._base[weight]
        tuned, changes = self._tuned[self._ties.weight(base.name)], self._changes
        return ParentPair(base.name, base, tuned, None if changes is None else changes.get(base.name, UNTRAINED))


def pair_target(
    parents: Parents, target: Checkpoint, ties: Ties, rules: Sequence[ScaleRule], gains_rows: bool = False
) -> Account:
    """The account: each tensor of the target and each leftover of the parents, with its fate.

    ``ties`` are the target's; ``gains_rows``: the output has tokens more.
    """
    pairs = parents.pairs
    written = dict.fromkeys(stored.name for stored in written_tensors(target, ties).values())
    account = Account(pairs, parents.ties, target.tensors)
    used: set[str] = set()
    for name in written:
        stored = target.tensors[name]
        pair = pairs.get(parents.ties.weight(name))
        if pair is not None:
            used.add(pair.name)
            account.append(_with_diff(name, pair, stored, name in parents.by_token, gains_rows, rules))
        elif name in parents.outside:
            account.append(TensorPair(name, "copied", BESIDE, None, stored))
        else:
            account.append(_without_diff(name, stored, parents.alone.get(name), rules))
    for pair in pairs.values():
        if pair.name not in used:
            account.append(_without_place(pair.name, pair, parents.drop))
    for name, line in parents.alone.items():
        if name not in written:
            account.append(line)
    _check_most_pair_target(pairs, target, account)
    return account


def check_patterns(patterns: Iterable[tuple[str, str]], names: Iterable[str]) -> None:
    """A pattern (of which option, and its expression) that finds nothing is a mistake. Raises `UsageError`."""
    patterns = list(patterns)
    names = list(names) if patterns else []
    example = f"Names look like {quoted(names[0] if names else '-')}"
    faults = [
        Fault(option, pattern, "matches no tensor", example)
        for option, pattern in patterns
        if not any(re.search(pattern, name) for name in names)
    ]
    if faults:
        raise UsageError(faults)


def _with_diff(
    name: str,
    pair: ParentPair,
    target: StoredTensor,
    by_token: bool,
    gains_rows: bool,
    rules: Sequence[ScaleRule],
) -> TensorPair:
    if is_computed_buffer(target):
        return TensorPair(name, "copied", COMPUTED, None, target)
    if pair.exact:
        if DTYPES[target.dtype].kind != "exact":
            reason = f"{quoted(name)} is {pair.base.dtype} in the base and {target.dtype} in the target."
            return TensorPair(name, "refused", reason, pair, target)
        if pair.untrained:
            return TensorPair(name, "copied", str(pair.change), pair, target)
        return TensorPair(
            name, "copied", "integers: base and tuned must be equal (checked during the run)", pair, target
        )
    if DTYPES[target.dtype].kind != "float":
        reason = f"{quoted(name)} is {pair.base.dtype} in the base and {target.dtype} in the target."
        return TensorPair(name, "refused", reason, pair, target)
    how = str(pair.change) if pair.change is not None else ""
    same = target.shape == pair.base.shape == pair.tuned.shape
    resized = not same and by_token and _same_shape(target, pair.base, True) and _same_shape(target, pair.tuned, True)
    if pair.untrained and (same or resized) and not (by_token and gains_rows):
        return TensorPair(name, "copied", how, pair, target)
    if same:
        return TensorPair(name, "transferred", how, pair, target, by_token)
    if resized:
        rows = f"{rows_of(pair.base)}, {rows_of(pair.tuned)} and {rows_of(target)} rows in base, tuned and target"
        reason = f"{rows}; matched by token" + (f"; {how}" if how else "")
        return TensorPair(name, "resized", reason, pair, target, True)
    if scale_of(name, 1.0, rules) == 0:
        return TensorPair(name, "copied", "its shapes differ (--rule …=0)", pair, target)
    reason = (
        f"{quoted(name)} is {_times(pair.base.shape)} in the base, {_times(pair.tuned.shape)} in the tuned model and "
        f"{_times(target.shape)} in the target; only rows of embeddings may differ."
    )
    return TensorPair(name, "refused", reason, pair, target)


def _alone(stored: StoredTensor, side: str, drop: Sequence[str]) -> TensorPair:
    name = stored.name
    if is_computed_buffer(stored):
        return TensorPair(name, "dropped", COMPUTED)
    if _found(drop, name):
        return TensorPair(name, "dropped", f"only the {side} has it (--drop)")
    reason = (
        f"{quoted(name)} ({_times(stored.shape)}) is in the {side}, but not in the other model. Pass "
        f"{named('drop', _exact_pattern(name))} to leave it out."
    )
    return TensorPair(name, "refused", reason)


def _without_diff(name: str, target: StoredTensor, alone: TensorPair | None, rules: Sequence[ScaleRule]) -> TensorPair:
    if is_computed_buffer(target):
        return TensorPair(name, "copied", COMPUTED, None, target)
    if alone is not None and alone.fate == "dropped":
        return TensorPair(name, "copied", alone.reason, None, target)
    if scale_of(name, 1.0, rules) == 0:
        return TensorPair(name, "copied", "no difference is known (--rule …=0)", None, target)
    if alone is not None:
        return TensorPair(name, "refused", alone.reason, None, target)
    reason = f"{quoted(name)} ({_times(target.shape)}) is only in the target. Pass {named('rules', f'{_exact_pattern(name)}=0')} to copy it."
    return TensorPair(name, "refused", reason, None, target)


def _without_place(name: str, pair: ParentPair, drop: Sequence[str]) -> TensorPair:
    if is_computed_buffer(pair.base):
        return TensorPair(name, "dropped", COMPUTED)
    if pair.untrained:
        return TensorPair(name, "dropped", f"the target has no such tensor; {pair.change}", pair)
    if _found(drop, name):
        return TensorPair(name, "dropped", "the target has no such tensor (--drop)", pair)
    reason = (
        f"{quoted(name)} ({_times(pair.base.shape)}) is in base and tuned, but not in the target. "
        f"Pass {named('drop', _exact_pattern(name))} to leave its difference out."
    )
    return TensorPair(name, "refused", reason, pair)


def _check_most_pair_target(pairs: Mapping[str, ParentPair], target: Checkpoint, account: Account) -> None:
    total = paired = unpaired = 0
    for line in account:
        elements = line.target.elements if line.target is not None else 0
        total += elements
        paired += elements if line.pair is not None and line.fate != "refused" else 0
        unpaired += elements if line.fate == "refused" else 0
    total = max(total, 1)
    if unpaired > (1 - MOST_MUST_PAIR) * total:
        example = next(account.of("refused"))
        reason = advice({pair.name: pair.base for pair in pairs.values()}, "the base", target.tensors, "the target")
        reason = reason or f"They look like different models: {example.reason}"
        raise PairingError(
            f"Only {paired / total:.0%} of the parameters of target {target.label} ({in_words(target)}) have a "
            f"counterpart in base and tuned. {reason}"
        )


def refuse_as_a_whole(one: Checkpoint, other: Checkpoint, share: float) -> None:
    """Raise the one message for two checkpoints of which only this share pairs; ``other`` is the one to be renamed."""
    reason = advice(other.tensors, f"the {other.role}", one.tensors, f"the {one.role}")
    reason = reason or "They are different models; did you mean another one?"
    raise PairingError(
        f"Only {share:.0%} of the parameters of {one.role} {one.label} ({in_words(one)}) have a counterpart in "
        f"{other.role} {other.label} ({in_words(other)}). {reason}"
    )


def _same_shape(one: StoredTensor, other: StoredTensor, rows_may_differ: bool) -> bool:
    if rows_may_differ:
        return len(one.shape) == len(other.shape) >= 1 and columns_of(one) == columns_of(other)
    return one.shape == other.shape


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a scalar"


def _exact_pattern(name: str) -> str:
    return f"^{expression_of(name[:MOST_OF_A_NAME])}{'$' if len(name) <= MOST_OF_A_NAME else ''}"


def _found(patterns: Sequence[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def ties_of(checkpoint: Checkpoint) -> Ties:
    """Which names of a checkpoint hold one weight, as its config has it."""
    return Ties(is_tied(checkpoint.config), kind_of(checkpoint.config), checkpoint.tensors)
