"""What an export as a PEFT adapter will contain, from headers alone: factors, whole matrices, and what is left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tuneport.checkpoint.dtypes import DTYPES
from tuneport.diffvector.exports.peft_modules import PeftModule, module_of, peft_names
from tuneport.engine.pieces import Sum
from tuneport.engine.plan import OutputTask, Plan

FACTOR_BYTES = 4


@dataclass(frozen=True)
class HeldMatrix:
    """A matrix whose Δ is factorised: the number of its task, and the module."""

    task: int
    name: str
    shape: tuple[int, int]
    module: PeftModule

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that have its factors."""
        return (self.module.name, *([self.module.also] if self.module.also else []))

    @property
    def cost(self) -> int:
        """Bytes of one direction in the adapter."""
        return FACTOR_BYTES * sum(self.shape) * len(self.modules)


@dataclass(frozen=True)
class SavedMatrix:
    """A matrix with rows of new tokens, which the adapter has as a whole, under each of these modules."""

    task: int
    name: str
    modules: tuple[str, ...]


@dataclass(frozen=True)
class LeftOut:
    """A tensor whose Δ the adapter does not have."""

    task: int
    name: str
    reason: str


@dataclass(frozen=True)
class AdapterContents:
    """All tensors of the target that have a difference, by what becomes of it; ``others`` are modules without LoRA."""

    held: tuple[HeldMatrix, ...]
    saved: tuple[SavedMatrix, ...]
    left_out: tuple[LeftOut, ...]
    others: tuple[str, ...]


def contents_of(plan: Plan) -> AdapterContents:
    """What an adapter for the plan's target will hold."""
    target = plan.inputs[-1]
    names = peft_names(target.tensors, target)
    stored = set(names.values())
    held: list[HeldMatrix] = []
    saved: list[SavedMatrix] = []
    left_out: list[LeftOut] = []
    for number, task in enumerate(plan.tasks):
        if not has_difference(task):
            continue
        own = task.slot.name
        module = module_of(own, names[own], task.slot.shape, target)
        if isinstance(module, str):
            left_out.append(LeftOut(number, own, module))
            continue
        also = module.also if module.also and f"{module.also}.weight" not in stored else None
        module = PeftModule(module.name, module.kind, also)
        if has_new_rows(task):
            saved.append(SavedMatrix(number, own, (module.name, *([also] if also else []))))
        else:
            rows, columns = task.slot.shape
            held.append(HeldMatrix(number, own, (rows, columns), module))
    holding = {name for each in held for name in each.modules}
    others = _modules_of(names.values()) - holding
    return AdapterContents(tuple(held), tuple(saved), tuple(left_out), tuple(sorted(others)))


def _modules_of(names: Iterable[str]) -> set[str]:
    """All modules that tensors of these names lie in, also those that hold other modules alone."""
    return {name[:end] for name in names for end, sign in enumerate(name) if sign == "."}


def has_difference(task: OutputTask) -> bool:
    """Whether a task of a plan of `apply` adds anything to the target."""
    recipe = task.recipe
    assert isinstance(recipe, Sum)
    if DTYPES[recipe.dtype].kind != "float":
        return False
    return any(term.scale and (term.plus is not None or term.raw is not None) for term in recipe.terms)


def has_new_rows(task: OutputTask) -> bool:
    """Whether some rows of the output are of tokens that the target lacks."""
    recipe = task.recipe
    assert isinstance(recipe, Sum)
    runs = recipe.terms[0].runs if recipe.terms else None
    return runs is not None and bool((runs.partners[:, 0] < 0).any())
