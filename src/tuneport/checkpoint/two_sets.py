"""Compare two complete sets of weights in one folder.

Headers are compared in full. Values are compared in full if the sets are small, else in a sample spread over all
tensors: it finds nearly every difference, but proves nothing, so the result says what was not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tuneport.checkpoint.weight_sets import Weights
from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import CheckpointError, listing
from tuneport.files.printable import quoted

# Reads bytes of a tensor: (tensor, first byte, count).
Read = Callable[[StoredTensor, int, int], bytes]

_CHUNK = 2**20
# What is found where values are not compared: a pickle has no header that could be read without loading it.
PICKLED: tuple[list[str], bool] = (["one of them is a pickle, and they are not compared"], False)


@dataclass(frozen=True)
class Effort:
    """How much is compared: at most ``reads`` places of each set, of ``nbytes`` bytes where a set is too large for all."""

    reads: int
    nbytes: int


# 64 MiB of each set take a tenth of a second from a disk; each read from the Hub is a request.
LOCAL, HUB = Effort(2**14, 2**12), Effort(32, 2**16)


def compared(
    one: Mapping[str, StoredTensor], other: Mapping[str, StoredTensor], read: tuple[Read, Read], effort: Effort
) -> tuple[list[str], bool]:
    """Messages for the differences between two sets (none if they are equal), and whether everything was compared."""
    names = sorted(one.keys() | other.keys())
    faults = [told for name in names if (told := _headers_differ(name, one.get(name), other.get(name))) is not None]
    if faults:
        return faults, True
    tensors = [one[name] for name in names]
    whole = len(tensors) <= effort.reads and sum(t.nbytes for t in tensors) <= effort.reads * effort.nbytes
    different: dict[str, None] = {}
    for tensor, start, count in _everything(tensors) if whole else _sample(tensors, effort):
        if tensor.name in different:
            continue
        if read[0](tensor, start, count) != read[1](other[tensor.name], start, count):
            different[tensor.name] = None
    return [f"{quoted(name)} has different values" for name in different], whole


def told_of_two(weights: Weights, beside: Weights, found: tuple[list[str], bool], where: str, way_out: str) -> str:
    """A warning if the two sets are equal. Raises `CheckpointError` if they are not."""
    faults, whole = found
    names = f"{weights.name} and {beside.name}"
    if faults:
        raise CheckpointError(
            f"{where}: there are two sets of weights that differ, {names}: {weights.loaders}.{listing(faults, 8)}\n{way_out}"
        )
    how = "the same tensors, with the same values"
    how += "" if whole else " in a sample (not all were compared)"
    return f"{where}: there are two sets of weights, {names}: {how}. tuneport reads the first. {way_out}"


def unreadable_beside(weights: Weights, beside: Weights, error: CheckpointError) -> str:
    """What to say of a second set that is damaged."""
    return f"{error} The folder also contains {weights.name}, which tuneport reads ({weights.loaders}). Remove the damaged set if you do not need it."


def _headers_differ(name: str, one: StoredTensor | None, other: StoredTensor | None) -> str | None:
    if one is None or other is None:
        return f"{quoted(name)} is only in {(one or other).file}"  # type: ignore[union-attr]  # one of them has it
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return f"{quoted(name)} is {one.dtype} {list(one.shape)} in {one.file}, {other.dtype} {list(other.shape)} in {other.file}"
    return None


def _everything(tensors: list[StoredTensor]) -> Iterator[tuple[StoredTensor, int, int]]:
    for tensor in tensors:
        for start in range(0, tensor.nbytes, _CHUNK):
            yield tensor, start, min(_CHUNK, tensor.nbytes - start)


def _sample(tensors: list[StoredTensor], effort: Effort) -> Iterator[tuple[StoredTensor, int, int]]:
    """Places spread evenly over the tensors, and within each."""
    step = max(1, -(-len(tensors) // effort.reads))
    chosen = tensors[::step]
    places = max(1, effort.reads // len(chosen))
    for tensor in chosen:
        count = min(effort.nbytes, tensor.nbytes)
        last = tensor.nbytes - count
        starts = {last * place // max(1, places - 1) if places > 1 else last // 2 for place in range(places)}
        for start in sorted(starts) if count else []:
            yield tensor, start, count
