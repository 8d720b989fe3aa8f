"""Which weights count, and what is in them.

In comes a listing of a folder (local, or a Hub repository seen from afar), out comes every tensor with the file and
the byte range that hold it. Those the index names count; else model.safetensors; else the only .safetensors file;
else legacy pytorch_model*.bin; else the search stops with the list. No path from an index leaves its folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.header import header_length, parse_header
from tuneport.errors import CheckpointError, listing

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LEGACY_INDEX = "pytorch_model.bin.index.json"
LEGACY_SINGLE = "pytorch_model.bin"
MODEL_WEIGHTS = (INDEX, SINGLE, LEGACY_INDEX, LEGACY_SINGLE)
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_PICKLE = "adapter_model.bin"
MAX_INDEX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint: safetensors dtype, shape, and the byte range of ``file`` that holds it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return self.nbytes // DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Weights:
    """The files that count, by name, and where they were listed: ``index`` is the weight map, if there is one."""

    files: tuple[str, ...]
    index: Mapping[str, str] | None
    legacy: bool = False
    adapter: bool = False


def choose_weights(names: list[str], read_index: Callable[[str], bytes], where: str, stem: str = "model") -> Weights:
    """Which of the files ``names`` count. ``read_index`` fetches an index; ``where`` is what to call the folder."""
    present = set(names)
    own = (f"{stem}.safetensors.index.json", f"{stem}.safetensors", False)
    for index_name, single_name, legacy in (own, (LEGACY_INDEX, LEGACY_SINGLE, True)):
        if index_name in present:
            index = _parse_index(read_index(index_name), f"{where}: {index_name}", legacy)
            missing = sorted(set(index.values()) - present)
            if missing:
                raise CheckpointError(
                    f"{where}: {index_name} names files that are not there:{listing(missing)}\n"
                    "Download the checkpoint again, in full."
                )
            return Weights(tuple(sorted(set(index.values()))), index, legacy)
        if single_name in present:
            return Weights((single_name,), None, legacy)
        if not legacy:
            candidates = sorted(name for name in present if name.endswith(".safetensors"))
            if len(candidates) == 1 and ADAPTER not in present:
                return Weights((candidates[0],), None)
            if candidates and ADAPTER not in present:
                raise CheckpointError(
                    f"{where}: {len(candidates)} safetensors files and no {INDEX}; which count cannot be known:"
                    f"{listing(candidates)}\nKeep one of them, or add the index."
                )
    if ADAPTER in present:
        return _adapter_weights(present, where)
    raise CheckpointError(
        f"{where}: no weights. Looked for {INDEX}, {SINGLE}, a single .safetensors file and {LEGACY_SINGLE}; "
        f"the folder holds{listing(sorted(present)) or ' nothing'}"
    )


def _adapter_weights(present: set[str], where: str) -> Weights:
    """A PEFT adapter's one file; it stands beside no model of its own."""
    if ADAPTER_WEIGHTS in present:
        return Weights((ADAPTER_WEIGHTS,), None, adapter=True)
    pickled = (
        f"{ADAPTER_PICKLE} is a pickle; load the adapter with peft and save it again (save_pretrained writes safetensors)."
        if ADAPTER_PICKLE in present
        else f"the folder holds{listing(sorted(present))}"
    )
    raise CheckpointError(f"{where} is a PEFT adapter without {ADAPTER_WEIGHTS}: {pickled}")


def tensors_of_file(
    file: str, size: int, prefix: Callable[[int, int], bytes], where: str
) -> tuple[dict[str, StoredTensor], bytes]:
    """Tensors of one safetensors file and its raw header. ``prefix(start, count)`` reads bytes of the file."""
    length = header_length(prefix(0, min(8, size)), size, where)
    header = prefix(8, length)
    ranges = parse_header(header, size, where)
    found = {name: StoredTensor(name, r.dtype, r.shape, file, r.offset, r.nbytes) for name, r in ranges.items()}
    return found, header


def join_files(
    weights: Weights, per_file: Mapping[str, Mapping[str, StoredTensor]], where: str
) -> dict[str, StoredTensor]:
    """All tensors of a checkpoint, in the order of their names; index and files must tell the same story."""
    faults: list[str] = []
    joined: dict[str, StoredTensor] = {}
    for file, tensors in per_file.items():
        for name, tensor in tensors.items():
            if name in joined:
                faults.append(f"`{name}` stands in {joined[name].file} and in {file}")
            joined[name] = tensor
    if weights.index is not None:
        for name, file in weights.index.items():
            if name not in per_file[file]:
                faults.append(f"the index places `{name}` in {file}, which does not hold it")
        faults += [
            f"`{name}` stands in {tensor.file}, the index {'places it elsewhere' if name in weights.index else 'omits it'}"
            for name, tensor in joined.items()
            if weights.index.get(name) != tensor.file
        ]
    if faults:
        raise CheckpointError(
            f"{where}: index and files disagree:{listing(faults)}\nDownload the checkpoint again, or mend its index."
        )
    return dict(sorted(joined.items()))


def _parse_index(content: bytes, where: str, legacy: bool) -> dict[str, str]:
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
