"""The one way to open files that others wrote.

Only a plain file is opened: no named pipe (it may never get data) and no device (it may have no end). It is read up to
a limit. A file of a folder must be inside it, links followed, or in the blobs of the Hub's cache. The error for a
refused file is also an `OSError`, so code that reports the system's errors reports it too.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tuneport.errors import CheckpointError, ForeignFileError
from tuneport.platforms import flags

# Records, settings and cards; files beside the weights (the largest tokenizer.json on the Hub has about 35 MB); what tuneport
# writes and can be long: the manifest of a hundred thousand tensors, a study's results, its report. What is bounded otherwise says why, where it is read.
MOST_BYTES = 64 * 2**20
MOST_SIDECAR_BYTES = 128 * 2**20
MOST_RECORD_BYTES = 256 * 2**20
_PIECE = 2**20
_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def open_descriptor(path: str | os.PathLike[str], inside: Path | None = None) -> int:
    """A descriptor of a plain file, for reading; the caller closes it.

    Links are followed: anywhere without ``inside``, else as `check_inside` allows. Raises `ForeignFileError` for a file
    that must not be opened, and `OSError` for one that cannot be.
    """
    place = Path(os.path.realpath(path, strict=True))
    if inside is not None:
        check_inside(path, inside)
    check_plain(place.stat(), path)  # before it is opened: to open a device may do something
    # Between the two looks a pipe may have taken its place: nothing waits for its other end.
    opening = os.O_RDONLY | flags("O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC", "O_NOCTTY")
    try:
        descriptor = os.open(place, opening)
    except OSError as error:
        error.filename = os.fspath(path)
        raise
    try:
        check_plain(os.fstat(descriptor), path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def opened(path: str | os.PathLike[str], inside: Path | None = None, most: int | None = None) -> Iterator[BinaryIO]:
    """A plain file, open for reading in pieces or lines; see `open_descriptor`. ``most`` bounds its size."""
    with os.fdopen(open_descriptor(path, inside), "rb") as file:
        if most is not None and os.fstat(file.fileno()).st_size > most:
            raise _too_large(path, most)
        yield file


def read_bytes(path: str | os.PathLike[str], inside: Path | None = None, most: int = MOST_BYTES) -> bytes:
    """The contents of a plain file of at most ``most`` bytes; see `open_descriptor`."""
    with opened(path, inside, most) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1)  # one more: it may grow meanwhile, or be of a kind that tells no size
        while piece := file.read(_PIECE):
            content += piece
            if len(content) > most:
                raise _too_large(path, most)
    return content


def content_digest(file: BinaryIO) -> str:
    """BLAKE3 of what an opened file holds, read a piece at a time."""
    from blake3 import blake3  # help shows records, whose modules open files, and needs no digest

    found = hashlib.file_digest(file, blake3)  # type: ignore[arg-type]  # it takes other files and hashes than its stubs know
    return found.hexdigest()


def read_object(system: Any, place: str, most: int = MOST_BYTES) -> bytes:
    """What an object holds behind a URL (``system`` is fsspec's), of at most ``most`` bytes.

    Raises `FileNotFoundError`, `ForeignFileError` for a larger one, and what the system raises.
    """
    content: bytes = system.cat_file(place, start=0, end=most + 1)
    if len(content) > most:
        raise _too_large(place, most)
    return content


def read_text(path: str | os.PathLike[str], inside: Path | None = None, most: int = MOST_BYTES) -> str:
    """The contents of a plain file as UTF-8 text. Raises `UnicodeDecodeError`, and as `read_bytes` does."""
    return read_bytes(path, inside, most).decode("utf-8")


def read_lines(path: str | os.PathLike[str], inside: Path | None = None) -> Generator[bytes, None, None]:
    """The lines of a plain file of any size, one at a time; see `open_descriptor`. A line is bounded, as `read_bytes` is."""
    with opened(path, inside) as file:
        while line := file.readline(MOST_BYTES + 1):
            if len(line) > MOST_BYTES:
                raise ForeignFileError(
                    errno.EFBIG,
                    f"it has a line of more than {MOST_BYTES:,} bytes, the limit for a line",
                    os.fspath(path),
                )
            yield line


@contextmanager
def read_in_words(what: str) -> Iterator[None]:
    """Turn errors of the system while reading ``what`` into `CheckpointError`."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{what} cannot be read: {error.strerror or error}.") from None


def contents(content: bytes | Path, most: int = MOST_SIDECAR_BYTES) -> bytes:
    """What a small file holds that is given by its contents, or by its place."""
    return content if isinstance(content, bytes) else read_bytes(content, most=most)


def check_file(path: str | os.PathLike[str], inside: Path | None = None) -> bool:
    """Whether there is a file at ``path``, or at the end of its links; False for a folder, and where there is nothing.

    Raises `ForeignFileError` for a file that `open_descriptor` would not open.
    """
    try:
        status = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # (a null byte is in no name of a file)
        return False
    except OSError as error:
        if error.errno in (
            errno.ELOOP,
            errno.ENAMETOOLONG,
        ):  # links in a circle lead to nothing; no file has such a name
            return False
        raise
    if stat.S_ISDIR(status.st_mode):
        return False
    if inside is not None:
        check_inside(path, inside)
    check_plain(status, path)
    return True


def check_inside(path: str | os.PathLike[str], folder: Path) -> None:
    """Raise `ForeignFileError` unless ``path``, links followed, lies in ``folder`` or in the blobs of the Hub's cache."""
    path = Path(path)
    if path.parent == folder and path.name != ".." and not path.is_symlink():
        return  # as nearly all files; to follow the links of every folder above, twice, takes ten times as long
    place, root = resolved(path), resolved(folder)
    if not place.is_relative_to(root) and not _is_blob(place, root):
        raise ForeignFileError(
            errno.ELOOP,
            f"a link leads out of the folder, to {place}. Replace the link by a copy of that file, or remove it",
            os.fspath(path),
        )


def resolved(path: Path) -> Path:
    """Where a path leads, links followed; links that lead in a circle are followed once, where `Path.resolve` would raise."""
    return Path(os.path.realpath(path))


def _is_blob(place: Path, root: Path) -> bool:
    """Whether a file lies among the blobs of a repository in the Hub's cache, to which its snapshots link."""
    repository = place.parent.parent
    if place.parent.name != "blobs" or not repository.name.startswith(("models--", "datasets--")):
        return False
    own = root.parent.name == "snapshots" and root.parent.parent == repository
    return own or repository.parent == _hub_cache()


def _hub_cache() -> Path:
    """Where the Hub's client keeps its cache, without importing it."""
    home = os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return resolved(Path(os.path.expandvars(cache)).expanduser())


def check_plain(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    """Raise `OSError` with a message for anything but a plain file."""
    if stat.S_ISREG(status.st_mode):
        return
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", os.fspath(path))
    kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "something else")
    raise ForeignFileError(
        errno.EINVAL, f"it is {kind}, not a plain file. Remove it, or put a plain file there", os.fspath(path)
    )


def _too_large(path: str | os.PathLike[str], most: int) -> ForeignFileError:
    return ForeignFileError(errno.EFBIG, f"it has more than {most:,} bytes, the limit for this file", os.fspath(path))
