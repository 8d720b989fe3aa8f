"""A folder on this machine becomes a Checkpoint: the headers of its weight files and its small files are read, no weight."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from blake3 import blake3

from tuneport.checkpoint.adapter_config import read_adapter_config
from tuneport.checkpoint.checkpoint import Checkpoint, WeightFile
from tuneport.checkpoint.legacy import open_legacy
from tuneport.checkpoint.weights import ADAPTER, StoredTensor, choose_weights, join_files, tensors_of_file
from tuneport.errors import CheckpointError

# A pattern for each of a hundred thousand modules fits.
MOST_CONFIG_BYTES = 8 * 2**20


def open_folder(path: Path, role: str, stem: str = "model") -> Checkpoint:
    """A checkpoint from a local folder; ``stem`` is how its weight files begin."""
    label = path.resolve().name
    where = f"{role} {label}"
    try:
        names = [entry.name for entry in path.iterdir() if entry.is_file()]
        weights = choose_weights(names, lambda name: (path / name).read_bytes(), where, stem)
        if weights.legacy:
            return open_legacy(path, role, label, weights)
        files, per_file = {}, {}
        for name in weights.files:
            files[name], per_file[name] = _read_file_header(path / name, f"{where}: {name}")
        if weights.adapter:
            status = (path / ADAPTER).stat()
    except OSError as error:
        raise CheckpointError(f"{where}: {error.filename} cannot be read: {error.strerror}.") from None
    checkpoint = Checkpoint(role, label, None, path, files, join_files(weights, per_file, where))
    if weights.adapter:
        return as_adapter(checkpoint, status.st_mtime_ns)
    return replace(checkpoint, config=checkpoint.sidecars.json("config.json") or {})


def as_adapter(checkpoint: Checkpoint, mtime_ns: int) -> Checkpoint:
    """The checkpoint with what its adapter_config.json says, which counts as much as the weights: it scales them."""
    where = f"{checkpoint.role} {checkpoint.label}"
    content = checkpoint.sidecars.read(ADAPTER) or b""
    if len(content) > MOST_CONFIG_BYTES:
        raise CheckpointError(f"{where}: {ADAPTER} has {len(content)} bytes, over the limit of {MOST_CONFIG_BYTES}.")
    config = read_adapter_config(checkpoint.sidecars.json(ADAPTER) or {}, where)
    file = WeightFile(ADAPTER, len(content), mtime_ns, blake3(content).hexdigest())
    return replace(checkpoint, adapter=config, files={**checkpoint.files, ADAPTER: file})


def _read_file_header(path: Path, where: str) -> tuple[WeightFile, dict[str, StoredTensor]]:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())

        def prefix(start: int, count: int) -> bytes:
            file.seek(start)
            return file.read(count)

        tensors, header = tensors_of_file(path.name, status.st_size, prefix, where)
    return WeightFile(path.name, status.st_size, status.st_mtime_ns, blake3(header).hexdigest()), tensors
