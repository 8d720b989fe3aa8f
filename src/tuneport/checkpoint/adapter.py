"""Read a PEFT adapter: what its file changes, module by module.

Makes one `AdapterChange` for each weight from the tensors of adapter_model.safetensors and the adapter's config:
low-rank factors with their scaling, a full tensor, or trained rows. The base is not needed yet. Every tensor of the
file is accounted for; all that do not fit are reported together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tuneport.checkpoint.adapter_config import AdapterConfig
from tuneport.checkpoint.adapter_names import Kind, read_names
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import CheckpointError, listing
from tuneport.files.printable import quoted

_FACTORS: frozenset[Kind] = frozenset({"A", "B", "embedding A", "embedding B"})


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
    def factors(self) -> tuple[StoredTensor, ...]:
        """The adapter's tensors that it is made of."""
        return self.a, self.b

    @property
    def rank(self) -> int:
        """The rank of the product."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight."""
        return (self.a.shape[1], self.b.shape[0]) if self.transposed else (self.b.shape[0], self.a.shape[1])


@dataclass(frozen=True)
class Stacked:
    """Products of the same size, one after another: of experts stored in one tensor. None: that part is not trained.

    ``shape`` is the weight's; ``factors`` are the adapter's tensors, of which each product has a part or the whole.
    """

    products: tuple[LowRank | None, ...]
    shape: tuple[int, ...]
    factors: tuple[StoredTensor, ...]

    @property
    def trained(self) -> tuple[LowRank, ...]:
        """The products that are there."""
        return tuple(product for product in self.products if product is not None)

    @property
    def rank(self) -> int:
        """The highest rank of a product."""
        return max(product.rank for product in self.trained)

    @property
    def scaling(self) -> float:
        """The scaling of the first product."""
        return self.trained[0].scaling


@dataclass(frozen=True)
class Factors:
    """The two factors of an adapter on a parameter: those of several experts lie one beside the other."""

    a: StoredTensor
    b: StoredTensor


@dataclass(frozen=True)
class TrainedRows:
    """Rows that replace the base's: row ``ids[i]`` of the weight is row i of ``tensor``."""

    tensor: StoredTensor
    ids: tuple[int, ...]


@dataclass(frozen=True)
class AdapterChange:
    """What an adapter does to one weight: nothing at all, if all three are None.

    ``whole`` replaces it; ``low_rank`` is added to it (or to ``whole``); ``rows`` replace some of its rows.
    """

    whole: StoredTensor | None = None
    low_rank: LowRank | Stacked | None = None
    rows: TrainedRows | None = None

    @property
    def is_none(self) -> bool:
        """Whether the adapter does not train this weight."""
        return self.whole is None and self.low_rank is None and self.rows is None

    @property
    def sources(self) -> tuple[StoredTensor, ...]:
        """The adapter's tensors that it is made of."""
        factors = self.low_rank.factors if self.low_rank else ()
        return tuple(t for t in (self.whole, *factors, self.rows.tensor if self.rows else None) if t is not None)

    def __str__(self) -> str:
        """What the manifest says of it."""
        parts = ["saved as a whole"] if self.whole else []
        if self.low_rank:
            experts = f" for each of {len(self.low_rank.trained)}" if isinstance(self.low_rank, Stacked) else ""
            parts.append(f"low-rank, r={self.low_rank.rank}, scaling={self.low_rank.scaling:g}{experts}")
        if self.rows:
            parts.append(f"{len(self.rows.ids)} trained tokens")
        return "; ".join(parts) or "the adapter does not train it"


UNTRAINED = AdapterChange()


@dataclass(frozen=True)
class Alike:
    """Two tensors of an adapter that must be equal; ``transposed``: rows of one are columns of the other.

    ``copies``: they are one matrix of one weight, written twice; else those of two weights that are tied.
    """

    one: StoredTensor
    other: StoredTensor
    transposed: bool = False
    copies: bool = False

    @property
    def fits(self) -> bool:
        """Whether dtypes and shapes agree."""
        shape = self.other.shape[::-1] if self.transposed else self.other.shape
        return self.one.dtype == self.other.dtype and self.one.shape == shape


@dataclass(frozen=True)
class Trained:
    """What an adapter's file does: a `AdapterChange` for each weight, by the name peft gives it.

    ``alike`` are tensors that were written twice and must be equal. ``parameters`` are factors by module, the outermost
    first: which parameters of the module they are for, or whether they are its weight's, only the base can tell.
    """

    changes: Mapping[str, AdapterChange]
    alike: tuple[Alike, ...] = ()
    parameters: Mapping[str, tuple[Factors, ...]] = field(default_factory=dict)


def read_changes(tensors: Mapping[str, StoredTensor], config: AdapterConfig, where: str) -> Trained:
    """What the adapter does to each weight. Raises `CheckpointError` with everything that does not fit together."""
    parts, faults = read_names(tensors)
    faults += [
        f"{quoted(n)} is {t.dtype}, not a float dtype" for n, t in tensors.items() if DTYPES[t.dtype].kind != "float"
    ]
    by_weight: dict[str, dict[Kind, StoredTensor]] = {}
    by_module: dict[str, dict[int, dict[Kind, StoredTensor]]] = {}
    for name, part in parts.items():
        of_parameter = part.kind in ("A", "B") and (part.depth or config.parameters_of(part.module))
        if of_parameter:
            found = by_module.setdefault(part.module, {}).setdefault(part.depth, {})
        else:
            found = by_weight.setdefault(part.weight, {})
        if part.kind in found:
            faults.append(f"{quoted(name)}: the weight of {quoted(part.module)} is saved twice")
        found[part.kind] = tensors[name]
    parameters = {module: _levels(module, levels, config, faults) for module, levels in sorted(by_module.items())}
    modules = {part.weight: part.module for part in parts.values()}
    adapted = sorted(modules[weight] for weight, found in by_weight.items() if found.keys() & _FACTORS)
    scalings = config.scalings(adapted, where)
    changes: dict[str, AdapterChange] = {}
    alike: list[Alike] = []
    for weight, found in by_weight.items():
        whole, copies = _whole(weight, found, faults)
        change, module = AdapterChange(whole), modules[weight]
        if found.keys() & _FACTORS:
            change = replace(change, low_rank=_low_rank(module, found, *scalings[module], faults))
        if "rows" in found:
            change = replace(change, rows=_rows(module, found["rows"], config, faults))
            if found.keys() & _FACTORS:
                faults.append(f"{quoted(module)} has both LoRA factors and trained tokens")
        changes[weight] = change
        alike += copies
    if not changes and not parameters and not faults:
        faults.append("it holds no tensors")
    if config.biases and not any(part.leaf == "bias" for part in parts.values()):
        faults.append("its config says that biases were trained (`bias`), but the file contains none")
    if faults:
        raise CheckpointError(f"{where}: the adapter's tensors do not fit together:{listing(sorted(faults))}")
    return Trained(dict(sorted(changes.items())), tuple(alike), parameters)


def _whole(
    weight: str, found: Mapping[Kind, StoredTensor], faults: list[str]
) -> tuple[StoredTensor | None, list[Alike]]:
    """The tensor that replaces a weight.

    Where a matrix was resized, peft writes a saved module three times: under its own name, as the copy that was trained
    (the same numbers) and as the original, which is ignored.
    """
    plain, saved, whole = found.get("plain"), found.get("saved"), found.get("whole")
    if "original" in found and plain is None and saved is None:
        faults.append(f"{quoted(weight)}: the file contains its original but not its trained copy")
    if plain is not None and found.keys() - {"plain", "saved", "original"}:
        faults.append(f"{quoted(weight)} is saved in full and is also changed by an adapter")
    if saved is not None and whole is not None:
        faults.append(f"{quoted(weight)} is saved twice, as a trained copy and as the layer under an adapter")
    if plain is None or saved is None:
        return plain or saved or whole, []
    both = Alike(plain, saved, copies=True)
    if not both.fits:
        faults.append(f"{quoted(weight)} is saved twice, in two shapes or dtypes")
    return plain, [both]


def _levels(
    module: str, levels: Mapping[int, Mapping[Kind, StoredTensor]], config: AdapterConfig, faults: list[str]
) -> tuple[Factors, ...]:
    """The factors that peft put around one module, for one parameter after another."""
    if sorted(levels) != list(range(len(levels))) or len(levels) > max(len(config.parameters_of(module)), 1):
        faults.append(f"{quoted(module)}: the config's `target_parameters` do not say what its factors are for")
        return ()
    found = []
    for _, kinds in sorted(levels.items()):
        if (factors := _factors(module, kinds, faults)) is not None:
            found.append(Factors(*factors))
    return tuple(found)


def _low_rank(
    module: str, found: Mapping[Kind, StoredTensor], rank: int, scaling: float, faults: list[str]
) -> LowRank | None:
    factors = _factors(module, found, faults)
    if factors is None:
        return None
    if factors[0].shape[0] != rank:
        faults.append(f"{quoted(module)} has rank {factors[0].shape[0]}, the config says {rank}")
    return LowRank(*factors, scaling, transposed="embedding A" in found)


def _factors(
    module: str, found: Mapping[Kind, StoredTensor], faults: list[str]
) -> tuple[StoredTensor, StoredTensor] | None:
    kinds = found.keys() & _FACTORS
    embedding = kinds == {"embedding A", "embedding B"}
    if not embedding and kinds != {"A", "B"}:
        faults.append(f"{quoted(module)} has LoRA {' and '.join(sorted(kinds))}, but A and B belong together")
        return None
    a, b = (found["embedding A"], found["embedding B"]) if embedding else (found["A"], found["B"])
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or 0 in (*a.shape, *b.shape):
        times = " and ".join("×".join(map(str, tensor.shape)) for tensor in (a, b))
        more = "; LoRA on convolutions is not read" if len(a.shape) > 2 else ""
        faults.append(f"{quoted(module)}: A and B are {times}, not rank×inputs and outputs×rank{more}")
        return None
    return a, b


def _rows(module: str, tensor: StoredTensor, config: AdapterConfig, faults: list[str]) -> TrainedRows | None:
    ids = next((ids for name, ids in config.token_ids.items() if module == name or module.endswith(f".{name}")), None)
    if ids is None:  # a list without names is the input embedding's; a head that is tied to it has the same
        ids = config.token_ids.get("")
        ids = next(iter(config.token_ids.values())) if ids is None and len(config.token_ids) == 1 else ids
    if ids is None:
        faults.append(f"{quoted(module)} has trained tokens, but `trainable_token_indices` does not say which")
        return None
    if len(tensor.shape) != 2 or tensor.shape[0] != len(ids):
        shape = "×".join(map(str, tensor.shape))
        faults.append(f"{quoted(module)}: the rows of trained tokens are {shape}, the config names {len(ids)} tokens")
        return None
    return TrainedRows(tensor, ids)
