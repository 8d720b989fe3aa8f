"""What an adapter adds to one tensor, as terms of a sum or of a stored difference.

Terms are: the fully saved weight minus the base's, the low-rank product added to it, trained rows minus the base's, and
the source of the rows of new tokens. The base is read only where a full tensor or trained rows replace it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuneport.checkpoint.floats import working_dtype
from tuneport.engine.pieces import PARENTS, DifferenceRecipe, Product, RawRows, Roles, Source, Term
from tuneport.pairing.account import ParentPair
from tuneport.pairing.rows import runs_of
from tuneport.pairing.vocabulary import RowMap

Ids = NDArray[np.int64]
NONE = -1


@dataclass(frozen=True)
class Stored:
    """How a diff vector keeps what an adapter did to a tensor.

    ``difference`` is None where nothing was trained; it holds the rows ``ids`` of the base, or all of them. ``raw`` are
    the rows of tokens that the base lacks: where each comes from, and its id in the tuned tokenizer.
    """

    difference: DifferenceRecipe | None
    shape: tuple[int, ...]
    ids: tuple[int, ...] | None
    raw: tuple[tuple[RawRows, int], ...]
    raw_ids: tuple[int, ...]


def adapted_terms(
    pair: ParentPair, scale: float, rows: RowMap | None, columns: int, roles: Roles = PARENTS
) -> tuple[Term, ...]:
    """The terms of a target's tensor; ``rows`` where rows of a vocabulary matrix are matched, else all in order."""
    change = pair.change
    assert change is not None
    base, whole, product, own = _parts(pair, roles)
    minus = base if whole is not None else None
    if rows is None:
        assert change.rows is None
        return (Term(whole, minus, scale, None, None, product),)
    matched = (rows.target >= 0) & (rows.base >= 0) & (rows.tuned >= 0)
    fresh = (rows.target < 0) & (rows.tuned >= 0)
    trained = _positions(pair, rows.tuned)
    has_rest = whole is not None or product is not None
    plus = np.where(matched & (trained < 0) & has_rest, rows.tuned, NONE)
    raw = np.where(fresh & (trained < 0), rows.tuned, NONE)
    rest = Term(whole, minus, scale, runs_of(rows.target, rows.base, plus, raw, columns), own, product)
    if change.rows is None:
        return (rest,)
    source = Source(roles.tuned, change.rows.tensor)
    plus, raw = np.where(matched, trained, NONE), np.where(fresh, trained, NONE)
    runs = runs_of(rows.target, np.where(plus >= 0, rows.base, NONE), plus, raw, columns)
    return Term(source, base, scale, runs, RawRows(source, None, pair.tuned.dtype)), rest


def stored(pair: ParentPair, rows: RowMap | None, columns: int) -> Stored:
    """What a diff vector keeps of a tensor; ``rows`` match base and tuned with the base itself as the target."""
    change = pair.change
    assert change is not None
    work = working_dtype(pair.base.dtype, pair.tuned.dtype)
    if rows is None:
        terms = () if change.is_none else adapted_terms(pair, 1.0, None, columns)
        return Stored(DifferenceRecipe(pair.name, terms, work) if terms else None, pair.base.shape, None, (), ())
    count = pair.base.shape[0]
    base, tuned = rows.base[:count], np.where(rows.base[:count] >= 0, rows.tuned[:count], NONE)
    raw_ids = rows.tuned[(rows.target < 0) & (rows.tuned >= 0)]
    raw = _raw(pair, raw_ids)
    told = tuple(raw_ids.tolist())
    if change.is_none:
        return Stored(None, pair.base.shape, None, raw, told)
    if change.rows is not None and change.whole is None:
        positions = _positions(pair, tuned)
        ids = np.flatnonzero(positions >= 0)
        places = np.arange(len(ids), dtype=np.int64)
        runs = runs_of(places, base[ids], positions[ids], np.full(len(ids), NONE), columns)
        term = Term(Source("tuned", change.rows.tensor), Source("base", pair.base), 1.0, runs)
        return Stored(
            DifferenceRecipe(pair.name, (term,), work) if len(ids) else None,
            (len(ids), *pair.base.shape[1:]),
            tuple(ids.tolist()) if len(ids) else None,
            raw,
            told,
        )
    terms = adapted_terms(pair, 1.0, RowMap(count, base, base, tuned), columns)
    return Stored(DifferenceRecipe(pair.name, terms, work), pair.base.shape, None, raw, told)


def _parts(pair: ParentPair, roles: Roles = PARENTS) -> tuple[Source, Source | None, Product | None, RawRows]:
    """The base, the weight saved as a whole, the product, and the tuned model's own rows."""
    change = pair.change
    assert change is not None
    base = Source(roles.base, pair.base)
    whole = Source(roles.tuned, change.whole) if change.whole is not None else None
    product = Product(roles.tuned, change.low_rank) if change.low_rank is not None else None
    return base, whole, product, RawRows(whole or base, product, pair.tuned.dtype)


def _positions(pair: ParentPair, tuned: Ids) -> Ids:
    """For each row of the tuned model its place among the trained rows, or -1."""
    place: NDArray[Any] = np.full(pair.tuned.shape[0] + 1, NONE, np.int64)
    if pair.change is not None and pair.change.rows is not None:
        ids = np.array(pair.change.rows.ids, np.int64)
        place[ids] = np.arange(len(ids))
    return place[tuned]  # -1 finds the last entry, which is none


def _raw(pair: ParentPair, ids: Ids) -> tuple[tuple[RawRows, int], ...]:
    own = _parts(pair)[3]
    rows = pair.change.rows if pair.change is not None else None
    trained = RawRows(Source("tuned", rows.tensor), None, pair.tuned.dtype) if rows is not None else own
    places = _positions(pair, ids).tolist()
    return tuple((own, id) if place < 0 else (trained, place) for id, place in zip(ids.tolist(), places, strict=True))
