"""What tuneport needs of the system, and its message if that is missing: Windows has it only under WSL.

Locks and limits are requested only where they are needed, so commands without them (help, inspect, report, dry runs)
run anywhere.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
import threading
from types import ModuleType

from tuneport.errors import PlatformError

_OFFERS = {"fcntl": "locks of files", "resource": "limits on a process"}
_ONE_AT_A_TIME = threading.Lock()


def posix(module: str) -> ModuleType:
    """`fcntl` or `resource`. Raises `PlatformError` where the system has none."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise PlatformError(f"This needs {_OFFERS[module]}, which {_here()} does not have. {_remedy()}") from None


def flags(*names: str) -> int:
    """Flags of `os.open` as far as the system has them; a file is always opened as bytes."""
    found = getattr(os, "O_BINARY", 0)
    for name in names:
        found |= getattr(os, name, 0)
    return found


def read_at(descriptor: int, buffer: memoryview, position: int) -> int:
    """Read into ``buffer`` from this place of a file on; how many bytes came, 0 at its end. Safe to use from several threads."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], position)
    with _ONE_AT_A_TIME:  # without positioned reads the place in the file is shared
        os.lseek(descriptor, position, os.SEEK_SET)
        content = os.read(descriptor, len(buffer))
    buffer[: len(content)] = content
    return len(content)


def _here() -> str:
    return platform.system() or sys.platform


def _remedy() -> str:
    if _here() == "Windows":
        return "On Windows, use WSL (wsl --install) and run the same command there."
    return "Run it on Linux or macOS."
