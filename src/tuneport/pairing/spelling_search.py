"""Find the rules that turn the names and layouts of one checkpoint into those of another.

Returns a `Translation`, or None. It tries wrappers' prefixes, transformers' conversions in both directions, former
names of parameters, the base model's prefix, and a language model's place inside a multimodal one (`spelling_rules` has
them as data). A rule is used only if it matches every tensor of one side with one of the other, one to one and of the
same shape. Heads, which may be tied, and buffers that a model computes may be missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from tuneport.checkpoint.views import UnviewableError, renamed, stored_name
from tuneport.checkpoint.weights import StoredTensor
from tuneport.pairing.buffers import is_computed
from tuneport.pairing.model_kinds import is_text_of
from tuneport.pairing.spelling_rules import Rules, Shapes, Tensors, data, legacy_rules, rules_of
from tuneport.pairing.vocabulary_names import is_commonly_named, is_head_weight

Config = Mapping[str, Any]
Step = Callable[[Tensors], dict[str, StoredTensor]]


@dataclass(frozen=True)
class Translation:
    """Tensors in another spelling, and by which rule, in words."""

    tensors: dict[str, StoredTensor]
    rule: str


class _Shape(NamedTuple):
    """A tensor's shape; one that was cut or joined must have its partner's, one that is whole may have other rows."""

    shape: tuple[int, ...]
    made: bool = False


Sizes = Mapping[str, _Shape]
# Puts tensors under the reference's names: which get another one, or None where that does not pair them.
_Ending = Callable[[Sizes, Shapes], dict[str, str] | None]


def find_translation(own: Tensors, config: Config, reference: Tensors, reference_config: Config) -> Translation | None:
    """How ``own`` becomes the reference's spelling; None where it has it already, or no rule pairs every tensor."""
    ending = _ending(config, reference_config)
    stored = {stored_name(tensor): tensor.shape for tensor in own.values()}
    shapes = _shapes(reference)
    if _shapes(own) == shapes or (ending(_sizes(own, stored), shapes) == {} and not _left(own, stored, shapes)):
        return None
    wrapped = {_without_wrappers(name): name for name in reference}
    if len(wrapped) != len(reference):
        wrapped = {name: name for name in reference}
    shapes = {name: shapes[other] for name, other in wrapped.items()}
    best: Translation | None = None
    fewest = len(own) + 1
    seen: set[int] = set()
    for step, rule in _steps(own, config, shapes, reference_config):
        try:
            spoken = step(own)
        except UnviewableError:
            continue
        headers = hash(frozenset((name, tensor.shape) for name, tensor in spoken.items()))
        if headers in seen:
            continue
        seen.add(headers)
        names = ending(_sizes(spoken, stored), shapes)
        turned = None if names is None else _turned(_named(spoken, names), shapes, stored, reference_config)
        if names is None or turned is None or len(turned.found) != len(spoken):
            continue
        left = _left(turned.found, stored, shapes)
        if left < fewest:
            told = ", ".join(filter(None, (rule, turned.rule))) or "another prefix"
            best, fewest = Translation(_named(turned.found, wrapped), told), left
        if not left:
            break
    if best is None or all(tensor == own.get(name) for name, tensor in best.tensors.items()):
        return None
    return best


def names_onto(
    names: Mapping[str, tuple[int, ...] | None], config: Config, reference: Tensors
) -> dict[str, str] | None:
    """What weights of a model, given by name and shape, are called in ``reference``: an adapter's modules in its base.

    None where no rule finds every one of them; a head may be missing, as one that is tied is.
    """
    rules, shapes = rules_of(config), _shapes(reference)
    ways: list[dict[str, str]] = [{name: _without_wrappers(name) for name in names}]
    ways += rules.names(names) if rules is not None else []
    for may_lack, way in itertools.product((False, True), ways):  # a head that another rule finds is not missing
        if len(set(way.values())) < len(way):
            continue
        if all(name in reference or (may_lack and is_head_weight(name)) for name in way.values()):
            return way
        placed = _placed({way[name]: shape for name, shape in names.items()}, shapes, may_lack=may_lack)
        if placed is not None:
            return {name: placed.get(other, other) for name, other in way.items()}
    return None


def _steps(own: Tensors, config: Config, shapes: Shapes, reference_config: Config) -> Iterator[tuple[Step, str]]:
    """Every rule that may apply, simple ones first, with its words."""
    bare = any(_without_wrappers(name) != name for name in own)
    kinds = {rules.name: rules for rules in (rules_of(config), rules_of(reference_config)) if rules is not None}
    legacy, former = legacy_rules(), list[tuple[list[Step], str]]([([], "")])
    if legacy.take(own):
        former.append(([partial(legacy.loaded, shapes={})], "former names of parameters"))
    if legacy.take(shapes):
        former.append(([partial(legacy.saved, shapes={})], "former names of parameters"))
    for rules in (None, *kinds.values()):
        for step, told in _ways(rules, shapes):
            for before, also in former:
                words = ["without wrappers' prefixes"] * bare + [text for text in (also, told) if text]
                yield _chained([_stripped] * bare + before + step), ", ".join(words)


def _ways(rules: Rules | None, shapes: Shapes) -> Iterator[tuple[list[Step], str]]:
    """What one kind's rules make of tensors: nothing, the loaded model's, the saved one's."""
    if rules is None:
        yield [], ""
        return
    load, save = partial(rules.loaded, shapes=shapes), partial(rules.saved, shapes=shapes)
    yield [load], f"as transformers loads {rules.name}"
    saved: list[list[Step]] = [[save], [partial(save, prefixes=False)], [load, save]]
    for steps in saved:
        yield steps, f"as transformers saves {rules.name}"


def _chained(steps: Sequence[Step]) -> Step:
    def chained(tensors: Tensors) -> dict[str, StoredTensor]:
        for step in steps:
            tensors = step(tensors)
        return dict(tensors)

    return chained


def _named(tensors: Tensors, names: Mapping[str, str]) -> dict[str, StoredTensor]:
    found = ((names.get(name, name), tensor) for name, tensor in tensors.items())
    return {name: renamed(tensor, name) for name, tensor in found}


class _Turned(NamedTuple):
    found: dict[str, StoredTensor]
    rule: str


def _turned(placed: dict[str, StoredTensor], shapes: Shapes, stored: Shapes, config: Config) -> _Turned | None:
    """Tensors that have the reference's names, and its shapes: as they are, or turned as its kind has them; None if neither."""
    sizes = _sizes(placed, stored)
    wrong = [name for name, size in sizes.items() if name in shapes and not _fits(size, shapes[name])]
    if not wrong:
        return _Turned(placed, "")
    rules = rules_of(config)
    if rules is None:
        return None
    try:
        found = rules.loaded(placed, shapes)
    except UnviewableError:
        return None
    if found.keys() != placed.keys() or any(found[name].shape != shapes[name] for name in wrong):
        return None
    return _Turned(found, f"turned as {rules.name} has them")


def _stripped(tensors: Tensors) -> dict[str, StoredTensor]:
    found = _named(tensors, {name: _without_wrappers(name) for name in tensors})
    if len(found) < len(tensors):
        raise UnviewableError("two tensors differ in a wrapper's prefix only")
    return found


def _without_wrappers(name: str) -> str:
    for prefix in data()["wrappers_in_front"]:
        name = name.removeprefix(prefix)
    parts = name.split(".")
    kept = [part for part in parts if f"{part}." not in data()["wrappers"]]
    return name if len(kept) == len(parts) else ".".join(kept)


def _ending(config: Config, reference_config: Config) -> _Ending:
    """How tensors are put under the reference's names, one to one."""
    if is_text_of(config, reference_config):
        return lambda own, reference: _placed(
            {name: size.shape for name, size in own.items()}, reference, may_lack=True
        )
    if is_text_of(reference_config, config):
        return _found_inside
    return _prefixed


def _found_inside(own: Sizes, reference: Shapes) -> dict[str, str] | None:
    """The names of a language model for those tensors of a multimodal one that are its own."""
    names = _placed(reference, {name: size.shape for name, size in own.items()}, may_lack=True)
    return None if names is None else {other: name for name, other in names.items()}


def _prefixed(own: Sizes, reference: Shapes) -> dict[str, str] | None:
    """The names that agree, or agree but for the base model's prefix; None where they do neither."""
    if _agree(own, reference):
        return {}
    lacking = [name for name in own if name not in reference]
    begins = {name.partition(".")[0] + "." for names in (lacking, reference) for name in names}
    for prefix in begins.intersection(data()["prefixes"]):
        names = {}
        for name in lacking:
            for other in (prefix + name, name.removeprefix(prefix)):
                if other != name and other in reference:
                    names[name] = other
        if not names:
            continue
        others = {names.get(name, name): size for name, size in own.items()}
        if len(others) == len(own) and _agree(others, reference):
            return names
    return None


def _agree(own: Sizes, reference: Shapes) -> bool:
    """Whether every tensor of one of the two has its partner in the other, those aside that may be missing."""
    lacking, unmet = _unpaired(own, reference)
    return all(_may_lack(name, own[name].shape) for name in lacking) or all(
        _may_lack(name, reference[name]) for name in unmet
    )


def _left(own: Tensors, stored: Shapes, reference: Shapes) -> int:
    """How many pairs may still be missing: tensors without partner on either side."""
    return min(map(len, _unpaired(_sizes(own, stored), reference)))


def _unpaired(own: Sizes, reference: Shapes) -> tuple[list[str], list[str]]:
    lacking = [name for name, size in own.items() if not _fits(size, reference.get(name))]
    unmet = [name for name, shape in reference.items() if name not in own or not _fits(own[name], shape)]
    return lacking, unmet


def _placed(inner: Mapping[str, tuple[int, ...] | None], outer: Shapes, may_lack: bool) -> dict[str, str] | None:
    """Where the tensors of a language model are in a multimodal one: which under another name; None if nowhere.

    None as well if that could be in several places; of those the one that holds an embedding counts. ``may_lack``: the outer
    model may have a head or a buffer less. A shape that is not known (None) fits any.
    """
    found: dict[tuple[tuple[str, str], ...], bool] = {}
    first = [name.partition(".")[0] + "." for name in inner if not is_head_weight(name)]
    for taken in {"", *first[:1], *(prefix for prefix in data()["prefixes"] if prefix in first)}:
        body = [name for name in inner if name.startswith(taken) and not is_head_weight(name)]
        if not body or 2 * len(body) < len(inner):
            continue
        probe = max(body, key=len).removeprefix(taken)
        for given in {name.removesuffix(probe) for name in outer if name.endswith(probe)}:
            if given and not given.endswith("."):
                continue
            names = {name: given + name.removeprefix(taken) for name in body}
            names |= {name: _beside(name, outer) or "" for name in inner if name not in names}
            lost = [name for name, place in names.items() if place not in outer]
            if any(not (may_lack and _may_lack(name, inner[name] or ())) for name in lost):
                continue
            names = {name: place for name, place in names.items() if place in outer}
            if all(_might_fit(inner[name], outer[place]) for name, place in names.items()):
                holds = any(
                    is_commonly_named(name) and not is_head_weight(name) for name in outer if name.startswith(given)
                )
                found[tuple(sorted(names.items()))] = holds
    best = [names for names, holds in found.items() if holds] or list(found)
    return {name: place for name, place in best[0] if name != place} if len(best) == 1 else None


def _beside(name: str, outer: Collection[str]) -> str | None:
    """The tensor of a multimodal model that a head, or another tensor beside the body, is."""
    if name in outer:
        return name
    places = [place for place in outer if place.endswith(f".{name}")]
    return places[0] if len(places) == 1 else None


def _fits(size: _Shape, shape: tuple[int, ...] | None) -> bool:
    if shape is None or size.made:
        return size.shape == shape
    return len(size.shape) == len(shape) and size.shape[1:] == shape[1:]


def _might_fit(shape: tuple[int, ...] | None, other: tuple[int, ...]) -> bool:
    """Whether the two are the same but for rows, or turned."""
    return shape is None or _fits(_Shape(shape), other) or sorted(shape) == sorted(other)


def _may_lack(name: str, shape: tuple[int, ...]) -> bool:
    return is_head_weight(name) or is_computed(name, shape)


def _shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _sizes(tensors: Tensors, stored: Shapes) -> dict[str, _Shape]:
    """Shapes of tensors, and whether each is a whole one of those that are ``stored``."""
    return {
        name: _Shape(tensor.shape, not tensor.in_one_piece or stored.get(stored_name(tensor)) != tensor.shape)
        for name, tensor in tensors.items()
    }
