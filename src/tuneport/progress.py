"""Show progress: a line on a terminal, a bar in a notebook, a line per minute elsewhere.

The work counts what is done; a thread shows it. Work inside other work (a fine-tuning as a step of a study, the
requests of one task) is shown on the same line. A display that fails never stops the work.
"""

from __future__ import annotations

import html
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tuneport import terminal

_SECONDS = {"terminal": 0.2, "notebook": 0.5, "elsewhere": 60.0}
BYTES = "bytes"
_open: list[Progress] = []  # the outermost first: it shows them all
_silent = False


def keep_silent() -> None:
    """Show nothing from this process: another one reports its work."""
    global _silent
    _silent = True


def is_silent() -> bool:
    """Whether another process reports this one's work."""
    return _silent


class Progress:
    """What is done of how much, and how fast; shown while the block runs.

    ``unit`` is what is counted: `BYTES`, or a plural (steps). ``before`` were done by an earlier run, and tell nothing of the rate.
    """

    def __init__(self, what: str, total: float, unit: str, *, before: float = 0, rate: bool = True) -> None:
        """``total`` are to be done, those of ``before`` among them; without ``rate`` each takes as long as it likes."""
        self._has_rate = rate
        self._what, self._total, self._unit = what, max(total, 1), unit
        self._done = self._before = before
        self._lock = threading.Lock()
        self._began = self._counted_from = time.monotonic()
        self._ended = threading.Event()
        self._ticker: threading.Thread | None = None
        self._screen = _Screen()
        self.note = ""
        """What is shown last: the phase, or what is worked on."""
        self.left: Callable[[], float | None] = self._seconds_left
        """Seconds that are left, where somebody knows better than the rate."""

    def add(self, count: float = 1) -> None:
        """So many more are done."""
        with self._lock:  # several threads count
            self._done += count

    def taken_up(self, count: float) -> None:
        """So many of those that are done, or about to be counted so, were done by an earlier run."""
        with self._lock:
            if self._done <= self._before:  # nothing is computed yet: the rate counts from here
                self._counted_from = time.monotonic()
            self._before += count

    def set(self, done: float) -> None:
        """So many are done, all in all."""
        self._done = done

    def words(self) -> str:
        """How far it is: ``transfer 34 % of 15.0 GB (3.2 GB from an earlier run), 0.61 GB/s, 16 s left, computing``."""
        done, seconds = min(self._done, self._total), time.monotonic() - self._counted_from
        if self._unit == BYTES:
            said = f"{self._what} {done / self._total:.0%} of {_size(self._total)}"
            earlier, rate = _size(self._before), f"{_size((self._done - self._before) / max(seconds, 1e-3))}/s"
        else:
            said = f"{self._what} {done:g} of {self._total:g} {self._unit}"
            earlier, rate = f"{self._before:g}", _rate((self._done - self._before) / max(seconds, 1e-3), self._unit)
        found = f" ({earlier} from an earlier run)" if self._before else ""
        left = self.left()
        parts = [
            said + found,
            *([rate] if self._done > self._before and self._has_rate else []),
            *([f"{duration(left)} left"] if left is not None and seconds > 1 else []),
            *([self.note] if self.note else []),
        ]
        return ", ".join(parts).strip()

    def _seconds_left(self) -> float | None:
        computed = self._done - self._before
        if computed <= 0:
            return None
        return max(self._total - self._done, 0) * (time.monotonic() - self._counted_from) / computed

    def __enter__(self) -> Self:
        if _silent:
            return self
        self._began = self._counted_from = time.monotonic()
        _open.append(self)
        if len(_open) == 1:
            self._screen = _screen()
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self in _open:
            del _open[_open.index(self) :]  # with those inside it that nobody closed
        self._ended.set()
        if self._ticker is not None:
            self._ticker.join()
            self._screen.clear(f"{self.words()}, {duration(time.monotonic() - self._began)}", whole=kind is None)

    def _tick(self) -> None:
        while not self._ended.wait(self._screen.seconds):
            self._screen.show(" · ".join(each.words() for each in list(_open)), min(self._done / self._total, 1))


class _Screen:
    """Where it is shown: lines in a file or a pipe."""

    seconds = _SECONDS["elsewhere"]

    def show(self, words: str, share: float) -> None:
        """Show the current state."""
        terminal.tell(words)

    def clear(self, words: str, whole: bool) -> None:
        """The work has ended, successfully if ``whole``."""


class _Terminal(_Screen):
    seconds = _SECONDS["terminal"]

    def show(self, words: str, share: float) -> None:
        terminal.draw(words)

    def clear(self, words: str, whole: bool) -> None:
        terminal.erase()


class _Notebook(_Screen):
    """A bar of HTML, which needs no widgets: it is replaced in its place by its display's id."""

    seconds = _SECONDS["notebook"]

    def __init__(self, display: Any) -> None:
        self._display = display
        self._handle: Any = None

    def show(self, words: str, share: float) -> None:
        bar = f'<progress value="{share:.4f}" max="1" style="width: 20em"></progress> '
        content = {"text/plain": words, "text/html": f"{bar}<code>{html.escape(words)}</code>"}
        if self._handle is None:
            self._handle = self._display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)

    def clear(self, words: str, whole: bool) -> None:
        if self._handle is not None:
            self.show(words if whole else f"{words}, stopped", 1.0 if whole else 0.0)


def _screen() -> _Screen:
    if terminal.is_watched():
        return _Terminal()
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None and "IPKernelApp" in shell.config:  # a kernel, and no IPython in a terminal or a pipe
        return _Notebook(sys.modules["IPython.display"].display)
    return _Screen()


def duration(seconds: float) -> str:
    """Seconds in words of one or two units: ``48 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours / 24:.1f} days"


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _rate(rate: float, unit: str) -> str:
    return f"{rate:.1f} {unit}/s" if rate >= 1 or rate == 0 else f"{1 / rate:.1f} s each"
