"""The user's rules for tensor names, by regular expression: another scale, another name.

A scale may be a ramp over the layers of the tensors that an expression matches. `lay_rules` finds these layers among a
target's names; after that `scale_of` knows the scale of every tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import Fault, UsageError
from tuneport.files.printable import quoted
from tuneport.pairing.buffers import is_computed_buffer

# What the classes of transformers call a list of layers (Llama, BERT, T5, GPT-2, vision towers, XLM). The first such list in
# a name counts: T5's `block.3.layer.1` is in block 3, and experts lie inside a layer.
_LAYER = re.compile(
    r"(?:^|\.)(?:layers?|blocks?|resblocks|h|conformer|attentions|ffns|layer_norm[12]|\w+_(?:layers?|blocks?|layer_groups))"
    r"\.(\d+)(?=\.|$)"
)
# Written in place of a number: the scale of all tensors.
OF_ALL = "scale"
# Layers of a ramp whose scales are all shown; of more, the first ones and the last.
_MOST_SHOWN = 12


@dataclass(frozen=True)
class ScaleRule:
    """``--rule REGEX=SCALE``: the last rule whose expression is found in a target's name replaces ``--scale``.

    ``scale`` None is that of ``--scale``. With ``last`` it is a ramp: ``scale`` in the first layer, ``last`` in the last one,
    on a straight line in between.
    """

    pattern: str
    scale: float | None
    last: float | None = None

    def matches(self, name: str) -> bool:
        """Whether the expression is found in ``name``."""
        return re.search(self.pattern, name) is not None

    def scale_at(self, name: str) -> float | None:
        """The scale of a tensor that it matches; of a ramp only `lay_rules` knows it."""
        assert self.last is None, "a ramp is laid over a model's layers first"
        return self.scale

    @property
    def value(self) -> float | str | tuple[float | None, float]:
        """The scale as a Python call gives it."""
        if self.last is not None:
            return self.scale, self.last
        return OF_ALL if self.scale is None else self.scale

    @property
    def shown(self) -> str:
        """The scale as the command line writes it."""
        first = OF_ALL if self.scale is None else f"{self.scale:g}"
        return first if self.last is None else f"{first}..{self.last:g}"


@dataclass(frozen=True)
class LaidRamp(ScaleRule):
    """A ramp over the layers of a model. ``stacks``: the layers that it matches, by the name of their list."""

    stacks: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def scale_at(self, name: str) -> float:
        """The scale of a tensor in one of these layers."""
        layer = layer_of(name)
        assert layer is not None, f"{name} is in no layer"
        return self.scale_in(*layer)

    def scale_in(self, stack: str, number: int) -> float:
        """The scale of a layer; one layer alone has the first."""
        assert self.scale is not None and self.last is not None
        first, last = self.stacks[stack][0], self.stacks[stack][-1]
        if number == last != first:
            return self.last  # exactly, however the line is rounded
        return self.scale + (self.last - self.scale) * ((number - first) / max(last - first, 1))

    def told(self) -> Iterator[tuple[str, str]]:
        """For each list of layers its name, and the scales in words."""
        for stack, numbers in self.stacks.items():
            scales = [f"{number}: {self.scale_in(stack, number):.6g}" for number in numbers]
            if len(scales) > _MOST_SHOWN:
                scales = [*scales[:3], "…", *scales[-2:], f"({len(numbers)} layers)"]
            yield stack, ", ".join(scales).replace(", (", " (")


def layer_of(name: str) -> tuple[str, int] | None:
    """The list of layers that a tensor lies in and its number there: ``model.layers``, 3. None outside of layers."""
    found = _LAYER.search(name)
    return None if found is None else (name[: found.start(1) - 1], int(found[1]))


def lay_rules(rules: Sequence[ScaleRule], tensors: Mapping[str, StoredTensor]) -> tuple[ScaleRule, ...]:
    """The rules, with every ramp laid over the layers of the tensors that it matches, each list of layers by itself.

    Raises `UsageError` for a ramp that decides about a tensor outside of numbered layers.
    """
    if all(rule.last is None for rule in rules):
        return tuple(rules)
    names = [name for name, tensor in tensors.items() if not is_computed_buffer(tensor)]
    faults = [fault for place in range(len(rules)) if (fault := _outside_layers(place, rules, names)) is not None]
    if faults:
        raise UsageError(faults)
    return tuple(rule if rule.last is None else _laid(rule, names) for rule in rules)


def _laid(rule: ScaleRule, names: Sequence[str]) -> LaidRamp:
    stacks: dict[str, set[int]] = {}
    for name in names:
        layer = layer_of(name) if rule.matches(name) else None
        if layer is not None:
            stacks.setdefault(layer[0], set()).add(layer[1])
    return LaidRamp(rule.pattern, rule.scale, rule.last, {stack: sorted(found) for stack, found in stacks.items()})


def _outside_layers(place: int, rules: Sequence[ScaleRule], names: Sequence[str]) -> Fault | None:
    """What is wrong with a ramp: tensors without a layer number that no later rule decides about."""
    rule, later = rules[place], rules[place + 1 :]
    if rule.last is None:
        return None
    alone = [
        name
        for name in names
        if layer_of(name) is None and rule.matches(name) and not any(other.matches(name) for other in later)
    ]
    if not alone:
        return None
    more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
    problem = f"matches {quoted(alone[0])}{more}, outside of numbered layers; a ramp has no scale there"
    remedy = r"Match layers only, for example with 'layers\.', or add a rule with one number for the others after it"
    return Fault("rules", f"{rule.pattern}={rule.shown}", problem, remedy)


def scale_of(name: str, scale: float, rules: Sequence[ScaleRule]) -> float:
    """The scale of one tensor."""
    found = next((rule.scale_at(name) for rule in reversed(rules) if rule.matches(name)), None)
    return scale if found is None else found


@dataclass(frozen=True)
class Rename:
    """``--rename REGEX=REPLACEMENT``: where the expression is found in a name of base or tuned, that takes its place."""

    pattern: str
    replacement: str

    def __call__(self, name: str) -> str:
        """The other name."""
        return re.sub(self.pattern, self.replacement, name)
