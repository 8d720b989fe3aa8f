"""Show messages while work is running: on stderr, which may be a terminal, a file, closed or gone.

If nothing can be shown, the work continues: whoever closed stderr wants only the result.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

from tuneport.files.printable import printable_line, printable_lines

_ERASE = "\r\x1b[K"
_lock = threading.RLock()  # a thread draws, and others tell
_ours: TextIO | None = None
_drawn = False  # whether the terminal shows a line of progress, which other output replaces


def open_streams() -> None:
    """Give a process whose stdin, stdout or stderr was closed the null device in their place.

    Without it the first file that is opened gets the number of the closed stream, and whatever a library writes to stderr goes
    into that file. Raises OSError where there is no null device.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115  (as long as the process)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Δ or −, a name that is not Unicode


def stream() -> TextIO | None:
    """Where messages go: stderr, also while a library's output is kept from it (`speaking_to`)."""
    return sys.stderr if _ours is None else _ours


@contextlib.contextmanager
def speaking_to(where: TextIO | None) -> Iterator[None]:
    """Our own messages go there while the block runs, whatever happens to ``sys.stderr``."""
    global _ours
    before, _ours = _ours, where
    try:
        yield
    finally:
        _ours = before


def is_watched() -> bool:
    """Whether stderr is a terminal, where progress is shown."""
    where = stream()
    return where is not None and not where.closed and where.isatty()


def tell(text: str, end: str = "\n") -> None:
    """A line on stderr, safe to print; nothing where stderr is closed, or cannot be written."""
    global _drawn
    with _lock:
        write((_ERASE if _drawn else "") + printable_lines(text) + end)
        _drawn = False


def tell_all(text: str) -> None:
    """A message of several lines on stderr. All but the first are indented, so that no text of others can begin one of ours."""
    first, *rest = text.split("\n")
    tell("\n".join([first, *(line if line.startswith("  ") or not line else f"  {line}" for line in rest)]))


def draw(text: str) -> None:
    """Put a line on a terminal in place of the one that was drawn before, cut to the terminal's width."""
    global _drawn
    width = shutil.get_terminal_size().columns - 1
    text = printable_line(text)
    with _lock:
        write(_ERASE + (text if len(text) <= width else text[: width - 1] + "…"))
        _drawn = True


def erase() -> None:
    """Take the drawn line away."""
    global _drawn
    with _lock:
        if _drawn:
            write(_ERASE)
        _drawn = False


def write(text: str) -> None:
    """Text of our own on stderr, as it stands, with what moves the cursor."""
    where = stream()
    if where is None or where.closed:
        return
    with contextlib.suppress(
        OSError
    ):  # the reader went away, or a disk is full: there is nobody to tell, and work goes on
        where.write(text)
        where.flush()
