"""What is in the weight files that count: every tensor with the file and the byte range that hold it.

Which files count is for `weight_sets` to say. Index and files must tell the same story, and no path from an index leaves its
folder; both may lie on this disk, or be seen from afar.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.header import header_length, parse_header
from tuneport.errors import CheckpointError, listing

MAX_INDEX_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class View:
    """How a tensor lies in stored ones, where it is not simply one of them (`checkpoint.views` makes these).

    It lies in the tensor that its file calls ``stored``, row after row, or with ``strides`` in elements for each dimension
    of ``grid`` (its shape, dimensions cut further); or it is its ``parts``, joined along the dimension ``dim``, which parts of
    one dimension less do not have (they are stacked).
    """

    stored: str = ""
    grid: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    parts: tuple[StoredTensor, ...] = ()
    dim: int = 0


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a checkpoint: safetensors dtype, shape, and the byte range of ``file`` that holds it.

    With a ``view`` it is made of stored tensors; ``file`` and ``offset`` are then those of its first element.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    nbytes: int
    view: View | None = None

    @property
    def elements(self) -> int:
        """Number of elements."""
        return self.nbytes // DTYPES[self.dtype].itemsize

    @property
    def in_one_piece(self) -> bool:
        """Whether its bytes lie one after another, from ``offset`` on."""
        return self.view is None or (self.view.strides is None and not self.view.parts)


def tensors_of_file(
    file: str, size: int, prefix: Callable[[int, int], bytes], where: str
) -> tuple[dict[str, StoredTensor], bytes]:
    """Tensors of one safetensors file and its raw header. ``prefix(start, count)`` reads bytes of the file."""
    first = prefix(0, min(8, size))
    if first == b"version ":
        raise CheckpointError(
            f"{where} is a Git LFS pointer, not the weights. Run `git lfs pull` in that folder, or download it again."
        )
    length = header_length(first, size, where)
    header = prefix(8, length)
    ranges = parse_header(header, size, where)
    found = {name: StoredTensor(name, r.dtype, r.shape, file, r.offset, r.nbytes) for name, r in ranges.items()}
    return found, header


def join_files(
    index: Mapping[str, str] | None, per_file: Mapping[str, Mapping[str, StoredTensor]], where: str
) -> dict[str, StoredTensor]:
    """All tensors of a checkpoint, in the order of their names; index and files must tell the same story."""
    faults: list[str] = []
    joined: dict[str, StoredTensor] = {}
    for file, tensors in per_file.items():
        for name, tensor in tensors.items():
            if name in joined:
                faults.append(f"`{name}` stands in {joined[name].file} and in {file}")
            joined[name] = tensor
    if index is not None:
        for name, file in index.items():
            if name not in per_file[file]:
                faults.append(f"the index places `{name}` in {file}, which does not hold it")
        faults += [
            f"`{name}` stands in {tensor.file}, the index {'places it elsewhere' if name in index else 'omits it'}"
            for name, tensor in joined.items()
            if index.get(name) != tensor.file
        ]
    if faults:
        raise CheckpointError(
            f"{where}: index and files disagree:{listing(faults)}\nDownload the checkpoint again, or mend its index."
        )
    return dict(sorted(joined.items()))


def check_gathered(tensors: Mapping[str, StoredTensor], pickled: str | None, where: str) -> None:
    """Raise `CheckpointError` for what DeepSpeed's ZeRO-3 leaves of weights that it did not gather: matrices of shape [0].

    ``pickled`` is a whole pickle beside these files, as zero_to_fp32.py writes it.
    """
    empty = [
        tensor
        for tensor in tensors.values()
        if tensor.shape == (0,) and tensor.name.endswith("weight") and DTYPES[tensor.dtype].kind == "float"
    ]
    if not empty:
        return
    files = ", ".join(sorted({tensor.file for tensor in empty}))
    more = f" If that wrote {pickled}, move {files} away, and {pickled} is read." if pickled is not None else ""
    raise CheckpointError(
        f"{where}: {len(empty)} weight(s) in {files} have the shape [0] (`{empty[0].name}`, say). The model was saved by "
        "DeepSpeed ZeRO-3 without gathering. Run zero_to_fp32.py on the training checkpoint, or save again with "
        f"`stage3_gather_16bit_weights_on_model_save` set to true.{more}"
    )


def parse_index(content: bytes, where: str, legacy: bool) -> dict[str, str]:
    """Files by tensor name, as an index has them. Raises `CheckpointError`: what is damaged, or leads out of the folder."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise CheckpointError(f"{where} names a tensor twice. Download it again, or mend it.")
        return result

    if len(content) > MAX_INDEX_BYTES:
        raise CheckpointError(f"{where} has {len(content)} bytes, over the limit of {MAX_INDEX_BYTES}.")
    try:
        parsed = json.loads(content.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not valid JSON ({error}). Download it again.") from None
    weight_map = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{where} has no `weight_map`. Download it again.")
    suffix = ".bin" if legacy else ".safetensors"
    for name, file in weight_map.items():
        if (
            not isinstance(file, str)
            or not file.endswith(suffix)
            or "/" in file
            or "\\" in file
            or file.startswith(".")
        ):
            raise CheckpointError(
                f"{where} places `{name}` in {file!r}; only a *{suffix} file of the same folder is followed."
            )
    return weight_map
