"""Adapters on parts of tensors: on single experts, if base or target stores all experts in one tensor.

In the target's spelling, the base's fused tensors are views of those that it stores, and an adapter names these; or the
base stores them fused, and the adapter was trained by a version that had them separate. The changes to parts are
combined into a change to the whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from tuneport.checkpoint.adapter import AdapterChange, LowRank, Stacked
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.views import UnviewableError, stored_name
from tuneport.checkpoint.weights import StoredTensor
from tuneport.files.printable import quoted
from tuneport.pairing.adapters.adapted_parameters import leaves
from tuneport.pairing.spelling_rules import rules_of
from tuneport.pairing.spelling_search import names_onto


@dataclass(frozen=True)
class _PartOfFused:
    """A stored tensor that lies in another: in which, and at which of its elements it begins, if there in one piece."""

    whole: str
    tensor: StoredTensor
    begins: int | None


def put_together(
    named: Mapping[str, AdapterChange], shapes: Mapping[str, tuple[int, ...] | None], base: Checkpoint
) -> dict[str, AdapterChange] | None:
    """Changes by the base's names, where parts of its tensors explain them all; else None.

    ``shapes`` are those of the weights that are changed, by name. Raises `UnviewableError` where a part lies in its whole so
    that a product cannot be followed.
    """
    for parts in (_stored(base), _cut(base)):
        found = names_onto(shapes, base.config, {name: part.tensor for name, part in parts.items()})
        if found is None or not all(name in parts for name in found.values()):
            continue
        changes: dict[str, AdapterChange] = {}
        inside: dict[str, dict[str, AdapterChange]] = {}
        for name, change in named.items():
            part = parts[found[name]]
            if part.begins == 0 and part.tensor.elements == base.tensors[part.whole].elements:
                changes[part.whole] = change
            else:
                inside.setdefault(part.whole, {})[found[name]] = change
        for whole, own in inside.items():
            changes[whole] = _together(base.tensors[whole], {n: p for n, p in parts.items() if p.whole == whole}, own)
        return changes
    return None


def _stored(base: Checkpoint) -> dict[str, _PartOfFused]:
    """What the base stores, of which its tensors here are made; without what lies in several."""
    parts: dict[str, _PartOfFused] = {}
    twice: set[str] = set()
    for name, tensor in base.tensors.items():
        dimensions = tuple(range(len(tensor.shape)))
        with suppress(UnviewableError):
            for leaf, begins, of in leaves(tensor, (0,) * len(tensor.shape), dimensions):
                stored = stored_name(leaf)
                twice |= {stored} & parts.keys()
                parts[stored] = _PartOfFused(name, leaf, _begin(tensor, leaf, begins, of))
    return {stored: part for stored, part in parts.items() if stored not in twice}


def _cut(base: Checkpoint) -> dict[str, _PartOfFused]:
    """What the base's tensors are cut into where its kind is saved with experts apart."""
    rules = rules_of(base.config)
    parts: dict[str, _PartOfFused] = {}
    if rules is not None and all(tensor.view is None for tensor in base.tensors.values()):
        with suppress(UnviewableError):
            for name, tensor in rules.saved(base.tensors, {}).items():
                whole = base.tensors.get(stored_name(tensor))
                if whole is not None and tensor.in_one_piece:
                    parts[name] = _PartOfFused(
                        whole.name, tensor, (tensor.offset - whole.offset) // DTYPES[whole.dtype].itemsize
                    )
    return parts


def _begin(whole: StoredTensor, leaf: StoredTensor, begins: tuple[int, ...], of: tuple[int, ...]) -> int | None:
    """The element at which a leaf begins; None where its elements do not lie one after another."""
    sizes = [1] * len(whole.shape)
    for dimension, size in zip(of, leaf.shape, strict=True):
        sizes[dimension] = size
    widths = [math.prod(whole.shape[dimension + 1 :]) for dimension in range(len(whole.shape))]
    cut = [dimension for dimension, size in enumerate(sizes) if size != whole.shape[dimension]]
    if any(size > 1 for size in sizes[: max(cut, default=0)]):
        return None
    return sum(begin * width for begin, width in zip(begins, widths, strict=True))


def _together(
    whole: StoredTensor, parts: Mapping[str, _PartOfFused], changes: Mapping[str, AdapterChange]
) -> AdapterChange:
    """The change of a tensor from those of its parts, which all are of one shape."""
    shapes = {part.tensor.shape for part in parts.values()}
    places = {part.begins: name for name, part in parts.items()}
    products: list[LowRank | None] = []
    for begin in range(0, whole.elements, parts[next(iter(parts))].tensor.elements):
        name = places.get(begin)
        change = changes.get(name, AdapterChange()) if name is not None else None
        if change is None or len(shapes) > 1 or change.whole or change.rows or isinstance(change.low_rank, Stacked):
            raise UnviewableError(
                f"{quoted(whole.name)} combines {quoted(next(iter(parts)))} with others, but not row by row"
            )
        if change.low_rank is not None and change.low_rank.shape not in shapes:
            raise UnviewableError(f"{quoted(name)} does not have the shape of the adapter's product")
        products.append(change.low_rank)
    factors = tuple(factor for product in products if product is not None for factor in product.factors)
    return AdapterChange(low_rank=Stacked(tuple(products), whole.shape, factors))
