"""The weights of a checkpoint, read piece by piece into the caller's buffers.

In comes a `Checkpoint`, out comes a `TensorReader` of positioned reads; nothing is mapped into memory, and a file that changes
while it is read is told.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.legacy import LegacyReader
from tuneport.checkpoint.views import read_view
from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import CheckpointError


class TensorReader(Protocol):
    """Reads bytes of tensors; safe to use from several threads at once."""

    def read_into(self, tensor: StoredTensor, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the tensor's bytes from byte ``start`` on."""

    def place(self, tensor: StoredTensor) -> tuple[int, int] | None:
        """An open file's descriptor and the tensor's first byte in it; None where it does not lie in a file as it is."""

    def check_unchanged(self) -> None:
        """Raise `CheckpointError` if a file is no longer the one whose header was read."""

    def close(self) -> None:
        """Close every file."""


@contextmanager
def reading(checkpoint: Checkpoint) -> Iterator[TensorReader]:
    """The checkpoint's files, open for reading; they are closed at the end, and not checked."""
    reader: TensorReader
    reader = LegacyReader(checkpoint) if checkpoint.legacy else FileReader(checkpoint)
    try:
        yield reader
    finally:
        reader.close()


class FileReader:
    """Positioned reads from the safetensors files of a checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Open every file and see that it is still the one whose header was read."""
        self._where = f"{checkpoint.role} {checkpoint.label}"
        self._files = checkpoint.files
        self._descriptors: dict[str, int] = {}
        try:
            for name in checkpoint.files:
                self._descriptors[name] = os.open(checkpoint.path / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.close()
            raise CheckpointError(f"{self._where}: {error.filename} cannot be opened: {error.strerror}.") from None
        self._seen = {name: _stamp(os.fstat(descriptor)) for name, descriptor in self._descriptors.items()}
        for name, file in checkpoint.files.items():
            if self._seen[name][0] != file.size or (file.mtime_ns and self._seen[name][1] != file.mtime_ns):
                self.close()
                raise CheckpointError(f"{self._where}: {name} was changed since its header was read. Run again.")

    def read_into(self, tensor: StoredTensor, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the tensor's bytes from byte ``start`` on."""
        read_view(tensor, start, buffer, self._read)

    def _read(self, tensor: StoredTensor, start: int, buffer: memoryview) -> None:
        descriptor, position, rest = self._descriptors[tensor.file], tensor.offset + start, buffer
        try:
            while rest:
                count = os.preadv(descriptor, [rest], position)
                if count == 0:
                    raise CheckpointError(
                        f"{self._where}: {tensor.file} ends inside `{tensor.name}`; it was cut short while it was read."
                    )
                position, rest = position + count, rest[count:]
        except OSError as error:
            raise CheckpointError(
                f"{self._where}: {tensor.file} cannot be read at `{tensor.name}`: {error.strerror}."
            ) from None

    def place(self, tensor: StoredTensor) -> tuple[int, int] | None:
        """An open file's descriptor and the tensor's first byte in it; None where its bytes do not follow each other."""
        return (self._descriptors[tensor.file], tensor.offset) if tensor.in_one_piece else None

    def check_unchanged(self) -> None:
        """Raise if a file was written to since it was opened: what was read may then be of two versions."""
        changed = [name for name, fd in self._descriptors.items() if _stamp(os.fstat(fd)) != self._seen[name]]
        if changed:
            raise CheckpointError(f"{self._where}: {', '.join(changed)} changed while it was read. Run again.")

    def close(self) -> None:
        """Close every file."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
