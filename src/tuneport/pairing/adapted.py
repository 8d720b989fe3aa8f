"""An adapter laid onto its base: the tuned model that the two of them are.

In come a PEFT adapter and the base it is given with, out comes an `Adapted`: the tuned model's tensors by the base's names,
and what the adapter does to each. Nothing is merged; a tensor that the adapter does not train is the base's own. The promise:
every module of the adapter has found its weight, and fits it, or all that have not are told at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from tuneport.checkpoint.adapter import Change, LowRank, module_changes
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.open import HUB_ID, Checkpoint
from tuneport.checkpoint.sidecars import Decision
from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import PairingError, listing
from tuneport.pairing.tensors import EMBEDDING, check_readable, is_head_weight, is_vocabulary

# transformers' Conv1D, which stores a weight as inputs×outputs, is what these models are made of.
_TRANSPOSED_MODELS = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})


@dataclass(frozen=True)
class Adapted:
    """The tuned model that base and adapter are. ``alike`` are tensors of the adapter that must hold the same."""

    model: Checkpoint
    changes: Mapping[str, Change]
    alike: tuple[tuple[StoredTensor, StoredTensor], ...] = ()
    decisions: tuple[Decision, ...] = ()
    warnings: tuple[str, ...] = field(default=())


def lay_onto(adapter: Checkpoint, base: Checkpoint, tied: bool, target: Checkpoint | None = None) -> Adapted:
    """The tuned model of an adapter and its base; ``tied``: head and embedding of the base are one.

    Raises `CheckpointError` or `PairingError` with everything that does not fit.
    """
    assert adapter.adapter is not None
    where = f"{adapter.role} {adapter.label}"
    check_readable(base)
    named = module_changes(adapter.tensors, adapter.adapter, where)
    changes, faults = _by_base_name(named, base)
    changes, alike, more = _untied(changes, tied, adapter.adapter.tied)
    faults += more
    found: dict[str, Change] = {}
    tensors = dict(base.tensors)
    for name, change in changes.items():
        fitting = _fitting(name, change, base, adapter.adapter.transposed, faults)
        found[name], tensors[name] = fitting, _tuned_tensor(name, fitting, base.tensors.get(name))
    if faults:
        raise PairingError(f"{where} does not fit its base {base.label}:{listing(sorted(faults))}")
    model = replace(adapter, adapter=None, tensors=dict(sorted(tensors.items())), config=base.config, behind=base.path)
    return Adapted(model, found, tuple(alike), tuple(_decisions(model, adapter)), tuple(_doubts(adapter, base, target)))


def _by_base_name(named: Mapping[str, Change], base: Checkpoint) -> tuple[dict[str, Change], list[str]]:
    """Changes by the base's names: a prefix that either side has throughout (GPT-2's ``transformer.``) is bridged."""
    renamings = [lambda name: name]
    for prefix in sorted({name.partition(".")[0] + "." for name in named if "." in name}):
        renamings.append(lambda name, prefix=prefix: name.removeprefix(prefix))
    for prefix in sorted({name.partition(".")[0] + "." for name in base.tensors if "." in name}):
        renamings.append(lambda name, prefix=prefix: prefix + name)
    best = max(renamings, key=lambda rename: sum(rename(name) in base.tensors for name in named))
    faults = [
        f"`{name}` is changed by the adapter, and the base has no such tensor"
        for name, change in named.items()
        if best(name) not in base.tensors and (change.low_rank is not None or change.rows is not None)
    ]
    return {best(name): change for name, change in named.items()}, faults


def _untied(
    changes: Mapping[str, Change], tied: bool, kept_tied: bool
) -> tuple[dict[str, Change], list[tuple[StoredTensor, StoredTensor]], list[str]]:
    """In a tied model head and embedding are one weight: the head's change must be the embedding's, told once.

    peft ties trained tokens by itself, adds an embedding's product to both when it merges, and ties the rest where
    ``ensure_weight_tying`` was set; else the head went its own way, and base and tuned model are no longer of one kind.
    """
    heads = [name for name in changes if is_head_weight(name)]
    embeddings = [name for name in changes if EMBEDDING.search(name)]
    if not tied or not (heads or embeddings):
        return dict(changes), [], []
    if len(heads) > 1 or len(embeddings) > 1:
        return dict(changes), [], [f"several heads or embeddings are changed: {', '.join([*heads, *embeddings])}"]
    apart = (
        "the base's config ties head and embedding, and the adapter trains {} apart, so the two are one no longer. Merge it "
        "with peft (merge_and_unload().save_pretrained(…)) onto a base without `tie_word_embeddings`, and give both."
    )
    if not embeddings:
        return dict(changes), [], [f"`{heads[0]}`: {apart.format('the head')}"]
    embedding = changes[embeddings[0]]
    if not heads:
        alone = embedding.whole is not None and embedding.low_rank is None and embedding.rows is None
        faults = [f"`{embeddings[0]}`: {apart.format('the embedding')}"] if alone and not kept_tied else []
        return dict(changes), [], faults
    head = changes[heads[0]]
    pairs = [(embedding.whole, head.whole)]
    pairs.append((embedding.rows and embedding.rows.tensor, head.rows and head.rows.tensor))
    same = all((one is None) == (other is None) for one, other in pairs)
    same = same and (embedding.low_rank is None) == (head.low_rank is None)
    if not same or (embedding.low_rank is not None and not kept_tied):
        return dict(changes), [], [f"`{heads[0]}`: {apart.format('the head')}"]
    alike = [(one, other) for one, other in pairs if one is not None and other is not None]
    return {name: change for name, change in changes.items() if name != heads[0]}, alike, []


def _fitting(name: str, change: Change, base: Checkpoint, transposed: bool, faults: list[str]) -> Change:
    """The change of one tensor, its product turned the way the weight is stored; what does not fit goes to ``faults``."""
    whole, low_rank, rows = change.whole, change.low_rank, change.rows
    stored = whole or base.tensors.get(name)
    if stored is None:
        return Change(whole, low_rank, rows)  # told before: the base has no such tensor
    if DTYPES[stored.dtype].kind != "float" and not (whole and low_rank is None):
        faults.append(f"`{name}` is {stored.dtype} in the base, and no float")
    shape = "×".join(map(str, stored.shape))
    if low_rank is not None:
        low_rank = _turned(low_rank, name, stored.shape, transposed, base)
        if low_rank.shape != stored.shape:
            product = "×".join(map(str, low_rank.shape))
            faults.append(f"`{name}` is {shape}, the adapter's product B·A for it {product}")
    if rows is not None and (len(stored.shape) != 2 or rows.tensor.shape[1] != stored.shape[1]):
        faults.append(f"`{name}` is {shape}, the adapter's trained rows for it have {rows.tensor.shape[1]} columns")
    elif rows is not None and max(rows.ids, default=0) >= stored.shape[0]:
        faults.append(f"`{name}` has {stored.shape[0]} rows, the adapter trains token {max(rows.ids)}")
    return Change(whole, low_rank, rows)


def _turned(low_rank: LowRank, name: str, shape: tuple[int, ...], transposed: bool, base: Checkpoint) -> LowRank:
    """The product as the weight is stored. Where the shape does not tell (a square), the kind of model does."""
    if low_rank.transposed:
        return low_rank  # an embedding
    turned = replace(low_rank, transposed=True)
    if low_rank.shape == shape != turned.shape or turned.shape != shape:
        return low_rank
    if low_rank.shape != shape:
        return turned
    of_conv1d = base.config.get("model_type") in _TRANSPOSED_MODELS
    return turned if (of_conv1d or transposed) and not is_vocabulary(name) else low_rank


def _tuned_tensor(name: str, change: Change, base: StoredTensor | None) -> StoredTensor:
    """The tuned model's tensor as its header would tell it; its bytes lie nowhere, unless it was saved as a whole."""
    stored = change.whole or base
    if stored is None:
        stored = change.sources[0]
    if not change.whole and any(source.dtype == "F64" for source in change.sources):
        stored = replace(stored, dtype="F64", nbytes=stored.elements * 8)
    return replace(stored, name=name)


def _decisions(model: Checkpoint, adapter: Checkpoint) -> Iterable[Decision]:
    own = model.sidecars.has_tokenizer_of_its_own
    yield Decision(
        "adapter.tokenizer",
        "the adapter's" if own else "the base's",
        "its folder holds tokenizer files" if own else "its folder holds no tokenizer files",
    )
    yield Decision("adapter.config", "the base's", "an adapter has no config of its own")
    named = adapter.adapter.base_model if adapter.adapter else None
    if named:
        yield Decision("adapter.base_model", _told(named), "the base that its adapter_config.json names")


def _doubts(adapter: Checkpoint, base: Checkpoint, target: Checkpoint | None) -> Iterable[str]:
    """The base that adapter_config.json names should be the one that is given, not the target."""
    named = adapter.adapter.base_model if adapter.adapter else None
    if named is None or target is None or _is_named(target, base):
        return
    if _is_called(target, named) and not _is_called(base, named):
        yield (
            f"base and target look swapped: the adapter says that it was trained on {_told(named)}, which is the name of "
            f"the target ({target.label}), not of the base ({base.label})."
        )
    elif base.hub_id and "/" in named and not named.startswith(("/", ".", "~")) and not _is_called(base, named):
        yield (
            f"the adapter says that it was trained on {_told(named)}, and the base given is {base.label}. Its difference "
            "means nothing on another base, unless the two hold the same weights."
        )


def _is_called(checkpoint: Checkpoint, named: str) -> bool:
    own = checkpoint.hub_id or checkpoint.label
    return _last(named).casefold() == _last(own).casefold()


def _is_named(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two models cannot be told apart by name."""
    return _is_called(one, other.hub_id or other.label)


def _last(name: str) -> str:
    """What a path or a Hub id ends with."""
    return name.rstrip("/").rpartition("/")[2]


def _told(name: str) -> str:
    """A Hub id as it stands; of a path on the machine that trained the adapter its last part."""
    return name if HUB_ID.fullmatch(name) else _last(name)
