"""The last cast of a fine-tuning: weights are trained in float32 and stored in the start's dtype.

Each tensor is cast once, to nearest even, and compared with the start piece by piece, by the same formula as in a
transfer (`measure_rounding`): changes smaller than the stored dtype's steps would otherwise be lost silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tuneport.checkpoint import floats
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.floats import Array
from tuneport.checkpoint.reading import TensorReader, reading
from tuneport.checkpoint.weights import StoredTensor
from tuneport.comparison.rounding import Rounded, measure_rounding, rounded
from tuneport.engine import kernel
from tuneport.errors import listing, named
from tuneport.files.printable import quoted
from tuneport.pairing.tensors import main_dtype

# safetensors' names of dtypes, and torch's
TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_NAMES = {torch: name for name, torch in TORCH_NAMES.items()}
PIECE = 2**18  # elements that are compared at a time


@dataclass(frozen=True)
class CastLoss:
    """What the cast lost of what was learned, in total and tensor by tensor.

    ``unmeasured`` are tensors that have no namesake of their shape in the start, ``infinite`` counts numbers that the stored
    dtype has no room for; ``dtype`` (torch's name) is that of the tensors which lost most. Rows of new tokens have nothing to be
    measured against and are left out.
    """

    whole: Rounded
    tensors: Mapping[str, Rounded]
    unmeasured: tuple[str, ...]
    infinite: Mapping[str, int]
    dtype: str | None

    def record(self) -> dict[str, Any]:
        """The loss as written in tune.json."""
        tensors = {name: asdict(found) for name, found in sorted(self.tensors.items())}
        told = {"unmeasured": list(self.unmeasured), "infinite": dict(self.infinite), "tensors": tensors}
        return {**asdict(self.whole), **told}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for the user."""
        return tuple(told for told in (self._too_large(), self._too_small()) if told)

    def _too_large(self) -> str | None:
        if not self.infinite:
            return None
        names = listing([f"{quoted(name)}: {count:,}" for name, count in self.infinite.items()])
        return (
            f"{sum(self.infinite.values()):,} weight(s) are above the largest float16 value (65,504) and were stored "
            f"as infinity:{names}\nRun the same command again with {named('dtype', 'bfloat16')} or float32 and "
            f"{named('overwrite')}."
        )

    def _too_small(self) -> str | None:
        if not self.whole.too_much:
            return None
        told = f"storing the weights as {self.dtype} loses much of what was learned: {self.whole.in_words('stored', 'start')}."
        if self.dtype in ("float32", "float64"):
            return (
                f"{told} The steps are too small for {self.dtype}. Check {named('learning_rate')} and {named('steps')}."
            )
        return (
            f"{told} To keep it, run the same command again with {named('dtype', 'float32')} (twice the space) and "
            f"{named('overwrite')}, or another {named('out')}. A transfer from float32 weights to a target in a "
            "smaller dtype loses the same."
        )


def as_stored(state: Mapping[str, Any], start: Checkpoint, dtype: str | None) -> dict[str, Any]:
    """Each tensor in the dtype of its namesake in the start; tensors of one storage (tied ones) stay one.

    With ``dtype`` (torch's name) those of the start's main dtype are stored in it.
    """
    import torch

    usual = TORCH_NAMES[main_dtype(start.tensors.values())]
    found: dict[str, Any] = {}
    cast: dict[tuple[Any, ...], Any] = {}
    for name, tensor in state.items():
        stored = start.tensors.get(name)
        wanted = TORCH_NAMES.get(stored.dtype, usual) if stored is not None else usual
        if dtype is not None and wanted == usual:
            wanted = dtype
        if not tensor.is_floating_point():
            found[name] = tensor
            continue
        key = (tensor.data_ptr(), tuple(tensor.shape), wanted)
        if key not in cast:
            cast[key] = tensor.detach().to("cpu", getattr(torch, wanted))
        found[name] = cast[key]
    return found


def cast_loss(state: Mapping[str, Any], stored: Mapping[str, Any], start: Checkpoint) -> CastLoss:
    """What ``stored`` lacks of what was learned: of ``state`` minus the start, read a piece at a time. A tied group counts once."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, tensor in stored.items():
        if tensor.is_floating_point() and tensor.numel():
            groups.setdefault((tensor.data_ptr(), tuple(tensor.shape)), []).append(name)
    sums: dict[str, Array] = {}
    errors: dict[str, float] = {}
    infinite: dict[str, int] = {}
    unmeasured: list[str] = []
    with reading(start) as reader:
        for names in groups.values():
            if (count := _made_infinite(state[names[0]], stored[names[0]])) > 0:
                infinite[names[0]] = count
            known = [name for name in names if _comparable(start.tensors.get(name), stored[name])]
            if not known:
                unmeasured.append(names[0])
                continue
            name = known[0]
            sums[name] = _measured(state[name], stored[name], start.tensors[name], reader)
            kind = _torch_name(stored[name])
            errors[kind] = errors.get(kind, 0.0) + float(sums[name][1])
        reader.check_unchanged()
    return CastLoss(
        rounded(sums.values()),
        {name: rounded([each]) for name, each in sums.items()},
        tuple(sorted(unmeasured)),
        infinite,
        max(errors, key=errors.__getitem__) if errors else None,
    )


def _comparable(before: StoredTensor | None, tensor: Any) -> bool:
    """Whether the start has the tensor, but for rows that were added."""
    shape = tuple(tensor.shape)
    if before is None or before.dtype not in TORCH_NAMES or len(before.shape) != len(shape):
        return False
    return before.shape == shape or (before.shape[1:] == shape[1:] and before.shape[0] < shape[0])


def _made_infinite(tensor: Any, stored: Any) -> int:
    """How many finite numbers the cast made infinite: float16 alone has no room for what float32 holds."""
    import torch

    if stored.dtype != torch.float16:
        return 0
    return int(stored.isinf().sum()) - int(tensor.isinf().sum())


def _measured(tensor: Any, stored: Any, before: StoredTensor, reader: TensorReader) -> Array:
    """The four sums of `measure_rounding`, over the elements that the start has."""
    name = _NAMES[_torch_name(stored)]
    work = floats.working_dtype(before.dtype)
    learned, kept, sums = tensor.detach().reshape(-1), stored.reshape(-1), np.zeros(4)
    for first in range(0, before.elements, PIECE):
        last = min(first + PIECE, before.elements)
        buffer = bytearray((last - first) * DTYPES[before.dtype].itemsize)
        reader.read_into(before, first * DTYPES[before.dtype].itemsize, memoryview(buffer))
        was = kernel.widen(floats.as_bits(buffer, before.dtype), before.dtype, work)
        now = floats.widen(learned[first:last].float().cpu().numpy(), "F32", work)
        out = kernel.widen(_bits(kept[first:last], name), name, work)
        unmoved = was if name == before.dtype else kernel.widen(kernel.narrow(was, name), name, work)
        sums += measure_rounding(out, was, floats.difference(now, was), unmoved)
    return sums


def _bits(tensor: Any, name: str) -> Array:
    """A tensor's stored numbers as numpy reads them."""
    import torch

    bits: Array = tensor.view(torch.uint8).numpy().view(DTYPES[name].numpy)
    return bits


def _torch_name(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")
