"""A folder or a Hub id@revision becomes a Checkpoint: names, shapes, dtypes, byte ranges.

Only headers and small files are read here. The weights themselves are read later, piece by piece, through a
`TensorReader`, with positioned reads into the caller's buffers; nothing is mapped into memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from blake3 import blake3

from tuneport.checkpoint.adapter_config import AdapterConfig, read_adapter_config
from tuneport.checkpoint.folder import SidecarFolder
from tuneport.checkpoint.journal import NAME as JOURNAL
from tuneport.checkpoint.weights import ADAPTER, StoredTensor, choose_weights, join_files, tensors_of_file
from tuneport.errors import CheckpointError

# A pattern for each of a hundred thousand modules fits.
MOST_CONFIG_BYTES = 8 * 2**20
HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./+-]+))?")


@dataclass(frozen=True)
class WeightFile:
    """One file that holds weights: its size, when it was changed (0 on the Hub), and the BLAKE3 of its header."""

    name: str
    size: int
    mtime_ns: int
    header_digest: str
    hub_digest: str | None = None
    cached: bool = True


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk, or on the Hub, as its headers tell it. No weight has been read.

    ``adapter`` is the config of a PEFT adapter, whose tensors are peft's and mean nothing without a base; ``behind`` is
    the folder of that base, once it is known.
    """

    role: str
    label: str
    revision: str | None
    path: Path
    files: Mapping[str, WeightFile]
    tensors: Mapping[str, StoredTensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    hub_id: str | None = None
    legacy: bool = False
    adapter: AdapterConfig | None = None
    behind: Path | None = None

    @property
    def sidecars(self) -> SidecarFolder:
        """The small files beside the weights."""
        return SidecarFolder(self.role, self.label, self.path, self.behind)

    @property
    def parameters(self) -> int:
        """Number of stored elements, buffers included."""
        return sum(tensor.elements for tensor in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def to_fetch(self) -> int:
        """Bytes of weights that are on the Hub and not yet in the cache."""
        return sum(file.size for file in self.files.values() if not file.cached)

    def identity(self) -> dict[str, Any]:
        """What the plan's digest and the manifest say of this input: headers, sizes and the Hub's hashes."""
        hasher = blake3()
        for file in sorted(self.files.values(), key=lambda file: file.name):
            hasher.update(f"{file.name}\0{file.size}\0{file.header_digest}\0".encode())
        return {
            "role": self.role,
            "name": self.hub_id or self.label,
            "revision": self.revision,
            "digest": f"headers:{hasher.hexdigest()}",
            "bytes": sum(file.size for file in self.files.values()),
            **({"hub": hashes} if (hashes := self._hub_hashes()) else {}),
            **({"adapter": self.adapter.in_words()} if self.adapter is not None else {}),
        }

    def _hub_hashes(self) -> dict[str, str]:
        """The Hub's own SHA-256 of each weight file, where it gives one."""
        return {name: file.hub_digest for name, file in self.files.items() if file.hub_digest}


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


def open_checkpoint(spec: str | os.PathLike[str], role: str) -> Checkpoint:
    """A checkpoint from a folder, or from a Hub id such as ``org/name`` or ``org/name@revision``.

    A folder that exists comes first. Raises `CheckpointError`, naming what was looked for and what to do.
    """
    text = os.fspath(spec)
    if not text:
        raise CheckpointError(f"{role}: the name of the folder or Hub id is empty.")
    path = Path(os.path.expanduser(text))
    if path.is_dir():
        if (path / JOURNAL).exists():
            raise CheckpointError(f"{role} {text} is unfinished; run the command that began it again, it goes on.")
        if (path / "diff.safetensors").exists() or (path / "diff.safetensors.index.json").exists():
            raise CheckpointError(f"{role} {text} is a diff vector; add it to a model with `tuneport apply`.")
        return open_folder(path, role)
    if path.exists():
        raise CheckpointError(f"{role} {text} is a file; give the folder that holds it, with its config.json.")
    found = HUB_ID.fullmatch(text)
    if found and not text.startswith((".", "/", "~")):
        from tuneport.checkpoint.hub import open_hub

        return open_hub(found["repo"], found["revision"], role)
    raise CheckpointError(f"{role} {text}: no such folder, and no Hub id either (org/name or org/name@revision).")


def open_folder(path: Path, role: str, stem: str = "model") -> Checkpoint:
    """A checkpoint from a local folder; ``stem`` is how its weight files begin."""
    label = path.resolve().name
    where = f"{role} {label}"
    try:
        names = [entry.name for entry in path.iterdir() if entry.is_file()]
        weights = choose_weights(names, lambda name: (path / name).read_bytes(), where, stem)
        if weights.legacy:
            from tuneport.checkpoint.legacy import open_legacy

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


@contextmanager
def reading(checkpoint: Checkpoint) -> Iterator[TensorReader]:
    """The checkpoint's files, open for reading; they are closed at the end, and not checked."""
    reader: TensorReader
    if checkpoint.legacy:
        from tuneport.checkpoint.legacy import LegacyReader

        reader = LegacyReader(checkpoint)
    else:
        reader = FileReader(checkpoint)
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

    def place(self, tensor: StoredTensor) -> tuple[int, int]:
        """An open file's descriptor and the tensor's first byte in it."""
        return self._descriptors[tensor.file], tensor.offset

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


def _read_file_header(path: Path, where: str) -> tuple[WeightFile, dict[str, StoredTensor]]:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())

        def prefix(start: int, count: int) -> bytes:
            file.seek(start)
            return file.read(count)

        tensors, header = tensors_of_file(path.name, status.st_size, prefix, where)
    return WeightFile(path.name, status.st_size, status.st_mtime_ns, blake3(header).hexdigest()), tensors
