"""What a person is shown while work goes on: stderr, which may be a terminal, a file, closed or gone.

What cannot be shown never stops the work: whoever closed stderr wants the result and no words.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys

from tuneport.files.printable import printable


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
            stream.reconfigure(errors="backslashreplace")  # a terminal without Δ or −, a name that is no Unicode


def is_watched() -> bool:
    """Whether stderr is a terminal, where progress is shown."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def tell(text: str, end: str = "\n") -> None:
    """A line on stderr, safe to print; nothing where stderr is closed, or cannot be written."""
    write(printable(text) + end)


def progress(text: str) -> None:
    """A line for whoever watches; nothing in a file or a pipe."""
    if is_watched():
        tell(text)


def write(text: str) -> None:
    """Text of our own on stderr, as it stands, with what moves the cursor."""
    if sys.stderr is None or sys.stderr.closed:
        return
    with contextlib.suppress(
        OSError
    ):  # the reader went away, or a disk is full: there is nobody to tell, and work goes on
        sys.stderr.write(text)
        sys.stderr.flush()
