"""Open a local folder as a Checkpoint: read the headers of its weight files and its small files, but no weights.

The one exception: if a folder contains two sets of weights, these are compared.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from blake3 import blake3

from tuneport.checkpoint.adapter_config import read_adapter_config
from tuneport.checkpoint.checkpoint import Checkpoint, WeightFile
from tuneport.checkpoint.header import MAX_HEADER_BYTES
from tuneport.checkpoint.pytorch_bin import open_legacy
from tuneport.checkpoint.reading import TensorReader, reading
from tuneport.checkpoint.small_files import MORE_TEMPLATES, SidecarFolder, check_names
from tuneport.checkpoint.two_sets import LOCAL, PICKLED, Read, compared, told_of_two, unreadable_beside
from tuneport.checkpoint.weight_sets import ADAPTER, NAMED_IN_CONFIG, Weights, choose_weights
from tuneport.checkpoint.weights import (
    MAX_INDEX_BYTES,
    StoredTensor,
    TensorTable,
    check_gathered,
    check_headers_together,
    join_files,
    tensors_of_file,
)
from tuneport.errors import CheckpointError
from tuneport.files.opening import check_file, opened, read_bytes, resolved
from tuneport.files.printable import printable_line

_WEIGHTS = (".safetensors", ".bin")
# A pattern for each of a hundred thousand modules fits.
MOST_CONFIG_BYTES = 8 * 2**20


def open_folder(path: Path, role: str, stem: str = "model", label: str | None = None) -> Checkpoint:
    """A checkpoint from a local folder; ``stem`` is how its weight files' names begin, ``label`` replaces its name in
    messages.
    """
    label = printable_line(label or resolved(path).name)
    where = f"{role} {label}"
    try:
        names = [_listed(entry) for entry in path.iterdir() if entry.exists()]
        config = SidecarFolder(role, label, path).json("config.json") or {}
        named = config.get(NAMED_IN_CONFIG)
        weights = choose_weights(names, lambda name: read_bytes(path / name, path, MAX_INDEX_BYTES), where, stem, named)
        check_names(weights.files, where)
        checkpoint = _with_weights(path, role, label, weights)
        warnings = (*weights.warnings, *(_compared(checkpoint, weights, other) for other in weights.beside))
        checkpoint = replace(checkpoint, warnings=warnings)
        if weights.adapter:
            return as_adapter(checkpoint, (path / ADAPTER).stat())
    except OSError as error:
        raise CheckpointError(f"{where}: {error.filename} cannot be read: {error.strerror}.") from None
    return replace(checkpoint, config=config)


def _listed(entry: Path) -> str:
    """An entry of a folder as `choose_weights` knows it: of a folder with an adapter (peft's, that has a name) its config."""
    if not entry.is_dir():
        return entry.name
    return f"{entry.name}/{ADAPTER}" if (entry / ADAPTER).exists() else f"{entry.name}/"


def check_for_loaders(folder: Path) -> None:
    """Raise `ForeignFileError` where transformers or peft, given the folder, would open a file that must not be opened.
    They open files by their own names and follow any link: each file must be a plain one inside the folder, except
    weights.
    """
    places = [folder, *(folder / name for name in (MORE_TEMPLATES,) if (folder / name).is_dir())]
    for entry in (entry for place in places for entry in sorted(place.iterdir())):
        check_file(entry, None if entry.name.endswith(_WEIGHTS) else folder)


def as_adapter(checkpoint: Checkpoint, status: os.stat_result | None = None) -> Checkpoint:
    """The checkpoint with what its adapter_config.json says, which counts as much as the weights: it scales them."""
    where = f"{checkpoint.role} {checkpoint.label}"
    content = checkpoint.sidecars.read(ADAPTER) or b""
    if len(content) > MOST_CONFIG_BYTES:
        raise CheckpointError(f"{where}: {ADAPTER} has {len(content)} bytes, over the limit of {MOST_CONFIG_BYTES}.")
    config = read_adapter_config(checkpoint.sidecars.json(ADAPTER) or {}, where)
    mtime, ctime = (status.st_mtime_ns, status.st_ctime_ns) if status is not None else (0, 0)
    file = WeightFile(ADAPTER, len(content), mtime, blake3(content).hexdigest(), ctime_ns=ctime)
    return replace(checkpoint, adapter=config, files={**checkpoint.files, ADAPTER: file})


def _with_weights(path: Path, role: str, label: str, weights: Weights) -> Checkpoint:
    if weights.legacy:
        return open_legacy(path, role, label, weights)
    where = f"{role} {label}"
    # Before any is parsed, which takes several times its bytes.
    check_headers_together(sum(_stated_header_bytes(path / name) for name in weights.files), where)
    files, per_file = {}, {}
    for name in weights.files:
        files[name], per_file[name] = read_file_header(path / name, f"{where}: {name}")
    tensors = join_files(weights.index, per_file, where)
    check_gathered(tensors, weights.pickled, where)
    return Checkpoint(role, label, None, path, files, tensors)


def _compared(checkpoint: Checkpoint, weights: Weights, beside: Weights) -> str:
    """What to say of a second whole set. Raises `CheckpointError` where it differs from the one that counts."""
    where = f"{checkpoint.role} {checkpoint.label}"
    way_out = "Move the files you do not need to another folder."
    if beside.legacy != weights.legacy:
        return told_of_two(weights, beside, PICKLED, where, way_out)
    try:
        other = _with_weights(checkpoint.path, checkpoint.role, checkpoint.label, beside)
    except CheckpointError as error:
        return unreadable_beside(weights, beside, error)
    with reading(checkpoint) as one, reading(other) as two:
        found = compared(checkpoint.tensors, other.tensors, (_reads(one), _reads(two)), LOCAL)
    return told_of_two(weights, beside, found, where, way_out)


def _reads(reader: TensorReader) -> Read:
    def read(tensor: StoredTensor, start: int, count: int) -> bytes:
        buffer = bytearray(count)
        reader.read_into(tensor, start, memoryview(buffer))
        return bytes(buffer)

    return read


def _stated_header_bytes(path: Path) -> int:
    """How many bytes a file says that its header has; 0 where that is not possible, which whoever parses it tells."""
    with opened(path) as file:
        length = int.from_bytes(file.read(8), "little")
    return length if length <= MAX_HEADER_BYTES else 0


def read_file_header(path: Path, where: str) -> tuple[WeightFile, TensorTable]:
    """What a safetensors file holds. Raises `CheckpointError` where it is not whole."""
    with opened(path) as file:  # weights may be links to another disk: they are never copied as they stand
        status = os.fstat(file.fileno())

        def prefix(start: int, count: int) -> bytes:
            file.seek(start)
            return file.read(count)

        tensors, header = tensors_of_file(path.name, status.st_size, prefix, where)
    digest = blake3(header).hexdigest()
    return WeightFile(path.name, status.st_size, status.st_mtime_ns, digest, ctime_ns=status.st_ctime_ns), tensors
