"""Lock a folder or file against other processes; the lock ends with its process and follows a rename."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tuneport.errors import OutputError, PlatformError
from tuneport.files.writing import open_own, told
from tuneport.platforms import flags, posix


@contextlib.contextmanager
def held(
    lock: Path,
    advice: str,
    *,
    what: Path | None = None,
    as_file: bool = False,
    patience: float = 0.0,
    holder: Callable[[int], str] | None = None,
) -> Iterator[int]:
    """Create a folder (or a file) if it is missing, and lock it; yields its descriptor. If another process holds it for
    ``patience`` seconds, raises `OutputError` with that process (found by ``holder`` from the descriptor) and
    ``advice``. If the other process renamed it meanwhile, a new one is created and locked.
    """
    fcntl = posix("fcntl")  # before anything is made
    until = time.monotonic() + patience
    while True:
        with told(lock):
            descriptor = _opened(lock, as_file)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if is_at(descriptor, lock):
                    break
            except BlockingIOError:
                if time.monotonic() >= until:
                    who = (holder or _of_the_system)(descriptor)
                    os.close(descriptor)
                    raise OutputError(f"{what or lock} is in use by {who}. {advice}") from None
                time.sleep(0.05)
            os.close(descriptor)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether what is open still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def is_held(descriptor: int) -> bool:
    """Whether another process (or another opening of this one) holds what is open."""
    try:
        fcntl = posix("fcntl")
    except PlatformError:
        return False  # where nothing can be held, nobody holds it
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def this_process() -> str:
    """This process, for the message of one that has to wait."""
    return f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S %z')}"


def _opened(lock: Path, as_file: bool) -> int:
    if as_file:
        lock.parent.mkdir(parents=True, exist_ok=True)
        return open_own(lock, os.O_RDWR)
    lock.mkdir(parents=True, exist_ok=True)
    return os.open(lock, os.O_RDONLY | flags("O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC"))


def _of_the_system(descriptor: int) -> str:
    """Who holds what is open, as far as the system tells (Linux does, of this machine)."""
    status = os.fstat(descriptor)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        locks = []
    pids = [lock[4] for lock in locks if len(lock) > 4 and lock[1] == "FLOCK" and place in lock]
    return f"another run (process {pids[0]})" if pids else "another run"
