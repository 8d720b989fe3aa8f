"""How base, diff vector and target relate, tensor by tensor: sums that can be added, and measures computed from them.

The code that reads the weights (the engine, for `compare` and `transfer`) records sums for each tensor. A measure can
then be computed for one tensor, for one kind of tensor in a layer, or for the whole model.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from tuneport.checkpoint.floats import Array
from tuneport.comparison.model_roles import Figures, MatrixColumns, MatrixSums, figures, is_matrix
from tuneport.comparison.rounding import total
from tuneport.files.lazy_sequences import LazySequence

# Figures that are shares or cosines, and the norms that they are made of.
FIGURES = (
    "norm_base",
    "norm_diff",
    "norm_shift",
    "relative_diff",
    "relative_shift",
    "diff_over_shift",
    "cosine_base_target",
    "cosine_diff_shift",
    "changed_share",
    "opposed_share",
    "rounding_loss",
    "unchanged_share",
)
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(frozen=True, slots=True)  # one for each tensor
class TensorSums:
    """Sums over the elements of a tensor that have a partner in base, tuned and target. NaN: not measured.

    ``base``, ``target``, ``diff`` and ``shift`` are squares of norms, of A, B, Δ and B − A; ``along`` is Δ·(B − A) and ``product``
    A·B. ``opposed`` counts where Δ and B − A have different signs, ``nonzero`` where Δ is not zero, ``unchanged`` where such a Δ
    leaves B as it is once it is rounded. ``added`` is the square of what was to be added (Δ times its scale), ``error`` that of what
    rounding did to it.
    """

    elements: float
    base: float = math.nan
    target: float = math.nan
    diff: float = math.nan
    shift: float = math.nan
    along: float = math.nan
    product: float = math.nan
    opposed: float = math.nan
    added: float = math.nan
    error: float = math.nan
    nonzero: float = math.nan
    unchanged: float = math.nan


COLUMNS = tuple(field.name for field in fields(TensorSums))


def kind_of(name: str) -> tuple[int | None, str]:
    """The layer of a tensor (None: it is in none), and its name with every number replaced by ``#``.

    The layer is the first number that stands alone between dots: ``model.layers.3.mlp.experts.7.up_proj.weight`` is of layer 3 and
    of the kind ``model.layers.#.mlp.experts.#.up_proj.weight``.
    """
    found = _NUMBER.search(name)
    return (int(found[0]) if found else None), _NUMBER.sub("#", name)


def is_in_a_layer(name: str) -> bool:
    """Whether `kind_of` finds a layer in a tensor's name."""
    return _NUMBER.search(name) is not None


class TensorColumns:
    """The sums of many tensors, as columns of numbers: a hundred bytes for a tensor, whose name is not kept."""

    def __init__(self) -> None:
        """None yet."""
        self._columns = {name: array("d") for name in COLUMNS}
        self._matrices, self._inner = bytearray(), bytearray()

    def put(self, sums: TensorSums, *, matrix: bool, inner: bool) -> None:
        """Note a tensor, or several of one kind together: whether they are matrices, and such of the layers."""
        self._matrices.append(matrix)
        self._inner.append(inner)
        for name, column in self._columns.items():
            column.append(getattr(sums, name))

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self._matrices)

    def whole(self) -> dict[str, Any]:
        """The figures of all tensors; those of matrices, of all others (norms, biases), and of the layers' matrices apart.

        The layers' matrices (``inner``) are those without embedding and head, which may move far where little is learned.
        """
        matrices, inner = (np.frombuffer(bytes(which), bool) for which in (self._matrices, self._inner))
        every = np.ones(len(self), bool)
        return {
            **self._figures(every),
            "matrices": self._figures(matrices),
            "vectors": self._figures(~matrices),
            "inner": self._figures(inner),
        }

    def _figures(self, which: Array) -> dict[str, Any]:
        # The columns are looked at where they lie: a copy for each kind in each layer would be quadratic in tensors.
        return figures_of({name: np.asarray(values, np.float64)[which] for name, values in self._columns.items()})


class MeasuredTensors(TensorColumns):
    """The sums of many tensors, each with its name and shape."""

    def __init__(self) -> None:
        """None yet."""
        super().__init__()
        self._names: list[str] = []
        self._shapes: list[tuple[int, ...]] = []

    def append(self, name: str, dtype: str, shape: tuple[int, ...], sums: TensorSums) -> None:
        """Note a tensor."""
        matrix = is_matrix(dtype, shape)
        self.put(sums, matrix=matrix, inner=matrix and is_in_a_layer(name))
        self._names.append(name)
        self._shapes.append(shape)

    def layers(self) -> list[dict[str, Any]]:
        """The figures of each kind of tensor in each layer, in the model's order."""
        places: dict[tuple[int | None, str], array[int]] = {}
        for place, name in enumerate(self._names):
            places.setdefault(kind_of(name), array("q")).append(place)
        ordered = sorted(places, key=lambda key: (key[0] is not None, key[0] or 0, key[1]))
        return [
            {
                "layer": layer,
                "kind": kind,
                "matrix": bool(self._matrices[places[layer, kind][0]]),
                **self._figures(np.array(places[layer, kind], np.int64)),
            }
            for layer, kind in ordered
        ]

    def tensors(self, spectra: Mapping[str, Mapping[str, Any]]) -> Sequence[dict[str, Any]]:
        """The figures of each tensor, by name, with its spectrum where there is one; each is made when it is looked at."""
        order = array("q", sorted(range(len(self)), key=self._names.__getitem__))

        def make(number: int) -> dict[str, Any]:
            place = order[number]
            one = {column: np.array(values[place : place + 1]) for column, values in self._columns.items()}
            name = self._names[place]
            found = {"name": name, "shape": list(self._shapes[place]), **figures_of(one)}
            return {**found, "spectrum": dict(spectra[name])} if name in spectra else found

        return LazySequence(len(order), make)

    def roles(self) -> Figures:
        """What the large matrices say of who is who; only those whose base was read."""
        read = MatrixColumns()
        columns = [self._columns[name] for name in ("elements", "diff", "shift", "along", "base", "target")]
        for is_one, elements, diff, shift, along, base, target in zip(self._matrices, *columns, strict=True):
            if is_one and math.isfinite(base):
                read.append(MatrixSums(int(elements), diff, shift, along, base=base, target=target))
        return figures(read.large())


def figures_of(sums: Mapping[str, Array]) -> dict[str, Any]:
    """The figures of some tensors from their sums, a row of numbers for each of `COLUMNS`. None: nothing to read it from.

    Norms are of all elements that have a partner; ``relative_diff`` is ‖Δ‖ / ‖A‖, ``relative_shift`` ‖B − A‖ / ‖A‖;
    ``opposed_share`` and ``unchanged_share`` are shares of the elements of Δ that are not zero, ``changed_share`` is theirs.
    ``rounding_loss`` is ‖(out − B) − Δ‖ / ‖Δ‖. A quotient is taken over those tensors for which both sides were measured.
    """

    def together(*names: str) -> list[float]:
        known = np.isfinite([sums[name] for name in names]).all(axis=0)
        return [total(sums[name][known]) if known.any() else math.nan for name in names]

    base, diff, shift = together("base")[0], together("diff")[0], together("shift")[0]
    found: dict[str, float] = {
        "norm_base": _root(base),
        "norm_diff": _root(diff),
        "norm_shift": _root(shift),
        "relative_diff": _ratio(*together("diff", "base")),
        "relative_shift": _ratio(*together("shift", "base")),
        "diff_over_shift": _ratio(*together("diff", "shift")),
        "cosine_base_target": _cosine(*together("product", "base", "target")),
        "cosine_diff_shift": _cosine(*together("along", "diff", "shift")),
        "changed_share": _share(*together("nonzero", "elements")),
        "opposed_share": _share(*together("opposed", "nonzero")),
        "rounding_loss": _ratio(*together("error", "added")),
        "unchanged_share": _share(*together("unchanged", "nonzero")),
    }
    assert tuple(found) == FIGURES
    parameters = int(math.fsum(sums["elements"]))
    return {
        "parameters": parameters,
        **{name: value if math.isfinite(value) else None for name, value in found.items()},
    }


def _root(square: float) -> float:
    return math.sqrt(square) if square >= 0 else math.nan


def _ratio(one: float, other: float) -> float:
    """The quotient of two norms, from their squares."""
    return math.sqrt(one) / math.sqrt(other) if one >= 0 and other > 0 else math.nan


def _cosine(product: float, one: float, other: float) -> float:
    return product / (math.sqrt(one) * math.sqrt(other)) if one > 0 and other > 0 else math.nan


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
