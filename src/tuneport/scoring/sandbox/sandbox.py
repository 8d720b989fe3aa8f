"""Run generated programs only in a sandbox that the user names: a command that runs Python from its stdin.

The sandbox gets the program and the inputs. Its printed output is returned up to a limit, and compared here. No
expected output, no verdict and no secret of this process enters the sandbox, so only the right outputs make a program
pass.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import selectors
import shlex
import signal
import subprocess
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tuneport.errors import Fault, ScoringError, UsageError, named
from tuneport.scoring.sandbox.code_problems import read_problem

_SECONDS_A_TEST, _SECONDS = 6, 180
_MEMORY, _FILE_SIZE = 2**31, 2**26  # bytes of one process, and of one file
_HEAD = 256  # bytes of the line before an output
_SAID = 2000  # bytes of the command's own messages that are kept
_TO_END = 10.0  # seconds that a command gets to end by itself
_CONTAINERS = ("docker", "podman", "nerdctl")
# In a text for a shell, a simple command that makes a container: up to "run", and from there on.
_IN_A_SHELL = re.compile(
    r"(?:^|[;&|({\n])\s*(?:(?:then|do|else|exec|!)\s+)*"
    rf"(?P<run>[^;&|({{\n]*?(?<![^\s/])(?:{'|'.join(_CONTAINERS)})\s(?:[^;&|\n]*?\s)?run)(?P<rest>\s[^;&|\n]*)"
)
_OWN_NAME = re.compile(r"\s--name[\s=]+(\S+)")
# What the command is given of this process's environment: nothing that may hold a token.
_ENVIRONMENT = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TMPDIR|TERM|XDG_RUNTIME_DIR|DBUS_SESSION_BUS_ADDRESS"
    r"|(?:DOCKER|CONTAINER)_(?:HOST|CONTEXT|CONFIG|CERT_PATH|TLS_VERIFY)"
)


@dataclass(frozen=True)
class Sandbox:
    """The user's command, such as ``docker run --rm -i --network none python:3.12 python -``."""

    command: str

    def check(self) -> None:
        """Run a program of one line. Raises `UsageError` where the command does not run Python."""
        passing = {"public_test_cases": json.dumps([{"input": "2", "output": "4"}]), "private_test_cases": ""}
        told: list[str] = []
        if not self.passes("print(int(input()) * 2)", passing, told) or self.passes("print(5)", passing):
            said = f"It says: {told[-1]}" if told and told[-1] else ""
            problem = "does not run a Python program from its stdin"
            raise UsageError(Fault("run_code_in", self.command, problem, said))

    def passes(self, code: str, document: Mapping[str, Any], told: list[str] | None = None) -> bool:
        """Whether a program passes all tests of a problem; a program that hangs or ends the sandbox does not.

        ``told`` gets what the command itself said. Raises `ScoringError` where it cannot be run, or for no problem.
        """
        problem = read_problem(document)
        job = {
            "code": code,
            "function": problem.function,
            "inputs": [given for given, _ in problem.tests],
            "seconds": _SECONDS_A_TEST,
            "memory": _MEMORY,
            "file_size": _FILE_SIZE,
            "most": problem.longest_output,
            "user": None,
            "processes": 0,
        }
        packed = base64.b64encode(zlib.compress(json.dumps(job).encode())).decode()
        program = f"{_source('runner')}\nmain({packed!r}, {_source('child')!r})\n"
        with self._running(program.encode()) as running:
            right = bool(problem.tests)
            for number in range(len(problem.tests)):
                said = running.next_output(problem.longest_output)
                if said is None or not problem.is_right(number, said):
                    right = False
                    break
            else:
                running.wait()
            if told is not None:
                told.append(running.messages())
        return right

    @contextmanager
    def _running(self, program: bytes) -> Iterator[_Running]:
        try:
            argv, ending = _named(shlex.split(self.command))
            process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0,
                env={name: value for name, value in os.environ.items() if _ENVIRONMENT.fullmatch(name)},
            )  # fmt: skip
        except (OSError, ValueError, IndexError) as error:
            raise ScoringError(f"{named('run_code_in', self.command)} cannot be run: {error}") from None
        running = _Running(process, program, time.monotonic() + _SECONDS)
        try:
            yield running
        finally:
            running.close()
            if not running.ended:
                _end(process, ending)


class _Running:
    """A command that was given a program on its stdin, and whose output is read no further than it is asked for."""

    def __init__(self, process: subprocess.Popen[bytes], program: bytes, deadline: float) -> None:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self._process, self._deadline = process, deadline
        self.ended = False  # by itself, after its last output
        self._program = memoryview(program)
        self._output, self._messages, self._over = bytearray(), bytearray(), False
        self._selector = selectors.DefaultSelector()
        self._pipes = (process.stdin, process.stdout, process.stderr)
        os.set_blocking(process.stdin.fileno(), False)
        self._selector.register(process.stdin, selectors.EVENT_WRITE)
        self._selector.register(process.stdout, selectors.EVENT_READ)
        self._selector.register(process.stderr, selectors.EVENT_READ)

    def next_output(self, most: int) -> bytes | None:
        """What the program printed to the next input; None where it failed, or the sandbox says no such thing."""
        while b"\n" not in self._output:
            if len(self._output) > _HEAD or not self._go_on(_HEAD):
                return None
        line, _, rest = bytes(self._output).partition(b"\n")
        try:
            head = json.loads(line)
            ended, length = head["ended"], head["length"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        if ended != "done" or type(length) is not int or not 0 <= length <= most:
            return None
        self._output = bytearray(rest)
        while len(self._output) < length:
            if not self._go_on(length):
                return None
        said = bytes(self._output[:length])
        del self._output[:length]
        return said

    def wait(self) -> None:
        """Give the command time to end by itself, as it does after the last output; what it still says is passed over."""
        self._deadline = min(self._deadline, time.monotonic() + _TO_END)
        while self._go_on(0):
            self._output.clear()
        with suppress(subprocess.TimeoutExpired):  # then it is ended by others
            self._process.wait(max(0.0, self._deadline - time.monotonic()))
            self.ended = True

    def messages(self) -> str:
        """The beginning of what the command said on stderr, as one line."""
        line = " ".join(self._messages.decode("utf-8", "replace").split())
        return "".join(letter if letter.isprintable() else "?" for letter in line)[:300]

    def close(self) -> None:
        """Close the pipes."""
        self._selector.close()
        for pipe in self._pipes:
            with suppress(OSError):  # what was not written to a command that has ended
                pipe.close()

    def _go_on(self, wanted: int) -> bool:
        """Write and read what is possible now. False at the end of the output, or of the time."""
        if self._over:
            return False
        left = self._deadline - time.monotonic()
        if left <= 0:
            return False
        stdin, stdout, stderr = self._pipes
        for key, _ in self._selector.select(left):
            if key.fileobj is stdin:
                self._write(stdin)
            elif key.fileobj is stdout:
                piece = os.read(stdout.fileno(), max(65536, wanted - len(self._output)))
                self._output += piece
                self._over = not piece
            else:
                piece = os.read(stderr.fileno(), 65536)
                self._messages += piece[: _SAID - len(self._messages)]
                if not piece:
                    self._selector.unregister(stderr)
        return True

    def _write(self, stdin: Any) -> None:
        try:
            written = os.write(stdin.fileno(), self._program[: 1 << 16])
            self._program = self._program[written:]
        except BlockingIOError:
            return
        except OSError:  # the command reads no further, or has ended
            self._program = self._program[:0]
        if not self._program:
            self._selector.unregister(stdin)
            with suppress(OSError):
                stdin.close()


def _named(argv: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """The command, its container named where it makes one, and the command that ends this container.

    The client of a container can be killed while the container goes on: it has to be ended by name. The client may stand among the
    words of the command, or in a text that one of them is for a shell (``sh -c 'docker run …'``).
    """
    name = f"tuneport-{secrets.token_hex(8)}"
    for place, word in enumerate(argv):
        if Path(word).name in _CONTAINERS and "run" in argv[place:]:
            run = argv.index("run", place)
            own = _OWN_NAME.search(" ".join(["", *argv[run:]]))
            named = [] if own else ["--name", name]
            return [*argv[: run + 1], *named, *argv[run + 1 :]], [*argv[:run], "kill", own[1] if own else name]
        if found := _IN_A_SHELL.search(word):
            own = _OWN_NAME.search(found["rest"])
            naming = "" if own else f" --name {name}"
            text = f"{word[: found.end('run')]}{naming}{word[found.end('run') :]}"
            ending = f"{found['run'].removesuffix('run')}kill {own[1] if own else name}"
            return [*argv[:place], text, *argv[place + 1 :]], [*argv[:place], ending, *argv[place + 1 :]]
    return list(argv), None


def _end(process: subprocess.Popen[bytes], ending: list[str] | None) -> None:
    """End a command that has not ended as it should: its container by name, then its processes."""
    if ending is not None:
        with suppress(OSError, subprocess.TimeoutExpired):  # the container has ended, or its client is killed below
            subprocess.run(
                ending, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TO_END, check=False,
                env={name: value for name, value in os.environ.items() if _ENVIRONMENT.fullmatch(name)},
            )  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGKILL):  # at the first the runner ends what the program began
        with suppress(ProcessLookupError, PermissionError):  # ended meanwhile; or sudo's, which its container ends
            os.killpg(process.pid, number)
        try:
            process.wait(_TO_END if number == signal.SIGTERM else 1)
            return
        except subprocess.TimeoutExpired:
            continue


def _source(name: str) -> str:
    return (resources.files("tuneport.scoring.sandbox") / f"{name}.py").read_text(encoding="utf-8")


def program_in(said: str) -> str:
    """The last fenced block of an answer, or all of it where there is none."""
    blocks = re.findall(r"```(?:[Pp]ython)?[ \t]*\n(.*?)(?:```|\Z)", said, re.DOTALL)
    return str(blocks[-1]) if blocks else said
