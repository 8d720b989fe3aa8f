"""Write our own files: in full or not at all, never through a link, with a message for what the system refuses."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tuneport.errors import ForeignFileError, OutputError, TuneportError
from tuneport.files.opening import check_plain, opened
from tuneport.platforms import flags as system_flags

_PIECE = 2**20
_GO_ON = "Fix the problem and run the command again; finished work is kept."


def write_new(path: Path, content: bytes | Path) -> None:
    """Write a new file. An existing one of this name is removed first, so nothing is written through a link."""
    with create(path) as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            with opened(content) as source:
                while piece := source.read(_PIECE):
                    file.write(piece)


@contextmanager
def create(path: Path) -> Iterator[BinaryIO]:
    """A new file, open for writing; an existing one is removed first, and no link is followed."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | system_flags("O_NOFOLLOW", "O_CLOEXEC"), 0o666)
    with os.fdopen(descriptor, "wb") as file:
        yield file


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file that is written beside its place and renamed at the end of the block: it is whole, or what was there before."""
    fresh = path.with_name(f"{path.name}.new")
    with create(fresh) as file:
        yield file
    fresh.replace(path)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file by `whole`; text as UTF-8."""
    with whole(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


def write_once(path: Path, text: str) -> None:
    """Write a complete file if it is missing: a resumed run finds the same file again."""
    if not path.exists():
        write_whole(path, text)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A JSONL file, one object a line, by `write_once`."""
    write_once(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def open_own(path: Path, flags: int) -> int:
    """A descriptor of a file in a run's own folder, to continue writing; created if missing; the caller closes it.

    Raises `ForeignFileError` where a link, a pipe or a file that has another name elsewhere was put in its place.
    """
    try:
        descriptor = os.open(path, flags | os.O_CREAT | system_flags("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"), 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise ForeignFileError(
                error.errno, "it is a link or a pipe, not a file of this run. Remove it", str(path)
            ) from None
        raise
    try:
        status = os.fstat(descriptor)
        check_plain(status, path)
        if status.st_nlink > 1:
            raise ForeignFileError(errno.EMLINK, "it has a second name (a hard link). Remove it", str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def cannot_write(place: Path, error: Exception, advice: str = _GO_ON) -> OutputError:
    """What was refused at ``place``, or at the file that the error names, in the system's words."""
    where, why = getattr(error, "filename", None) or place, getattr(error, "strerror", None) or str(error)
    return OutputError(f"Cannot write {where}: {why}. {advice}")


@contextmanager
def told(place: Path, advice: str = _GO_ON) -> Iterator[None]:
    """Turn errors of the system while writing at ``place`` into `OutputError`."""
    try:
        yield
    except TuneportError:
        raise
    except OSError as error:
        raise cannot_write(place, error, advice) from None
