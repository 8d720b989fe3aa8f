"""A PEFT adapter: what its file says it does, module by module.

In come the tensors of adapter_model.safetensors and the adapter's config, out comes one `Change` for each weight:
low-rank factors with their scaling, a whole tensor, or trained rows. Nothing is known of the base yet. The promise:
every tensor in the file is accounted for, or all that is not is told at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tuneport.checkpoint.adapter_config import AdapterConfig
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import CheckpointError, listing

PREFIX = "base_model.model."
# What peft writes behind a module's name, and what it is. A module saved as a whole keeps the names it has anyway.
_KINDS = (
    (re.compile(r"\.lora_A\.weight$"), "A"),
    (re.compile(r"\.lora_B\.weight$"), "B"),
    (re.compile(r"\.lora_embedding_A$"), "embedding A"),
    (re.compile(r"\.lora_embedding_B$"), "embedding B"),
    (re.compile(r"(\.token_adapter)?\.base_layer\.weight$"), "whole"),
    (re.compile(r"\.token_adapter\.trainable_tokens_delta$"), "rows"),
)
# What peft writes for adapters of other kinds: never the name of a weight.
_FOREIGN = re.compile(r"\.(lora_\w+|base_layer|token_adapter|modules_to_save|original_module)(\.|$)")


@dataclass(frozen=True)
class LowRank:
    """Δ = scaling·B·A, with A of rank×inputs and B of outputs×rank.

    ``transposed``: the weight is stored as inputs×outputs. An embedding's A has one column for each token and its weight
    one row for each: it is always transposed.
    """

    a: StoredTensor
    b: StoredTensor
    scaling: float
    transposed: bool = False

    @property
    def rank(self) -> int:
        """The rank of the product."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight."""
        return (self.a.shape[1], self.b.shape[0]) if self.transposed else (self.b.shape[0], self.a.shape[1])


@dataclass(frozen=True)
class TrainedRows:
    """Rows that take the place of the base's: row ``ids[i]`` of the weight is row i of ``tensor``."""

    tensor: StoredTensor
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """What an adapter does to one weight: nothing at all, if all three are None.

    ``whole`` takes its place; ``low_rank`` is added to it (or to ``whole``); ``rows`` replace some of its rows.
    """

    whole: StoredTensor | None = None
    low_rank: LowRank | None = None
    rows: TrainedRows | None = None

    @property
    def is_none(self) -> bool:
        """Whether the adapter does not train this weight."""
        return self.whole is None and self.low_rank is None and self.rows is None

    @property
    def sources(self) -> tuple[StoredTensor, ...]:
        """The adapter's tensors that it is made of."""
        factors = (self.low_rank.a, self.low_rank.b) if self.low_rank else ()
        return tuple(t for t in (self.whole, *factors, self.rows.tensor if self.rows else None) if t is not None)

    def __str__(self) -> str:
        """What the manifest says of it."""
        parts = ["saved as a whole"] if self.whole else []
        if self.low_rank:
            parts.append(f"low-rank, r={self.low_rank.rank}, scaling={self.low_rank.scaling:g}")
        if self.rows:
            parts.append(f"{len(self.rows.ids)} trained tokens")
        return "; ".join(parts) or "the adapter does not train it"


UNTRAINED = Change()


@dataclass(frozen=True)
class Alike:
    """Two tensors of an adapter that must hold the same; ``transposed``: rows of one are columns of the other."""

    one: StoredTensor
    other: StoredTensor
    transposed: bool = False

    @property
    def fits(self) -> bool:
        """Whether dtypes and shapes agree."""
        shape = self.other.shape[::-1] if self.transposed else self.other.shape
        return self.one.dtype == self.other.dtype and self.one.shape == shape


def module_changes(tensors: Mapping[str, StoredTensor], config: AdapterConfig, where: str) -> dict[str, Change]:
    """What the adapter does to each weight, by the name peft gives it.

    Raises `CheckpointError` that lists all that does not fit together.
    """
    parts, faults = _parts(tensors)
    changes: dict[str, Change] = {}
    low_rank = sorted(module for module, found in parts.items() if found.keys() - {"whole", "rows"})
    scalings = config.scalings(low_rank, where)
    for module, found in parts.items():
        change = Change(found.get("whole"))
        if module in scalings:
            factors = _low_rank(module, found, *scalings[module], faults)
            change = replace(change, low_rank=factors)
        if "rows" in found:
            rows = _rows(module, found["rows"], config, faults)
            change = replace(change, rows=rows)
            if module in scalings:
                faults.append(f"`{module}` has both LoRA factors and trained tokens")
        changes[f"{module}.weight"] = change
    wholes = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if _kind(name) is None}
    for name, tensor in wholes.items():
        if name in changes:
            faults.append(f"`{name}` is saved as a whole, and changed in another way as well")
        changes[name] = Change(whole=tensor)
    if not changes and not faults:
        faults.append("it holds no tensors")
    if faults:
        raise CheckpointError(f"{where}: the adapter's tensors do not fit together:{listing(sorted(faults))}")
    return dict(sorted(changes.items()))


def _parts(tensors: Mapping[str, StoredTensor]) -> tuple[dict[str, dict[str, StoredTensor]], list[str]]:
    """Tensors by module and kind, and what is wrong with names and dtypes."""
    parts: dict[str, dict[str, StoredTensor]] = {}
    faults = []
    for name, tensor in tensors.items():
        if not name.startswith(PREFIX):
            faults.append(f"`{name}` does not begin with `{PREFIX}`, as peft's names do")
            continue
        if DTYPES[tensor.dtype].kind != "float":
            faults.append(f"`{name}` is {tensor.dtype}, not a float dtype")
        kind = _kind(name)
        if kind is None:
            if _FOREIGN.search(name):
                faults.append(f"`{name}` belongs to a kind of adapter that tuneport does not read")
            continue
        module = name.removeprefix(PREFIX)[: -len(kind[0])]
        if kind[1] in parts.setdefault(module, {}):
            faults.append(f"`{name}`: the weight of `{module}` is saved twice")
        parts[module][kind[1]] = tensor
    return parts, faults


def _kind(name: str) -> tuple[str, str] | None:
    """The end of a name that says what it is, and what that is; None for a tensor under its own name."""
    for end, kind in _KINDS:
        found = end.search(name)
        if found:
            return found.group(), kind
    return None


def _low_rank(
    module: str, found: Mapping[str, StoredTensor], rank: int, scaling: float, faults: list[str]
) -> LowRank | None:
    kinds = found.keys() - {"whole", "rows"}
    embedding = kinds == {"embedding A", "embedding B"}
    if not embedding and kinds != {"A", "B"}:
        faults.append(f"`{module}` has LoRA {' and '.join(sorted(kinds))}, but A and B belong together")
        return None
    a, b = (found["embedding A"], found["embedding B"]) if embedding else (found["A"], found["B"])
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or 0 in (*a.shape, *b.shape):
        times = " and ".join("×".join(map(str, tensor.shape)) for tensor in (a, b))
        more = "; LoRA on convolutions is not read" if len(a.shape) > 2 else ""
        faults.append(f"`{module}`: A and B are {times}, not rank×inputs and outputs×rank{more}")
        return None
    if a.shape[0] != rank:
        faults.append(f"`{module}` has rank {a.shape[0]}, the config says {rank}")
    return LowRank(a, b, scaling, transposed=embedding)


def _rows(module: str, tensor: StoredTensor, config: AdapterConfig, faults: list[str]) -> TrainedRows | None:
    ids = next((ids for name, ids in config.token_ids.items() if module == name or module.endswith(f".{name}")), None)
    if ids is None:  # a list without names is the input embedding's; a head that is tied to it has the same
        ids = config.token_ids.get("")
        ids = next(iter(config.token_ids.values())) if ids is None and len(config.token_ids) == 1 else ids
    if ids is None:
        faults.append(f"`{module}` has trained tokens, but `trainable_token_indices` does not say which")
        return None
    if len(tensor.shape) != 2 or tensor.shape[0] != len(ids):
        shape = "×".join(map(str, tensor.shape))
        faults.append(f"`{module}`: the rows of trained tokens are {shape}, the config names {len(ids)} tokens")
        return None
    return TrainedRows(tensor, ids)
