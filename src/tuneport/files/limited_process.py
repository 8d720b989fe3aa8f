"""Run others' expressions and templates in a child process with limits on time and memory.

A regular expression can take years and a template all memory, and neither can be stopped from inside code that ignores
signals. So everything that a file brings to be matched or rendered runs in a child, which the system ends when its time
is up. `ask` returns a function's answer to one request; the child waits for the next.
"""

from __future__ import annotations

import atexit
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from tuneport.platforms import posix

_TO_BEGIN = 300.0  # seconds that a child gets to import what it needs, on a machine that is busy
_WAITING = 20  # seconds on the clock, for each of computing: a child may have to wait for a CPU
_BEGIN = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from tuneport.files.limited_process import serve; serve(sys.argv[2])"


class LimitError(Exception):
    """A child that had to be ended; ``memory``: it needed more than it may have, else it computed for too long."""

    def __init__(self, *, memory: bool) -> None:
        """Keep which of the two it was."""
        super().__init__("memory" if memory else "time")
        self.memory = memory


def ask(maker: str, request: Mapping[str, Any], *, seconds: float, memory: int, stays: bool = True) -> Any:
    """What is answered to ``request`` in a child with so much CPU time and so many bytes more.

    ``maker`` (``module:name``) is called once in the child, without limits: it imports what is needed, and gives the
    function that answers requests with what JSON can hold. The child ``stays`` for the next. Raises `LimitError` where it was
    ended.
    """
    posix("resource")  # without it nothing could be limited
    with _LOCK:
        child = _CHILDREN.get(maker)
        if child is None or not child.is_usable():
            child = _CHILDREN[maker] = _Child(maker)
        try:
            return child.ask({"seconds": seconds, "memory": memory, "request": request}, seconds)
        finally:
            if not stays:
                child.end()


class _Child:
    """A process that answers requests to one function, until one of them breaks a limit."""

    def __init__(self, maker: str) -> None:
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            # Isolated: else a json.py in the folder that the command is run in, perhaps a model's, would be imported.
            [sys.executable, "-I", "-c", _BEGIN, json.dumps([str(entry) for entry in sys.path]), maker],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if self._read(_TO_BEGIN) is None:
            self.end()
            raise OSError(f"a child process for {maker} did not start")

    def is_usable(self) -> bool:
        """Whether it is this very process's child, and still there."""
        return self._owner == os.getpid() and self._process.poll() is None

    def ask(self, request: Mapping[str, Any], seconds: float) -> Any:
        assert self._process.stdin is not None
        try:
            pickle.dump(request, self._process.stdin)  # what goes to the child is ours; what comes back is JSON
            self._process.stdin.flush()
            line = self._read(seconds * _WAITING + 10)
        except BrokenPipeError:
            line = None
        except BaseException:
            self.end()  # its answer would be taken for the next one's
            raise
        answer = {} if line is None else json.loads(line)
        if "answer" in answer:
            return answer["answer"]
        self.end()
        raise LimitError(
            memory="memory" in answer or self._process.returncode not in (-signal.SIGPROF, -signal.SIGKILL)
        )

    def end(self) -> None:
        """End the process, and wait for it."""
        if self._owner != os.getpid():
            return  # after a fork: it is the parent's
        time_is_up = self._process.poll() is None
        if time_is_up:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue  # what it did not read any more

    def _read(self, seconds: float) -> bytes | None:
        """One line; None where the child ended, or let this long go by."""
        assert self._process.stdout is not None
        line, deadline = bytearray(), time.monotonic() + seconds
        descriptor = self._process.stdout.fileno()
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                return None
            piece = os.read(descriptor, 1 << 20)
            if not piece:
                self._process.wait()
                return None
            line += piece
        return bytes(line)


_CHILDREN: dict[str, _Child] = {}
_LOCK = threading.Lock()


def _free_lock() -> None:
    """After a fork nobody in the new process holds the lock, whoever held it in the old one."""
    global _LOCK
    _LOCK = threading.Lock()


os.register_at_fork(after_in_child=_free_lock)


@atexit.register
def _end_all() -> None:
    for child in _CHILDREN.values():
        child.end()


def serve(maker: str) -> None:
    """In the child: answer requests until the parent closes the pipe."""
    given, out = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is not an answer
    module, _, name = maker.partition(":")
    compute: Callable[[Any], Any] = getattr(import_module(module), name)()
    _send(out, {})
    resource = posix("resource")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            wanted = pickle.load(given)
        except EOFError:
            return
        _limit_memory(wanted["memory"])
        signal.setitimer(signal.ITIMER_PROF, wanted["seconds"])  # at its end the system ends this process
        try:
            answer = {"answer": compute(wanted["request"])}
            _send(out, answer)
        except MemoryError:
            os.write(out.fileno(), b'{"memory": true}\n')
            os._exit(1)
        signal.setitimer(signal.ITIMER_PROF, 0)


def _send(out: Any, answer: Mapping[str, Any]) -> None:
    out.write(json.dumps(answer).encode() + b"\n")
    out.flush()


def _limit_memory(more: int) -> None:
    """Let this process grow no further than by ``more`` bytes, where Linux tells how large it is."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as sizes:
            pages = int(sizes.read(64).split()[0])
    except OSError:  # macOS, which would not keep to a limit either
        return
    resource = posix("resource")
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(hard, limit), hard))
