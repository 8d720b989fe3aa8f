"""Read legacy pytorch_model*.bin checkpoints through torch, with ``weights_only`` and ``mmap``.

The result is the same Checkpoint as from safetensors. No code in the files is executed (torch refuses anything but
weights), but torch and its memory map are not covered by the memory limit. Without the models extra, an error says what
to install.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blake3 import blake3

from tuneport.checkpoint.checkpoint import Checkpoint, WeightFile
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.views import read_view, stored_name
from tuneport.checkpoint.weight_sets import Weights
from tuneport.checkpoint.weights import StoredTensor, check_gathered, join_files
from tuneport.errors import CheckpointError
from tuneport.files.opening import check_file
from tuneport.files.printable import quoted
from tuneport.libraries import how_to_install


def open_legacy(path: Path, role: str, label: str, weights: Weights) -> Checkpoint:
    """A checkpoint from the .bin files that count."""
    where = f"{role} {label}"
    files, per_file = {}, {}
    for name in weights.files:
        state = _load(path / name, f"{where}: {name}")
        status = (path / name).stat()
        entries = {tensor: _describe(value, tensor, name, where) for tensor, value in state.items()}
        described = repr([(entry.name, entry.dtype, entry.shape) for entry in entries.values()])
        digest = blake3(described.encode()).hexdigest()
        files[name] = WeightFile(name, status.st_size, status.st_mtime_ns, digest, ctime_ns=status.st_ctime_ns)
        per_file[name] = entries
    tensors = join_files(weights.index, per_file, where)
    check_gathered(tensors, None, where)
    return Checkpoint(role, label, None, path, files, tensors, legacy=True)


def _times(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns


class LegacyReader:
    """Copies bytes out of torch's memory-mapped tensors."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Map every file."""
        where = f"{checkpoint.role} {checkpoint.label}"
        self._files = {file.name: checkpoint.path / file.name for file in checkpoint.files.values()}
        self._seen = {name: _times(path) for name, path in self._files.items()}
        self._where = where
        self._states = {name: _load(path, f"{where}: {name}") for name, path in self._files.items()}

    def read_into(self, tensor: StoredTensor, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the tensor's bytes from byte ``start`` on."""
        read_view(tensor, start, buffer, self._read)

    def _read(self, tensor: StoredTensor, start: int, buffer: memoryview) -> None:
        import torch

        start += tensor.offset  # within the stored tensor
        itemsize = DTYPES[tensor.dtype].itemsize
        first, last = start // itemsize, -(-(start + len(buffer)) // itemsize)
        piece = self._states[tensor.file][stored_name(tensor)].reshape(-1)[first:last].contiguous()
        content = piece.view(torch.uint8).numpy()
        skip = start - first * itemsize
        buffer[:] = memoryview(content)[skip : skip + len(buffer)]

    def place(self, tensor: StoredTensor) -> None:
        """None: a tensor lies in a zip file here, and perhaps not in the order of its elements."""

    def check_unchanged(self) -> None:
        """Raise if a file was changed since it was mapped."""
        changed = [name for name, path in self._files.items() if _times(path) != self._seen[name]]
        if changed:
            raise CheckpointError(f"{self._where}: {', '.join(changed)} changed while it was read. Run again.")

    def close(self) -> None:
        """Release the memory maps."""
        self._states = {}


def _load(path: Path, where: str) -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            f"{where}: reading legacy .bin weights needs torch. {how_to_install('models')} Or convert the checkpoint to "
            "safetensors."
        ) from None
    check_file(path)  # no pipe and no device; a link may lead to another disk, as that of any weight file
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        # torch raises many kinds here (pickle, zip, runtime errors); each means that the file is not plain weights.
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{where}: torch does not read it as plain weights ({first[:200]}). Files saved before torch 1.6 must be "
            "saved again; files that hold code are refused."
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise CheckpointError(f"{where} is not a plain state dict of tensors; save model.state_dict().")
    return state


def _describe(value: Any, name: str, file: str, where: str) -> StoredTensor:
    spelled = str(value.dtype).removeprefix("torch.")
    for dtype in DTYPES.values():
        if dtype.torch == spelled:
            return StoredTensor(name, dtype.name, tuple(value.shape), file, 0, value.numel() * dtype.itemsize)
    raise CheckpointError(f"{where}: {quoted(name)} has the dtype {spelled}, which tuneport does not read.")
