"""Holding a place against other processes, and saying in words what the operating system refuses there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from tuneport.errors import OutputError
from tuneport.files.opening import open_own

# A process that was killed lets go of its locks at once, one on a node that died within some seconds.
PATIENCE = 60.0
_REFUSED = (
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ELOOP, errno.EISDIR,
)  # fmt: skip


@contextlib.contextmanager
def alone(place: Path, lock: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold `lock` (a folder, or a file to be made); waits for one who is about to die, raises if he lives on."""
    if lock.is_dir():
        descriptor = os.open(lock, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    else:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_own(lock, os.O_RDWR)
    try:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > until:
                    raise OutputError(f"{place} has been in use by another process for {patience:g} s.") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def told(place: Path) -> Iterator[None]:
    """Say in words what the operating system refuses."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED and not isinstance(error, NotADirectoryError | FileExistsError):
            raise
        raise OutputError(
            f"Cannot write {place}: {error.strerror}. Mend the cause and run the same command again; what is done stays."
        ) from None


def this_process() -> str:
    """Who this is, for another who has to wait."""
    return f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S %z')}"
