"""Keep a limited number of files open, however many shards there are.

A file is open while it is in use. When there are too many, the one unused for longest is closed and reopened when
needed. All readers and outputs of a process share the limit, because the operating system's limit is per process too.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tuneport.errors import PlatformError
from tuneport.platforms import flags as system_flags
from tuneport.platforms import posix

# Descriptors that the process asks for, where it may: three checkpoints and an output of 400 shards each, and some to spare.
_WANTED = 4096
_FEW = 512  # where the system says nothing of a limit
# The part of them that is kept open here; the rest belongs to whoever runs in the same process.
_SHARE = 2


class KeptFile:
    """A file that is opened when it is wanted. ``seen`` is called with each new descriptor, and raises if it is another file."""

    def __init__(self, path: Path, flags: int, seen: Callable[[int], None] = lambda descriptor: None) -> None:
        """Nothing is opened yet; ``flags`` are those of `os.open`."""
        self.path, self.flags, self.seen = path, flags | system_flags("O_CLOEXEC"), seen
        self.users = 0
        self.descriptor = -1

    @contextmanager
    def used(self) -> Iterator[int]:
        """The file's descriptor, which stays open meanwhile. Raises `OSError` where it cannot be opened."""
        descriptor = _FILES.take(self)
        try:
            yield descriptor
        finally:
            _FILES.give_back(self)

    def close(self) -> None:
        """Close it, if it is open."""
        _FILES.close(self)


class _Files:
    """The open files, the last used one at the end. Safe to use from several threads."""

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._open: OrderedDict[KeptFile, None] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, file: KeptFile) -> int:
        with self._lock:
            if file in self._open:
                self._open.move_to_end(file)
            else:
                self._shrink(self.most - 1)
                file.descriptor = self._opened(file)
                self._open[file] = None
            file.users += 1
            return file.descriptor

    def give_back(self, file: KeptFile) -> None:
        with self._lock:
            file.users -= 1
            self._shrink(self.most)

    def close(self, file: KeptFile) -> None:
        with self._lock:
            if file in self._open:
                del self._open[file]
                os.close(file.descriptor)

    @property
    def most(self) -> int:
        """How many may be open, but for those that are in use."""
        if self._most is None:
            self._most = max(_descriptors() // _SHARE, 1)
        return self._most

    def _opened(self, file: KeptFile) -> int:
        try:
            descriptor = os.open(file.path, file.flags)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._shrink(0)  # somebody else in this process holds the others
            descriptor = os.open(file.path, file.flags)
        try:
            file.seen(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _shrink(self, most: int) -> None:
        """Close the files used longest ago until only ``most`` are open, or all of them are in use."""
        while len(self._open) > most:
            unused = next((file for file in self._open if not file.users), None)
            if unused is None:
                return
            del self._open[unused]
            os.close(unused.descriptor)


def _descriptors() -> int:
    """How many descriptors this process may hold; the soft limit is raised first, as far as it may be and is of use."""
    try:
        resource = posix("resource")
    except PlatformError:
        return _FEW
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # some systems refuse; the limit is kept then
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return _WANTED if soft == resource.RLIM_INFINITY else soft


_FILES = _Files()
