"""Conversations become the text that a chat template writes; what a template refuses becomes words.

Every template is rendered here. It is a program of whoever made the model: it may raise anything (a role that it does not
know, turns that do not alternate), run without an end, or take all memory. All of that is a `RenderingError`, and a file's
conversations that cannot be written are told together, with their lines.
"""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tuneport.errors import RenderingError, listing

SECONDS = 5.0  # of computing, for one conversation; the longest take milliseconds
MEMORY = 2**29  # bytes, for one conversation
LONGEST = 2**24  # letters that a template may add to a conversation
_SAID = 300  # letters of a template's own message
_LINES = 20  # that are told of one file for one reason

Messages = Sequence[Mapping[str, Any]]


def render(tokenizer: Any, messages: Messages, *, ask: bool = False) -> str:
    """The conversation as text, by the tokenizer's template; ``ask``: with the beginning of an answer.

    Raises `RenderingError` with what the template says.
    """
    with refusals_in_words():
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=ask,
        )
    if not text:
        raise RenderingError("it writes nothing")
    if len(text) > LONGEST + 4 * sum(len(str(message.get("content"))) for message in messages):
        raise RenderingError(f"it writes {len(text):,} letters for one conversation", broken=True)
    return text


@contextmanager
def refusals_in_words() -> Iterator[None]:
    """Within it a template may be rendered: whatever that raises is a `RenderingError`. `SECONDS` and `MEMORY` bound it."""
    from jinja2 import TemplateSyntaxError

    try:
        with _limited_time(), _limited_memory():
            yield
    except RenderingError:
        raise
    except _EndlessError:
        raise RenderingError(f"it writes no end within {SECONDS:g} seconds", broken=True) from None
    except MemoryError:
        raise RenderingError(
            f"it needs more than {MEMORY >> 20} MiB of memory for one conversation", broken=True
        ) from None
    except TemplateSyntaxError as error:
        raise RenderingError(
            f"line {error.lineno} of the template: {_plain(error.message or '')}", broken=True
        ) from None
    except Exception as error:  # a template computes what it likes: it divides by zero, or runs out of memory
        raise RenderingError(_plain(str(error)) or type(error).__name__) from None


class Unwritten:
    """Conversations that a template does not write, gathered over all files and told together."""

    def __init__(self, whose: str, remedy: str) -> None:
        """Begin with none; ``whose`` names the template, ``remedy`` is what may be done about it."""
        self._whose, self._remedy = whose, remedy
        self._lines: dict[tuple[str, str], dict[str, None]] = {}  # by file and reason: places, in order

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def note(self, file: str, place: str, error: RenderingError) -> None:
        """Keep what the template says to a line of a file; of a template that writes nothing at all, tell it now."""
        if error.broken:
            remedy = self._remedy[:1].upper() + self._remedy[1:]
            raise RenderingError(f"{self._whose} cannot be rendered: {error} ({file}: {place}). {remedy}.", broken=True)
        # A line may be refused twice: both answers of a pair, an answer that is measured and generated.
        self._lines.setdefault((file, str(error)), {})[place] = None

    def check(self) -> None:
        """Raise `RenderingError` that lists every line, by file and by what the template says."""
        if self._lines:
            told = [f"{file}: {_some(list(places))}: {said}" for (file, said), places in self._lines.items()]
            raise RenderingError(
                f"{self._whose} does not write {len(self):,} example(s):{listing(told)}\n"
                f"Change these examples, or {self._remedy}."
            )


def _some(places: Sequence[str]) -> str:
    shown = ", ".join(places[:_LINES])
    return shown if len(places) <= _LINES else f"{shown} and {len(places) - _LINES:,} more"


def _plain(text: str) -> str:
    """A stranger's text as one line without control characters."""
    line = " ".join(text.split()).rstrip(".")
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)
    return shown if len(shown) <= _SAID else f"{shown[: _SAID - 1]}…"


class _EndlessError(Exception):
    """The time is up; never seen outside."""


@contextmanager
def _limited_time() -> Iterator[None]:
    """End what computes longer. Signals are the main thread's, so elsewhere there is no limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _EndlessError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def _limited_memory() -> Iterator[None]:
    """Let the process grow no further than by `MEMORY`, where Linux tells how large it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        with open("/proc/self/statm", "rb", buffering=0) as sizes:
            pages = int(sizes.read(64).split()[0])
    except OSError:  # macOS, which would not keep to a limit either
        yield
        return
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit if soft == resource.RLIM_INFINITY else min(soft, limit), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
