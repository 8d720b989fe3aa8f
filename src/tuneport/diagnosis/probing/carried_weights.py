"""Turn a loaded target into target + Δ in memory: overwrite its parameters from a plan, without writing to disk.

Every number is rounded to the dtype in which the transfer would store it, and then widened to the model's float32: the
model in memory equals the one that the transfer writes, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tuneport.checkpoint import floats
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.floats import Array
from tuneport.checkpoint.reading import Workspace
from tuneport.diagnosis.placed_tensors import is_held, otherwise, placed, without_place, without_tensor
from tuneport.engine import kernel
from tuneport.engine.budget import PIECE, budget
from tuneport.engine.pieces import Readers
from tuneport.engine.plan import OutputTask, Plan
from tuneport.engine.run import leaf_pieces
from tuneport.engine.stream import run_leaves
from tuneport.errors import CheckpointError, listing
from tuneport.pairing.vocabulary_matrices import rows_of
from tuneport.progress import BYTES, Progress


def carry(model: Any, label: str, plan: Plan, readers: Readers, workers: int | None, *, fresh: bool = True) -> None:
    """Overwrite a model of transformers, in float32 and just loaded from the plan's target, by the plan's output.

    Without ``fresh`` the model holds the output of another such plan, of the same inputs at another scale. Matrices grow where the plan's vocabulary does. Raises `CheckpointError` where the model's weights are not the target's tensors
    one by one.
    """
    if fresh:
        _check(model, label, plan, readers)
    rows = {rows_of(task.slot) for task in plan.tasks if _is_grown(task)}
    if rows:
        model.resize_token_embeddings(max(rows), mean_resizing=False)
    places = placed(model, ((slot.name, slot.shape) for slot in plan.slots))
    _stop(label, without_place(task.slot.name for task in plan.tasks if _counts(task) and task.slot.name not in places))

    def do(number: int, task: OutputTask, leaf: int, space: Workspace) -> bool:
        import torch

        place = places.get(task.slot.name)
        if place is not None and _is_float(task.slot.dtype):
            for start, stop, origin in leaf_pieces(task, leaf, pool.piece):
                content, _ = task.recipe.piece(start, stop, origin, readers, space, kernel.no_sums())
                place[start:stop].copy_(torch.from_numpy(_float32(content, task.slot.dtype)))
        return True

    pool = budget(None, workers, plan.default_limit, plan.more_memory, plan.leaves)
    run_leaves(plan.tasks, do, pool.workers, Progress("", sum(slot.nbytes for slot in plan.slots), BYTES))


def _check(model: Any, label: str, plan: Plan, readers: Readers) -> None:
    """Raise unless the model holds the target's tensors, each in one parameter, bit by bit."""
    targets = [(task, task.line.target) for task in plan.tasks if task.line.target is not None]
    places = placed(model, ((target.name, target.shape) for _, target in targets))
    faults = without_place(target.name for task, target in targets if _counts(task) and target.name not in places)
    faults += without_tensor(model, places.values())
    _stop(label, faults or otherwise(_changed([task for task, _ in targets], places, readers)))


def _changed(tasks: list[OutputTask], places: dict[str, Any], readers: Readers) -> Iterator[str]:
    space = Workspace()
    for task in tasks:
        target = task.line.target
        assert target is not None
        place = places.get(target.name)
        if place is None or not _is_float(target.dtype):
            continue
        itemsize = DTYPES[target.dtype].itemsize
        for start in range(0, target.elements, PIECE):
            view = space.buffer("target", min(PIECE, target.elements - start) * itemsize)
            readers["target"].read_into(target, start * itemsize, view)
            if not is_held(place, start, _float32(view, target.dtype)):
                yield target.name
                break


def _float32(content: memoryview, dtype: str) -> Array:
    """Stored numbers as float32, in memory of their own: the buffer that they come from is used again."""
    work = floats.working_dtype(dtype)
    return kernel.narrow(kernel.widen(floats.as_bits(content, dtype), dtype, work), "F32").copy()


def _is_float(dtype: str) -> bool:
    return DTYPES[dtype].kind == "float"


def _counts(task: OutputTask) -> bool:
    """Whether the transfer changes the tensor; what it only copies (a buffer, say) the model may compute itself."""
    return task.line.fate != "copied"


def _is_grown(task: OutputTask) -> bool:
    target = task.line.target
    return target is not None and task.line.by_token and rows_of(task.slot) > rows_of(target)


def _stop(label: str, faults: list[str]) -> None:
    if faults:
        raise CheckpointError(
            f"{label} cannot be probed: its tensors do not match transformers' weights one to one:{listing(faults)}\n"
            "Load it with AutoModelForCausalLM and save it again (save_pretrained), or transfer first and evaluate the output."
        )
