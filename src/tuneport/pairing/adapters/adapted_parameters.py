"""Adapters on parameters that are not modules: which tensors of the base they change, and with which part of their
factors.

Since transformers 5, the experts of a mixture are one parameter with three dimensions in memory, and its adapter has
the factors of all experts side by side (peft's `target_parameters`, which `all-linear` uses as well). On disk the same
experts are separate, joined, or in one tensor. Each tensor of the base gets its rows and columns of the product.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tuneport.checkpoint.adapter import AdapterChange, Factors, LowRank, Stacked
from tuneport.checkpoint.adapter_config import AdapterConfig
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.views import UnviewableError, narrowed, reshaped, selected, stored_name, transposed
from tuneport.checkpoint.weights import StoredTensor
from tuneport.files.printable import quoted
from tuneport.pairing.spelling_rules import rules_of
from tuneport.pairing.spelling_search import names_onto

# Kinds whose experts are stored as inputs×outputs (`is_transposed`); it counts where the shape does not tell.
_TURNED_KINDS = frozenset({"gpt_oss", "aria", "aria_text", "openai_privacy_filter"})
_WEIGHT = "weight"


@dataclass(frozen=True)
class FoundParameters:
    """What adapters on parameters are: ``weights`` of modules after all, by peft's names, and ``changes`` by the base's."""

    weights: Mapping[str, AdapterChange]
    changes: Mapping[str, AdapterChange]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """A parameter in memory: what the model calls it, and how it is made of the base's tensors."""

    name: str
    tensor: StoredTensor


@dataclass(frozen=True)
class _Fit:
    """Factors that fit a parameter: of so many experts, each of this rank; ``turned``: as inputs×outputs."""

    factors: Factors
    place: _Place
    rank: int
    scaling: float
    turned: bool


def find_parameters(
    parameters: Mapping[str, tuple[Factors, ...]], config: AdapterConfig, base: Checkpoint, where: str
) -> FoundParameters:
    """The base's tensors that adapters on parameters change; what fits none is a fault, in words."""
    weights: dict[str, AdapterChange] = {}
    changes: dict[str, AdapterChange] = {}
    faults: list[str] = []
    places = _places(parameters, config, base)
    for module, levels in parameters.items():
        if (
            not places[module] and len(levels) == 1
        ):  # a module that the base does not store, such as a tied head: reported by its name
            scaling = config.scalings([module], where)[module][1]
            weights[f"{module}.{_WEIGHT}"] = AdapterChange(low_rank=LowRank(levels[0].a, levels[0].b, scaling))
            continue
        fits = list(_assignments(module, levels, places[module], config, base, where))
        if len(fits) != 1:
            known = ", ".join(
                f"{quoted(place.name)} ({'×'.join(map(str, place.tensor.shape))})" for place in places[module].values()
            )
            many = "fit several of its parameters, and nothing says which" if fits else "fit none of its parameters"
            faults.append(
                f"{quoted(module)}: the adapter's factors {many}; the base has {known or 'none that is a target'}"
            )
            continue
        for name, fit in zip(*fits[0], strict=True):
            if name == _WEIGHT and len(fit.place.tensor.shape) == 2:
                weights[f"{module}.{name}"] = AdapterChange(low_rank=LowRank(fit.factors.a, fit.factors.b, fit.scaling))
                continue
            try:
                changes |= {own: AdapterChange(low_rank=product) for own, product in _shares(fit)}
            except UnviewableError as error:
                faults.append(
                    f"{quoted(fit.place.name)} is stored in the base in a way that an adapter cannot be applied to: "
                    f"{error}"
                )
    return FoundParameters(weights, changes, tuple(faults))


def _places(
    parameters: Mapping[str, tuple[Factors, ...]], config: AdapterConfig, base: Checkpoint
) -> dict[str, dict[str, _Place]]:
    """For each module the parameters that may be meant and that the model has, by their short names."""
    plain = {n: StoredTensor(n, t.dtype, t.shape, "", 0, t.nbytes) for n, t in base.tensors.items()}
    spellings = [plain]
    rules = rules_of(base.config)
    if rules is not None:
        with suppress(UnviewableError):  # a base that is spelled as the model in memory is
            spellings.append(rules.loaded(plain, {}))
    groups: dict[tuple[str, str], list[str]] = {}
    for module in parameters:
        for name in dict.fromkeys((_WEIGHT, *config.parameters_of(module))):
            groups.setdefault((module.rpartition(".")[2], name), []).append(module)
    found: dict[str, dict[str, _Place]] = {module: {} for module in parameters}
    for (_, name), modules in groups.items():
        for spelling in spellings:
            names = names_onto({f"{module}.{name}": None for module in modules}, base.config, spelling)
            if names is not None and all(own in spelling for own in names.values()):
                for module in modules:
                    own = names[f"{module}.{name}"]
                    found[module][name] = _Place(own, spelling[own])
                break
    return found


def _assignments(
    module: str,
    levels: Sequence[Factors],
    places: Mapping[str, _Place],
    config: AdapterConfig,
    base: Checkpoint,
    where: str,
) -> Iterator[tuple[tuple[str, ...], tuple[_Fit, ...]]]:
    """Every way in which the factors of a module fit as many of its parameters, one each."""
    targets = config.parameters_of(module)
    called = {
        name: f"{module}.{name}" if name in targets else module for name in places
    }  # by which peft's patterns find it
    scalings = config.scalings(list(called.values()), where)
    turned = config.old_parameters or base.config.get("model_type") in _TURNED_KINDS
    for names in itertools.permutations(places, len(levels)):
        fits = []
        for name, factors in zip(names, levels, strict=True):
            rank, scaling = scalings[called[name]]
            fit = _fit(factors, places[name], rank, scaling, turned)
            if fit is None:
                break
            fits.append(fit)
        else:
            yield names, tuple(fits)


def _fit(factors: Factors, place: _Place, rank: int, scaling: float, turned_if_square: bool) -> _Fit | None:
    shape, inputs, outputs = place.tensor.shape, factors.a.shape[1], factors.b.shape[0]
    experts, rest = divmod(factors.a.shape[0], rank)
    if rest or (experts,) != (shape[:1] if len(shape) == 3 else (1,)):
        return None
    straight, turned = shape[-2:] == (outputs, inputs), shape[-2:] == (inputs, outputs)
    if not straight and not (turned and len(shape) == 3):
        return None
    return _Fit(factors, place, rank, scaling, turned and (not straight or turned_if_square))


def _shares(fit: _Fit) -> Iterator[tuple[str, LowRank | Stacked]]:
    """What each tensor of the base gets of the product. Raises `UnviewableError`."""
    shape = fit.place.tensor.shape
    dimensions = tuple(range(len(shape)))
    for leaf, begins, of in leaves(fit.place.tensor, (0,) * len(shape), dimensions):
        sizes = [1] * len(shape)
        for dimension, size in zip(of, leaf.shape, strict=True):
            sizes[dimension] = size
        first = begins[0] if len(shape) == 3 else 0
        count = sizes[0] if len(shape) == 3 else 1
        region = [(begin, size) for begin, size in zip(begins, sizes, strict=True)][-2:]
        products = tuple(_product(fit, expert, region) for expert in range(first, first + count))
        if len(leaf.shape) == 3:
            yield stored_name(leaf), Stacked(products, leaf.shape, (fit.factors.a, fit.factors.b))
        elif len(leaf.shape) == 2 and len(products) == 1:
            yield stored_name(leaf), products[0]
        else:
            raise UnviewableError(f"{quoted(stored_name(leaf))} is neither one expert's matrix nor that of all experts")


def _product(fit: _Fit, expert: int, region: Sequence[tuple[int, int]]) -> LowRank:
    """One expert's product, of which some rows and columns: cut from the factors, which are read as they lie."""
    (a, b), experts = (fit.factors.a, fit.factors.b), fit.factors.a.shape[0] // fit.rank
    a = selected(reshaped(a, (experts, fit.rank, a.shape[1])), expert)
    b = transposed(selected(transposed(reshaped(b, (b.shape[0], fit.rank, experts)), 0, 2), expert), 0, 1)
    rows, columns = region
    if fit.turned:
        return LowRank(narrowed(a, 1, *rows), narrowed(b, 0, *columns), fit.scaling, transposed=True)
    return LowRank(narrowed(a, 1, *columns), narrowed(b, 0, *rows), fit.scaling)


def leaves(
    tensor: StoredTensor, begins: tuple[int, ...], of: tuple[int, ...]
) -> Iterator[tuple[StoredTensor, tuple[int, ...], tuple[int, ...]]]:
    """The base's tensors that one in memory is made of, where each begins in it, and along which of its dimensions it lies."""
    view = tensor.view
    if view is None or not view.parts:
        if view is not None and view.grid is not None:
            raise UnviewableError(f"{quoted(stored_name(tensor))} is stored in another order")
        yield tensor, begins, of
        return
    at = 0
    for part in view.parts:
        begin = tuple(b + at if dimension == of[view.dim] else b for dimension, b in enumerate(begins))
        stacked = len(part.shape) < len(tensor.shape)
        yield from leaves(part, begin, (*of[: view.dim], *of[view.dim + 1 :]) if stacked else of)
        at += 1 if stacked else part.shape[view.dim]
