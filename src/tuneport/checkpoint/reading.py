"""Read the weights of a checkpoint piece by piece into the caller's buffers.

A `TensorReader` uses positioned reads and maps nothing into memory. A file that changes while it is read is an error.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.encoded.encoded_tensors import encoded_reads
from tuneport.checkpoint.open_files import KeptFile
from tuneport.checkpoint.pytorch_bin import LegacyReader
from tuneport.checkpoint.quantised.scaled_tensors import Read, dequantised_reads
from tuneport.checkpoint.views import read_view
from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import CheckpointError
from tuneport.files.printable import quoted
from tuneport.platforms import flags, read_at


class TensorReader(Protocol):
    """Reads bytes of tensors; safe to use from several threads at once."""

    def read_into(self, tensor: StoredTensor, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the tensor's bytes from byte ``start`` on."""

    def place(self, tensor: StoredTensor) -> AbstractContextManager[tuple[int, int]] | None:
        """A file's descriptor, open meanwhile, and the tensor's first byte in it; None if it is not stored in a file as
        it is.
        """

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
        """Open every file and check that it is still the one whose header was read."""
        self._where = f"{checkpoint.role} {checkpoint.label}"
        self._read: Read = self._read_stored
        if checkpoint.scaled is not None:
            self._read = dequantised_reads(checkpoint.scaled, self._read_stored)
        elif checkpoint.encoded is not None:
            self._read = encoded_reads(checkpoint.encoded, self._read_stored, self._where)
        self._seen: dict[str, tuple[int, ...]] = {}
        self._files = {
            name: KeptFile(
                checkpoint.path / name, os.O_RDONLY | flags("O_NONBLOCK"), functools.partial(self._check, name)
            )
            for name in checkpoint.files
        }
        for name, file in checkpoint.files.items():
            with self._used(name):
                seen = self._seen[name][:3]
            then = (
                file.size,
                file.mtime_ns or seen[1],
                file.ctime_ns or seen[2],
            )  # of a file of the Hub no times are known
            if seen != then:
                self.close()
                raise CheckpointError(f"{self._where}: {name} changed after its header was read. Run again.")

    @contextmanager
    def _used(self, name: str) -> Iterator[int]:
        with ExitStack() as stack:
            try:
                descriptor = stack.enter_context(self._files[name].used())
            except OSError as error:
                self.close()
                raise CheckpointError(f"{self._where}: {error.filename} cannot be opened: {error.strerror}.") from None
            yield descriptor

    def _check(self, name: str, descriptor: int) -> None:
        """Raise if the file that was opened is not the one that was opened first."""
        stamp = _stamp(os.fstat(descriptor))
        if self._seen.setdefault(name, stamp) != stamp:
            raise CheckpointError(f"{self._where}: {name} changed while it was read. Run again.")

    def read_into(self, tensor: StoredTensor, start: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the tensor's bytes from byte ``start`` on."""
        read_view(tensor, start, buffer, self._read)

    def _read_stored(self, tensor: StoredTensor, start: int, buffer: memoryview) -> None:
        position, rest = tensor.offset + start, buffer
        try:
            with self._used(tensor.file) as descriptor:
                while rest:
                    count = read_at(descriptor, rest, position)
                    if count == 0:
                        raise CheckpointError(
                            f"{self._where}: {tensor.file} ends inside {quoted(tensor.name)}; it was truncated while "
                            f"tuneport read it."
                        )
                    position, rest = position + count, rest[count:]
        except OSError as error:
            raise CheckpointError(
                f"{self._where}: {tensor.file} cannot be read at {quoted(tensor.name)}: {error.strerror}."
            ) from None

    def place(self, tensor: StoredTensor) -> AbstractContextManager[tuple[int, int]] | None:
        """An open file's descriptor and the tensor's first byte in it; None where its bytes do not follow each other."""
        return self._placed(tensor) if tensor.in_one_piece and not tensor.is_computed else None

    @contextmanager
    def _placed(self, tensor: StoredTensor) -> Iterator[tuple[int, int]]:
        with self._used(tensor.file) as descriptor:
            yield descriptor, tensor.offset

    def check_unchanged(self) -> None:
        """Raise if a file was written to since it was opened: what was read may then be of two versions."""
        changed = []
        for name in self._files:
            with self._used(name) as descriptor:
                now = os.fstat(descriptor)
                seen = self._seen[name]
                # To be unlinked changes a file's ctime as well; what is open is still what was planned with.
                unlinked = now.st_nlink == 0 and _stamp(now)[:2] == seen[:2]
                if _stamp(now) != seen and not unlinked:
                    changed.append(name)
        if changed:
            raise CheckpointError(f"{self._where}: {', '.join(changed)} changed while it was read. Run again.")

    def close(self) -> None:
        """Close every file."""
        for file in self._files.values():
            file.close()


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino


class Workspace:
    """The reused buffers of one worker, by name. ``kept`` is what it found out last and may need again, by name."""

    def __init__(self) -> None:
        """Begin with none."""
        self._buffers: dict[str, bytearray] = {}
        self.kept: dict[str, tuple[Any, Any]] = {}

    def buffer(self, name: str, nbytes: int) -> memoryview:
        """A view of ``nbytes`` bytes on the worker's buffer ``name``; what it held before is overwritten."""
        held = self._buffers.get(name)
        if held is None or len(held) < nbytes:
            held = self._buffers[name] = bytearray(nbytes)
        return memoryview(held)[:nbytes]


@contextlib.contextmanager
def readers_by_role(checkpoints: tuple[Checkpoint, ...]) -> Iterator[dict[str, TensorReader]]:
    """Readers of several checkpoints, by role."""
    with contextlib.ExitStack() as stack:
        yield {checkpoint.role: stack.enter_context(reading(checkpoint)) for checkpoint in checkpoints}
