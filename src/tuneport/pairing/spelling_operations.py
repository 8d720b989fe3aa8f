"""What a rule of transformers does to tensors besides renaming: split, join, stack, transpose, reorder.

From the tensors that a rule collected, by the pattern that found each, to those it makes, as views of what is stored.
Each function is the operation of the same name in transformers' `core_model_loading`; `UnviewableError` is raised for
what it would not do, or what a view cannot describe.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneport.checkpoint.views import UnviewableError, joined, narrowed, selected, shuffled, stacked, transposed
from tuneport.checkpoint.weights import StoredTensor
from tuneport.files.printable import quoted

Collected = dict[str, list[StoredTensor]]


@dataclass(frozen=True)
class SpellingRule:
    """One rule: names that ``match`` get ``to`` in place of what matched, below ``scope`` only (None: everywhere).

    ``sources`` and ``operations`` are those of a rule that also joins or splits tensors; ``each``: each branch of the
    expression has its own replacement, once the first was met; ``offset`` is added to the number that was captured;
    ``is_prefix``: whether it adds or takes away a prefix, which saving may leave out.
    """

    match: re.Pattern[str]
    to: tuple[str, ...]
    scope: str | None
    prefix: str
    sources: tuple[str, ...] = ()
    operations: tuple[Mapping[str, Any], ...] = ()
    each: bool = False
    offset: int = 0
    is_prefix: bool = False


@dataclass(frozen=True)
class Where:
    """What an operation may look at: the name it makes (its first), the config, and the shape that a name is known to have."""

    name: str
    config: Mapping[str, Any]
    shape: Callable[[str], tuple[int, ...] | None]

    def lengths(self, rule: SpellingRule, dim: int) -> list[int] | None:
        """How long each tensor that a rule makes is known to be along ``dim``; None where one is not known."""
        shapes = [self.shape(self.name.replace(rule.to[0], target)) for target in rule.to]
        return [shape[dim] for shape in shapes if shape is not None and dim < len(shape)] if all(shapes) else None


def _only(collected: Collected) -> tuple[str, StoredTensor]:
    if len(collected) != 1 or len(next(iter(collected.values()))) != 1:
        raise UnviewableError(f"a tensor of {', '.join(collected)} is missing, or there are several")
    source, tensors = next(iter(collected.items()))
    return source, tensors[0]


def _chunk(collected: Collected, rule: SpellingRule, operation: Mapping[str, Any], where: Where) -> Collected:
    """Equal parts; where the parts are known, those (q, k and v are not equal, though transformers cuts them so)."""
    _, tensor = _only(collected)
    dim, targets = operation.get("dim", 0), _shards(rule, operation, where)
    if dim >= len(tensor.shape):
        raise UnviewableError(f"{tensor.name} has {len(tensor.shape)} dimensions")
    lengths = where.lengths(rule, dim)
    if lengths is None or len(lengths) != len(targets) or sum(lengths) != tensor.shape[dim]:
        if tensor.shape[dim] % len(targets):
            raise UnviewableError(f"{tensor.name} cannot be split into {len(targets)} equal parts")
        lengths = [tensor.shape[dim] // len(targets)] * len(targets)
    return _cut(tensor, dim, targets, lengths)


def _split(collected: Collected, rule: SpellingRule, operation: Mapping[str, Any], where: Where) -> Collected:
    _, tensor = _only(collected)
    dim = operation.get("dim", 0)
    lengths = where.lengths(rule, dim)
    if lengths is None or dim >= len(tensor.shape) or sum(lengths) != tensor.shape[dim]:
        raise UnviewableError(f"how to split {tensor.name} is unknown")
    return _cut(tensor, dim, rule.to, lengths)


def _cut(tensor: StoredTensor, dim: int, names: Sequence[str], lengths: Sequence[int]) -> Collected:
    starts = itertools.accumulate(lengths, initial=0)
    return {
        name: [narrowed(tensor, dim, start, length)]
        for name, start, length in zip(names, starts, lengths, strict=False)  # one start more: the end
    }


def _shards(rule: SpellingRule, operation: Mapping[str, Any], where: Where) -> Sequence[str]:
    attribute = operation.get("num_shards_attribute")
    if attribute is None:
        return rule.to
    text = where.config.get("text_config")
    count = (text if isinstance(text, Mapping) else where.config).get(attribute)
    if not isinstance(count, int) or not 0 < count < 100_000:
        raise UnviewableError(f"the config has no {quoted(attribute)}")
    return [rule.to[0].replace("*", str(place)) for place in range(count)]


def _concatenate(collected: Collected, rule: SpellingRule, operation: Mapping[str, Any], where: Where) -> Collected:
    missing = [source for source in rule.sources if source not in collected]
    if missing and "num_shards_attribute" not in operation:
        raise UnviewableError(f"{where.name}: {', '.join(missing)} is missing")
    tensors = [tensor for source in rule.sources for tensor in collected.get(source, ())]
    return {rule.to[0]: [joined(tensors, operation.get("dim", 0))]}


def _merge(collected: Collected, rule: SpellingRule, operation: Mapping[str, Any], where: Where) -> Collected:
    counts = {len(tensors) for tensors in collected.values()}
    if len(counts) != 1 or len(collected) != len(rule.sources):
        raise UnviewableError(f"{where.name}: experts are missing")
    alone = len(collected) == 1 and len(rule.to) == 1
    return {
        rule.to[0] if alone else source: [stacked(tensors, operation.get("dim", 0))]
        for source, tensors in collected.items()
    }


def _unmerge(collected: Collected, rule: SpellingRule, operation: Mapping[str, Any], where: Where) -> Collected:
    if operation.get("dim", 0):
        raise UnviewableError("experts that are not along the first dimension")
    found = {}
    for source, tensors in collected.items():
        pattern = rule.to[0] if len(collected) == 1 and len(rule.to) == 1 else source
        for place in range(tensors[0].shape[0] if tensors[0].shape else 0):
            found[pattern.replace("*", str(place))] = [selected(tensors[0], place)]
    return found


def _transpose(collected: Collected, rule: SpellingRule, operation: Mapping[str, Any], where: Where) -> Collected:
    source, tensor = _only(collected)
    target = rule.to[0] if len(rule.to) == 1 else source
    if operation.get("check_dims") and where.shape(where.name) in (None, tensor.shape):
        return {target: [tensor]}
    return {target: [transposed(tensor, operation.get("dim0", 0), operation.get("dim1", 1))]}


def _interleave(collected: Collected, rule: SpellingRule, operation: Mapping[str, Any], where: Where) -> Collected:
    _, tensor = _only(collected)
    dim = operation.get("dim", 0)
    if dim >= len(tensor.shape) or tensor.shape[dim] % 2:
        raise UnviewableError(f"{tensor.name} has no pairs")
    half = tensor.shape[dim] // 2
    return {rule.to[0]: [shuffled(tensor, dim, (1, 2, half) if operation.get("inverse") else (1, half, 2))]}


def _permute(collected: Collected, rule: SpellingRule, operation: Mapping[str, Any], where: Where) -> Collected:
    """Rows of rotary pairs, one beside the other, as halves; and backwards."""
    config = where.config.get(operation.get("subconfig_key", ""), where.config)
    heads = config.get("num_attention_heads", config.get("num_heads")) if isinstance(config, Mapping) else None
    layers = operation.get("permute_layer_names")
    found = {}
    for source, tensors in collected.items():
        target = source if (len(rule.to) > 1) != (len(rule.sources) > 1) else rule.to[0]
        tensor = tensors[0]
        if layers is None or any(layer in source for layer in layers):
            if not isinstance(heads, int) or heads < 1 or not tensor.shape or tensor.shape[0] % (2 * heads):
                raise UnviewableError(f"{tensor.name}: the number of heads in the config does not match")
            half = tensor.shape[0] // heads // 2
            tensor = shuffled(tensor, 0, (heads, 2, half) if operation.get("inverse") else (heads, half, 2))
        found[target] = [tensor]
    return found


def _text_and_vision(collected: Collected, rule: SpellingRule, operation: Mapping[str, Any], where: Where) -> Collected:
    """Experts of text and of vision in one list (ERNIE 4.5 VL): each half fused for itself."""
    found = {}
    for place, target in enumerate(rule.to):
        groups = []
        for source in rule.sources:
            tensors = collected.get(source, [])
            size = math.ceil(len(tensors) / len(rule.to))
            if not tensors[place * size : (place + 1) * size]:
                raise UnviewableError(f"{where.name}: experts are missing")
            groups.append(stacked(tensors[place * size : (place + 1) * size], operation.get("stack_dim", 0)))
        found[target] = [joined(groups, operation.get("concat_dim", 1))]
    return found


def _from_text_and_vision(
    collected: Collected, rule: SpellingRule, operation: Mapping[str, Any], where: Where
) -> Collected:
    found, dim = {}, operation.get("concat_dim", 1)
    for place, target in enumerate(rule.to):
        number = 0
        for source in rule.sources:
            if source not in collected:
                raise UnviewableError(f"{where.name}: {source} is missing")
            tensor = collected[source][0]
            size = tensor.shape[dim] // len(rule.to)
            part = narrowed(tensor, dim, place * size, size)
            for index in range(part.shape[0]):
                found[target.replace("*", str(number))] = [selected(part, index)]
                number += 1
    return found


OPERATIONS = {
    "Chunk": _chunk,
    "Concatenate": _concatenate,
    "ErnieFuseAndSplitTextVisionExperts": _text_and_vision,
    "ErnieSplitAndDecoupleTextVisionExperts": _from_text_and_vision,
    "Interleave": _interleave,
    "MergeModulelist": _merge,
    "PermuteForRope": _permute,
    "Split": _split,
    "SplitModulelist": _unmerge,
    "Transpose": _transpose,
}
