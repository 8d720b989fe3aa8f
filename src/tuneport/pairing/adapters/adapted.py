"""Apply an adapter to its base: treat both as one tuned model.

An `Adapted` has the tuned model's tensors under the base's names, and what the adapter changes in each. Nothing is
merged; a tensor that the adapter does not train is the base's own. Every module of the adapter must have a weight that
it fits; all that do not are reported together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tuneport.checkpoint.adapter import AdapterChange, Alike, LowRank, Stacked, read_changes
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.views import UnviewableError
from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import PairingError, listing
from tuneport.files.printable import quoted
from tuneport.pairing.adapters.adapted_files import base_decisions, base_doubts, file_decisions, with_an_end
from tuneport.pairing.adapters.adapted_parameters import find_parameters
from tuneport.pairing.adapters.adapted_parts import put_together
from tuneport.pairing.adapters.adapted_ties import tied_products, untied
from tuneport.pairing.name_rules import Rename
from tuneport.pairing.spelling import check_distinct
from tuneport.pairing.spelling_search import names_onto
from tuneport.pairing.tensors import check_readable
from tuneport.pairing.vocabulary import VocabularyMatch
from tuneport.pairing.vocabulary_matrices import Side, find_vocabulary_tensors
from tuneport.pairing.vocabulary_names import Ties, is_commonly_named
from tuneport.sidecars.config_kinds import kind_of
from tuneport.sidecars.merge import Decision

# transformers' Conv1D, which stores a weight as inputs×outputs, is what these models are made of.
TRANSPOSED_MODELS = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})


@dataclass(frozen=True)
class Adapted:
    """The tuned model that base and adapter are. ``alike`` are tensors of the adapter that must be equal."""

    model: Checkpoint
    changes: Mapping[str, AdapterChange] | None
    alike: tuple[Alike, ...] = ()
    decisions: tuple[Decision, ...] = ()
    warnings: tuple[str, ...] = field(default=())


def lay_onto(
    adapter: Checkpoint,
    base: Checkpoint,
    tied: bool,
    target: Checkpoint | None = None,
    renames: Sequence[Rename] = (),
) -> Adapted:
    """The tuned model of an adapter and its base; ``tied``: head and embedding of the base are one.

    ``renames`` are applied to the names of the weights that the adapter changes.

    Raises `CheckpointError` or `PairingError` with everything that does not fit.
    """
    assert adapter.adapter is not None
    where = f"{adapter.role} {adapter.label}"
    check_readable(base)
    read = read_changes(adapter.tensors, adapter.adapter, where)
    parameters = find_parameters(read.parameters, adapter.adapter, base, where)
    named = {**read.changes, **parameters.weights}
    for rename in renames:
        others = {name: rename(name) for name in named}
        check_distinct(others, rename, adapter)
        named = {others[name]: change for name, change in named.items()}
    ties = Ties(tied, kind_of(base.config), base.tensors)
    try:
        by_base_name = _by_base_name(named, base)
    except UnviewableError as error:
        raise PairingError(
            f"{where} changes parts of tensors that cannot be mapped to the stored tensors: {error}. Give a base and "
            f"a target with the tensor names that the adapter was trained on."
        ) from None
    changes, alike, faults = untied(by_base_name, ties, adapter.adapter.tied)
    # A decoder that was half of a model calls the shared weight by another name than its base has stored it.
    stored = {ties.weight(name): name for name in base.tensors if ties.is_shared(name)}
    changes = {
        name if name in base.tensors or not ties.is_shared(name) else stored.get(ties.weight(name), name): change
        for name, change in changes.items()
    }
    by_token = find_vocabulary_tensors([Side.of(base, ties)]).names
    faults += [
        *parameters.faults,
        *(f"{quoted(name)} is changed twice" for name in changes.keys() & parameters.changes),
    ]
    changes |= parameters.changes
    found: dict[str, AdapterChange] = {}
    tensors = dict(base.tensors)
    for name, change in changes.items():
        of_tokens = name in by_token or ties.is_shared(name)
        fitting = _fitting(name, change, base, of_tokens, adapter.adapter.transposed, faults)
        found[name], tensors[name] = fitting, _tuned_tensor(name, fitting, base.tensors.get(name))
    if faults:
        raise PairingError(f"{where} does not fit its base {base.label}:{listing(sorted(faults))}")
    model = replace(
        adapter,
        adapter=None,
        tensors=dict(sorted(tensors.items())),
        config=base.config,
        behind=base.path,
        made=base.made,
    )
    rows = find_vocabulary_tensors([Side(tensors, base.config)]).rows[0] or None
    model, ends, unread = with_an_end(model, base, rows)
    decisions = (*file_decisions(model), *ends, *base_decisions(adapter))
    warnings = (*tied_products(found, ties, adapter.adapter.tied), *unread, *base_doubts(adapter, base, target))
    return Adapted(model, found, (*read.alike, *alike), decisions, warnings)


def check_ids(match: VocabularyMatch, tuned: Checkpoint) -> None:
    """Raise `PairingError` where the adapter's tokenizer gives the base's tokens other ids.

    An adapter's rows change those of the base at the same ids; then they would be rows of other tokens.
    """
    moved = 0 if match.pairs is None else int((match.pairs[:, 1] != match.pairs[:, 2]).sum())
    if moved:
        raise PairingError(
            f"{tuned.role} {tuned.label}: the adapter's tokenizer gives other ids to {moved} tokens of the base, but "
            f"an adapter is trained on the base's ids. Remove the tokenizer files from its folder, or give the base "
            f"that it was trained on."
        )


def _by_base_name(named: Mapping[str, AdapterChange], base: Checkpoint) -> dict[str, AdapterChange]:
    """Changes by the base's names, by the rules of its kind (`spelling_search`).

    Where none finds them all, the prefix (GPT-2's ``transformer.``) that finds most: the others are then reported by
    name. Raises
    `UnviewableError`.
    """
    shapes = {name: _weight_shape(change) for name, change in named.items()}
    found = names_onto(shapes, base.config, base.tensors)
    if found is not None:
        return {found[name]: change for name, change in named.items()}
    whole = put_together(named, shapes, base)
    if whole is not None:
        return whole
    short = [
        ("", ""),
        *((prefix, "") for prefix in _prefixes(named)),
        *(("", prefix) for prefix in _prefixes(base.tensors)),
    ]
    taken, given = max(
        short, key=lambda pair: sum(pair[1] + name.removeprefix(pair[0]) in base.tensors for name in named)
    )
    renamed = {given + name.removeprefix(taken): change for name, change in named.items()}
    return renamed if len(renamed) == len(named) else dict(named)  # two names must not become one


def _weight_shape(change: AdapterChange) -> tuple[int, ...] | None:
    """The shape of the weight that a change is for, as far as it tells: a product may still have to be turned."""
    if change.whole is not None:
        return change.whole.shape
    return change.low_rank.shape if change.low_rank is not None else None


def _prefixes(names: Iterable[str]) -> list[str]:
    """What names begin with, each with its dot."""
    return sorted({name.partition(".")[0] + "." for name in names if "." in name})


def _fitting(
    name: str, change: AdapterChange, base: Checkpoint, by_token: bool, transposed: bool, faults: list[str]
) -> AdapterChange:
    """The change of one tensor, its product turned the way the weight is stored; what does not fit goes to ``faults``."""
    whole, low_rank, rows = change.whole, change.low_rank, change.rows
    stored = whole or base.tensors.get(name)
    if stored is None or (whole is None and name not in base.tensors):
        faults.append(f"{quoted(name)} is changed by the adapter, but the base has no such tensor")
        return change
    if DTYPES[stored.dtype].kind != "float" and not (whole and low_rank is None):
        faults.append(f"{quoted(name)} is {stored.dtype} in the base, which is not a float dtype")
    shape = "×".join(map(str, stored.shape))
    if low_rank is not None:
        if not isinstance(low_rank, Stacked):
            of_conv1d = transposed or base.config.get("model_type") in TRANSPOSED_MODELS
            low_rank = _turned(low_rank, stored.shape, of_conv1d and not (by_token or is_commonly_named(name)))
        if low_rank.shape != stored.shape:
            product = "×".join(map(str, low_rank.shape))
            faults.append(f"{quoted(name)} is {shape}, but the adapter's product B·A is {product}")
    if rows is not None and not (by_token or is_commonly_named(name)):
        faults.append(f"{quoted(name)} has trained tokens, but is not an embedding or head that tuneport knows")
    elif rows is not None and (len(stored.shape) != 2 or rows.tensor.shape[1] != stored.shape[1]):
        faults.append(
            f"{quoted(name)} is {shape}, but the adapter's trained rows for it have {rows.tensor.shape[1]} columns"
        )
    elif rows is not None and max(rows.ids, default=0) >= stored.shape[0]:
        faults.append(f"{quoted(name)} has {stored.shape[0]} rows, but the adapter trains token {max(rows.ids)}")
    return AdapterChange(whole, low_rank, rows)


def _turned(low_rank: LowRank, shape: tuple[int, ...], if_square: bool) -> LowRank:
    """The product as the weight is stored; where the shape does not tell, ``if_square`` does."""
    if low_rank.transposed:
        return low_rank  # an embedding
    turned = replace(low_rank, transposed=True)
    if turned.shape != shape or (low_rank.shape == shape and not if_square):
        return low_rank
    return turned


def _tuned_tensor(name: str, change: AdapterChange, base: StoredTensor | None) -> StoredTensor:
    """The tuned model's tensor as its header would tell it; its bytes lie nowhere, unless it was saved as a whole.

    What a product or trained rows make is kept in the working dtype: it is never rounded to the base's.
    """
    stored = change.whole or base or change.sources[0]
    if change.low_rank is not None or change.rows is not None:
        wide = "F64" if "F64" in {stored.dtype, *(source.dtype for source in change.sources)} else "F32"
        stored = replace(stored, dtype=wide, nbytes=stored.elements * DTYPES[wide].itemsize)
    return replace(stored, name=name)
