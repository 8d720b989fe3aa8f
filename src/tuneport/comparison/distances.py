"""How far apart versions are, how similar their diff vectors are, and what rounding loses of a diff vector.

Norms, cosines and counts over the parameters that all models have, in one pass over their files. Differences are those
that a transfer adds (in the working dtype), sums are float64. Memory does not grow with the model.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuneport.checkpoint import floats
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import FLOAT_SPELLINGS
from tuneport.checkpoint.floats import Floats
from tuneport.checkpoint.open_model import fetched, open_checkpoint
from tuneport.checkpoint.reading import Workspace, reading
from tuneport.comparison.pieces_side_by_side import pieces
from tuneport.comparison.rounding import measure_rounding, rounded
from tuneport.errors import NumericsError, UsageError
from tuneport.options import Options, option
from tuneport.pairing.common_tensors import Shared, share
from tuneport.pairing.tensors import ties_of
from tuneport.public_functions import takes
from tuneport.shown import Found

Spec = str | os.PathLike[str]


def _parse_named(value: object) -> dict[str, Spec]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError("must be a mapping from names to models, such as {'v1': 'org/v1', 'v2': 'org/v2'}")
    return dict(value)


_NAMED_MODELS: Mapping[str, Any] = {
    "positional": True,
    "parse": _parse_named,
    "accepts": "Mapping[str, str | PathLike[str]]",
}


@dataclass(frozen=True, kw_only=True)
class DistancesOptions(Options):
    """The options of `distances`."""

    versions: Mapping[str, Spec] = option(help="folder or Hub id of each version, under its name", **_NAMED_MODELS)
    tuned: Mapping[str, Spec] | None = option(
        None, help="fine-tuned models of some versions, under the same names", **_NAMED_MODELS
    )


class Distances(Found):
    """How far versions lie apart, by key."""

    def heading(self) -> str:
        """One line."""
        return f"distances of {', '.join(self['versions'])}, over {self['parameters']:,} parameters they all have"

    def table(self) -> list[list[str]]:
        """A row for each pair."""
        rows = [["a", "b", "‖a − b‖", "cosine of their Δ"]]
        for pair in self["pairs"]:
            cosine = "–" if pair["cosine"] is None else f"{pair['cosine']:.3f}"
            rows.append([pair["a"], pair["b"], f"{pair['distance']:.4g}", cosine])
        return rows


@takes(DistancesOptions)
def distances(given: DistancesOptions) -> Distances:
    """‖M_i − M_j‖ for every pair of `versions`, ‖Δ_i‖ of those with a `tuned` model, and the cosines of these Δ.

    Folders or Hub ids by name; `tuned` has some of the names of `versions`. Returns `versions` (for each name `norm` and
    `diff_norm`, null where it has no tuned model), `pairs` (`a`, `b`, `distance`, `cosine` of Δ_a and Δ_b or null),
    `parameters` (how many all of them share), `alone` (tensors that one of them lacks) and `tokens` (matched by
    string). Raises `TuneportError`.

        tuneport.distances({"v1": "org/v1", "v2": "org/v2"}, {"v1": "org/v1-tuned"})
    """
    versions, tuned = given.versions, given.tuned or {}
    unknown = sorted(set(tuned) - set(versions))
    if unknown or not versions:
        raise UsageError(
            f"{', '.join(unknown) or 'Nothing'}: list each fine-tuned model's version under the same name."
        )
    names, with_diff = list(versions), [name for name in versions if name in tuned]
    checkpoints = [_opened(versions[name], name) for name in names]
    checkpoints += [_opened(tuned[name], f"tuned {name}") for name in with_diff]
    shared = share(checkpoints, [ties_of(checkpoint) for checkpoint in checkpoints])
    squares = np.zeros(len(names))
    apart = np.zeros((len(names), len(names)))
    products = np.zeros((len(with_diff), len(with_diff)))
    base_of = [names.index(name) for name in with_diff]
    for numbers in _numbers(checkpoints, shared):
        bases = numbers[: len(names)]
        squares += [floats.square(base) for base in bases]
        for i, j in itertools.combinations(range(len(names)), 2):
            apart[i, j] += floats.square(floats.difference(bases[i], bases[j]))
        diffs = [
            floats.difference(tuned_numbers, bases[base]).astype(np.float64)
            for tuned_numbers, base in zip(numbers[len(names) :], base_of, strict=True)
        ]
        for i, j in itertools.combinations_with_replacement(range(len(diffs)), 2):
            products[i, j] += diffs[i] @ diffs[j]
    if not all(np.isfinite(sums).all() for sums in (squares, apart, products)):
        raise NumericsError(
            f"{', '.join(names)}: one of them contains NaN or infinity, so the distances cannot be computed."
        )
    place = {name: number for number, name in enumerate(with_diff)}

    def cosine(a: str, b: str) -> float | None:
        if a not in place or b not in place:
            return None
        i, j = place[a], place[b]
        lengths = math.sqrt(products[i, i]) * math.sqrt(products[j, j])
        return float(products[i, j]) / lengths if lengths else None

    found = {
        "versions": {
            name: {
                "norm": math.sqrt(squares[number]),
                "diff_norm": math.sqrt(products[place[name], place[name]]) if name in place else None,
            }
            for number, name in enumerate(names)
        },
        "pairs": [
            {"a": names[i], "b": names[j], "distance": math.sqrt(apart[i, j]), "cosine": cosine(names[i], names[j])}
            for i, j in itertools.combinations(range(len(names)), 2)
        ],
        **_accounted(shared),
    }
    return Distances(found)


def lost_by_rounding(base: Spec, tuned: Spec, dtype: str) -> dict[str, Any]:
    """How much of Δ = tuned − base is lost if the tuned model is stored in `dtype`: round, then subtract again.

    Returns `diff_norm` ‖Δ‖, `lost_norm` ‖(round(tuned) − base) − Δ‖, `share_lost` (their quotient; null where Δ is
    zero), `changed` (elements of Δ that are not zero), `vanished` (how many of these then equal the base in `dtype`),
    `dtype`, `parameters`. The same measure as a transfer's and a fine-tuning's (`measure_rounding`).
    """
    stored = FLOAT_SPELLINGS.get(dtype.lower())
    if stored is None:
        raise UsageError(f"{dtype!r} is not a dtype for weights; choose bfloat16, float16, float32 or float64.")
    checkpoints = [_opened(base, "base"), _opened(tuned, "tuned")]
    shared = share(checkpoints, [ties_of(checkpoint) for checkpoint in checkpoints])
    sums = np.zeros(4)
    for before, after in _numbers(checkpoints, shared, "F64"):
        kept, unmoved = (floats.widen(floats.narrow(values, stored), stored, "F64") for values in (after, before))
        if not (np.isfinite(kept).all() and np.isfinite(before).all()):
            raise NumericsError(
                f"{checkpoints[0].label} and {checkpoints[1].label}: a difference is NaN or infinite, or too large for "
                f"{dtype}."
            )
        sums += measure_rounding(kept, before, floats.difference(after, before), unmoved)
    found = rounded([sums])
    return {
        "dtype": dtype,
        "diff_norm": math.sqrt(sums[0]),
        "lost_norm": math.sqrt(sums[1]),
        "share_lost": found.error,
        "changed": found.nonzero,
        "vanished": int(sums[3]),
        **_accounted(shared),
    }


def _opened(spec: Spec, role: str) -> Checkpoint:
    return fetched(open_checkpoint(spec, role))


def _numbers(checkpoints: Sequence[Checkpoint], shared: Shared, work: str | None = None) -> Iterator[list[Floats]]:
    """Pieces of all shared tensors, of each checkpoint side by side; that no file changed meanwhile is seen to."""
    space = Workspace()
    with ExitStack() as stack:
        readers = [stack.enter_context(reading(checkpoint)) for checkpoint in checkpoints]
        for tensor in shared.tensors:
            for _, numbers in pieces(tensor, readers, space, work):
                yield numbers
        for reader in readers:
            reader.check_unchanged()


def _accounted(shared: Shared) -> dict[str, Any]:
    tokens = None if shared.tokens is None else {"shared": shared.tokens[0], "others": list(shared.tokens[1])}
    return {
        "parameters": sum(tensor.elements for tensor in shared.tensors),
        "alone": list(shared.alone),
        "tokens": tokens,
    }
