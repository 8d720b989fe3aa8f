"""Move a loaded model along the straight line between two checkpoints, in place.

The model is loaded from the second checkpoint; `put(α)` overwrites its weights tensor by tensor, so only one model is
in memory and nothing is written. At α the weights are those that ``tuneport transfer --base A --tuned B --onto A
--scale α --dtype float32`` would write; at 0 and 1 they are the checkpoints themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tuneport.checkpoint import floats
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.floats import Floats
from tuneport.checkpoint.reading import TensorReader, Workspace, reading
from tuneport.comparison.pieces_side_by_side import pieces
from tuneport.diagnosis.placed_tensors import is_held, otherwise, placed, without_place, without_tensor
from tuneport.engine import arithmetic, kernel
from tuneport.engine.pieces import Source, equal
from tuneport.errors import CheckpointError, PairingError, listing, named
from tuneport.files.printable import quoted
from tuneport.pairing.common_tensors import Shared, share
from tuneport.pairing.tensors import ties_of
from tuneport.sidecars.config import is_behaviour, is_fixed, resolve

# How many tokens fit does not change what is computed of those that do.
_HARMLESS = {"max_position_embeddings"}
_OF_THE_WEIGHTS = {"tie_word_embeddings"}  # says which tensors there are


def joined(a: Checkpoint, b: Checkpoint, *, allow_config: bool = False) -> tuple[Shared, list[str]]:
    """What is on the line between two checkpoints, and the config fields by which a computes differently from b. Such
    fields prevent a line unless `allow_config`: then b's config is used for all of it, and the model at α = 0 is not
    exactly a. Raises `PairingError` with every reason if there is no line.
    """
    shared = share((a, b), (ties_of(a), ties_of(b)))
    reasons = [f"only one of them has {quoted(name)}" for name in shared.alone]
    one, other = resolve(a.config).values, resolve(b.config).values
    differing = {
        name: f"{quoted(name)} is {one.get(name)!r} in {a.role} and {other.get(name)!r} in {b.role}"
        for name in sorted(set(one) | set(other))
        if one.get(name) != other.get(name) and not is_behaviour(name) and not is_fixed(name) and name not in _HARMLESS
    }
    otherwise = [reason for name, reason in differing.items() if allow_config and name not in _OF_THE_WEIGHTS]
    reasons += [reason for reason in differing.values() if reason not in otherwise]
    with opened(a, b) as (reader, other_reader):
        readers, space = {"a": reader, "b": other_reader}, Workspace()
        reasons += [
            f"{quoted(tensor.name)} holds integers that differ between the two"
            for tensor in shared.exact
            if not equal(Source("a", tensor.tensors[0]), Source("b", tensor.tensors[1]), readers, space, 2**20)
        ]
    if reasons:
        raise PairingError(
            f"Cannot measure a line from {a.role} {a.label} to {b.role} {b.label}; more than the weights "
            f"differs:{listing(reasons)}\n"
            f"Give two checkpoints of one architecture. Where only configs differ, {named('allow_config')} uses the "
            f"config of {b.role} for the whole line."
        )
    return shared, otherwise


@contextmanager
def opened(a: Checkpoint, b: Checkpoint) -> Iterator[tuple[TensorReader, TensorReader]]:
    """Readers of both."""
    with reading(a) as one, reading(b) as other:
        yield one, other


@dataclass(frozen=True)
class LineBetween:
    """A model, and where along the line its weights come from."""

    model: Any  # a transformers model in float32, loaded from the second checkpoint
    shared: Shared
    readers: tuple[TensorReader, TensorReader]
    places: dict[str, Any]  # the model's parameter or buffer of each shared tensor, as one row

    def put(self, alpha: float) -> None:
        """Overwrite the model's weights by those at `alpha`: 0 is the first checkpoint, 1 the second."""
        import torch

        space = Workspace()
        with torch.no_grad():
            for tensor in self.shared.tensors:
                place = self.places[tensor.name]
                for start, (first, second) in pieces(tensor, self.readers, space):
                    values = kernel.narrow(_between(first, second, alpha), "F32")
                    place[start : start + values.size].copy_(torch.from_numpy(values))
        for reader in self.readers:
            reader.check_unchanged()


def laid(model: Any, label: str, shared: Shared, readers: tuple[TensorReader, TensorReader]) -> LineBetween:
    """The line for a model that was just loaded from the second checkpoint.

    Raises `CheckpointError` where the model's weights are not the checkpoint's, tensor by tensor: transformers may split,
    join or leave out some while loading, and these cannot be put in place.
    """
    places = placed(model, ((tensor.name, tensor.tensors[-1].shape) for tensor in shared.tensors))
    faults = without_place(tensor.name for tensor in shared.tensors if tensor.name not in places)
    faults += without_tensor(model, places.values())
    line = LineBetween(model, shared, readers, places)
    faults = faults or otherwise(_changed(line))
    if faults:
        raise CheckpointError(
            f"{label}: its tensors do not match transformers' weights one to one:{listing(faults)}\n"
            "Load it with AutoModelForCausalLM and save it again (save_pretrained); if that does not help, `path` "
            "does not support this kind of model yet."
        )
    return line


def _changed(line: LineBetween) -> Iterator[str]:
    """Names of tensors in the model that differ from the second checkpoint in any bit."""
    space = Workspace()
    for tensor in line.shared.tensors:
        for start, (_, second) in pieces(tensor, line.readers, space):
            if not is_held(line.places[tensor.name], start, kernel.narrow(second, "F32")):
                yield tensor.name
                break


def _between(first: Floats, second: Floats, alpha: float) -> Floats:
    if alpha in (0, 1):
        return second if alpha else first
    return arithmetic.add(first, arithmetic.scaled(floats.difference(second, first), alpha))
