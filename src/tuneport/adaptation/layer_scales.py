"""An α for each kind of tensor in each layer: which there are, target + α·Δ in memory, and how a loss changes with each α.

dL/dα is the inner product of the loss's gradient with Δ, summed over the tensors of the group. A gradient is dropped as
soon as it is used, and Δ is read from base and tuned piece by piece: neither is ever held for the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.reading import Workspace
from tuneport.comparison.measures import kind_of
from tuneport.diagnosis.placed_tensors import placed
from tuneport.engine.budget import PIECE
from tuneport.engine.pieces import Readers, Sum, meet
from tuneport.engine.plan import OutputTask, Plan
from tuneport.files.lazy_sequences import LazySequence
from tuneport.files.printable import expression_of
from tuneport.pairing.name_rules import ScaleRule

BATCH = 16  # prompts at once
Alphas = NDArray[np.float64]


@dataclass(frozen=True)
class ScaledGroup:
    """Tensors of one kind in one layer (None: outside the layers) that have one ``scale`` by the user's own rules."""

    layer: int | None
    kind: str
    scale: float
    names: tuple[str, ...]

    def rule(self, alpha: float) -> ScaleRule:
        """What `transfer` is asked for: the user's scale times α."""
        return ScaleRule(f"^(?:{'|'.join(map(expression_of, self.names))})$", self.scale * alpha)


@dataclass(frozen=True)
class LayerScales:
    """The groups of a plan, and which group each tensor belongs to."""

    plan: Plan
    groups: tuple[ScaledGroup, ...]
    group_of: Mapping[str, int]

    @classmethod
    def of(cls, plan: Plan) -> LayerScales:
        """The groups of all tensors that the plan adds something to."""
        names: dict[tuple[int | None, str, float], list[str]] = {}
        for task in plan.tasks:
            if _is_changed(task):
                names.setdefault((*kind_of(task.slot.name), task.scales[0]), []).append(task.slot.name)
        groups = tuple(ScaledGroup(*key, tuple(each)) for key, each in names.items())
        return cls(plan, groups, {name: place for place, group in enumerate(groups) for name in group.names})

    def scaled(self, alphas: Alphas) -> Plan:
        """The plan with these α: the same numbers as with the rules of the groups."""
        tasks, scales = self.plan.tasks, [group.scale * float(a) for group, a in zip(self.groups, alphas, strict=True)]

        def make(number: int) -> OutputTask:
            task = tasks[number]
            place = self.group_of.get(task.slot.name)
            return task if place is None else _rescaled(task, scales[place])

        return replace(self.plan, tasks=LazySequence(len(tasks), make))

    def rules(self, alphas: Alphas) -> tuple[ScaleRule, ...]:
        """The α as rules of `transfer`, without those that are 1."""
        return tuple(group.rule(float(a)) for group, a in zip(self.groups, alphas, strict=True) if a != 1)

    @contextmanager
    def slopes(self, model: Any, readers: Readers) -> Iterator[Alphas]:
        """While the block runs, every ``backward`` adds dL/dα to the array. Parameters without a group get no gradient."""
        found = np.zeros(len(self.groups))
        tasks = {task.slot.name: task for task in self.plan.tasks if task.slot.name in self.group_of}
        places = placed(model, ((name, task.slot.shape) for name, task in tasks.items()))
        by_address = {place.data_ptr(): name for name, place in places.items()}
        parameters = list(model.parameters())
        before = [parameter.requires_grad for parameter in parameters]
        handles, space = [], Workspace()

        def use(name: str, parameter: Any) -> None:
            gradient = parameter.grad.detach().float().cpu().numpy().reshape(-1)
            found[self.group_of[name]] += self._slope(tasks[name], gradient, readers, space)
            parameter.grad = None

        for parameter in parameters:
            name = by_address.get(parameter.data_ptr())
            parameter.requires_grad_(name is not None)
            if name is not None:
                handles.append(parameter.register_post_accumulate_grad_hook(partial(use, name)))
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()
            for parameter, wanted in zip(parameters, before, strict=True):
                parameter.requires_grad_(wanted)

    def _slope(self, task: OutputTask, gradient: NDArray[np.float32], readers: Readers, space: Workspace) -> float:
        """⟨gradient, Δ⟩, times the user's own scale."""
        total, recipe = 0.0, task.recipe
        assert isinstance(recipe, Sum), "what is changed is a sum"
        for first in range(0, task.slot.elements, PIECE):
            for start, stop in recipe.cuts(first, min(first + PIECE, task.slot.elements)):
                met = meet(recipe, start, stop, readers, space)
                if met is not None:
                    total += float(np.dot(gradient[start:stop].astype(np.float64), met.diff.astype(np.float64)))
        return total * task.scales[0]


def _is_changed(task: OutputTask) -> bool:
    """Whether Δ is added to the tensor. (Rows of new tokens stand as they are, whatever α is.)"""
    if not isinstance(task.recipe, Sum) or any(term.rows is not None for term in task.recipe.terms):
        return False  # rows that have scales of their own keep them
    return DTYPES[task.slot.dtype].kind == "float" and any(task.scales)


def _rescaled(task: OutputTask, scale: float) -> OutputTask:
    assert isinstance(task.recipe, Sum), "what is changed is a sum"
    terms = tuple(replace(term, scale=scale) for term in task.recipe.terms)
    return replace(task, recipe=replace(task.recipe, terms=terms), scales=(scale,))


def batches(pairs: Sequence[Any]) -> list[Sequence[Any]]:
    """Prompts with answers, so many at once; those of like length together, so that little is padding."""
    ordered = sorted(pairs, key=lambda pair: len(pair.prompt) + len(pair.answer))
    return [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]


def loss_of(model: Any, device: Any, pairs: Sequence[Any]) -> Any:
    """Mean nats per token of the answers of one batch, as a tensor of torch that knows its gradient."""
    import torch

    length = max(len(pair.prompt) + len(pair.answer) for pair in pairs)
    ids = torch.zeros((len(pairs), length), dtype=torch.long)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, pair in enumerate(pairs):
        whole = [*pair.prompt, *pair.answer]
        ids[row, : len(whole)] = torch.tensor(whole)
        mask[row, : len(whole)] = 1
        labels[row, len(pair.prompt) : len(whole)] = torch.tensor(pair.answer)
    logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten().to(device))
