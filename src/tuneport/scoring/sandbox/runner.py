"""Runs a judged program on every input of a problem, inside the sandbox. Sent there as text, on Python's stdin.

Returns what the program printed for each input, unchanged: a line of JSON, then the bytes. The program runs in its own
process with limits. The sandbox has no expected outputs and no verdicts: outputs are compared outside. It needs only
the standard library of Python 3.8 or newer.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from typing import Any

_NOT_DUMPABLE, _ADOPT_ORPHANS = 4, 36  # of Linux's prctl
_NOBODY = 65534
_PROCESSES = 64
_BOOT = "import sys; exec(compile(open(int(sys.argv[1]), 'rb').read(), 'child', 'exec'))"


def main(job: str, child: str) -> None:
    """Run every input of ``job`` (JSON, compressed, base64); ``child`` is the text of the judged program's process."""
    settings: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(job)))
    inputs = settings.pop("inputs")
    signal.signal(signal.SIGTERM, _stop)
    _call_prctl(_NOT_DUMPABLE, 0)  # no process of the same user can read this one's memory
    _call_prctl(_ADOPT_ORPHANS, 1)  # so that what the program leaves behind is found
    try:
        settings["user"], settings["processes"] = _user_and_processes(settings, child)
        for given in inputs:
            ended, output = _run(settings, child, given.encode("utf-8", "surrogatepass"))
            head = json.dumps({"ended": ended, "length": len(output)})
            os.write(1, head.encode() + b"\n")
            left = memoryview(output)
            while left:
                left = left[os.write(1, left) :]
    except BrokenPipeError:
        pass  # the verdict is clear, and nobody reads further
    finally:
        _sweep()


def _stop(number: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is left to do is soon done
    raise SystemExit(1)


def _user_and_processes(settings: dict[str, Any], child: str) -> tuple[int | None, int]:
    """The user that the program runs as, and how many processes this user may have.

    Root gives it a user of its own, where the system allows that and this user can run Python.
    """
    if os.geteuid() == 0:
        for user in (random.randrange(2**20, 2**30), _NOBODY):
            empty = dict(settings, code="import collections, random", function=None, user=user, processes=_PROCESSES)
            if _run(empty, child, b"")[0] == "done":
                return user, _PROCESSES
    return None, _PROCESSES + sum(threads for user, threads in _threads() if user == os.getuid())


def _run(settings: dict[str, Any], child: str, given: bytes) -> tuple[str, bytes]:
    """How the program ended on one input, and what it printed, which is cut where it is too much."""
    folder = _new_folder(settings["user"])
    source = child + "\njudge(__import__('json').loads(" + repr(json.dumps(settings)) + "))\n"
    try:
        with _file_of(source.encode("utf-8", "surrogatepass")) as code, _file_of(given) as stdin:
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-X", "utf8", "-c", _BOOT, str(code.fileno())],
                stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=[code.fileno()], cwd=folder,
                env={"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1",
                     "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )  # fmt: skip
            try:
                return _read(process, settings["seconds"], settings["most"], settings["user"])
            finally:
                _end(process)
    finally:
        _remove(folder)


def _read(process: subprocess.Popen[bytes], seconds: float, most: int, user: int | None) -> tuple[str, bytes]:
    """Read until the program has ended: a process that it leaves behind may keep the pipe open for ever."""
    counted = user is None and os.geteuid() == 0  # root may have any number of processes, whatever the limit is
    assert process.stdout is not None
    pipe, output, deadline = process.stdout.fileno(), bytearray(), time.monotonic() + seconds
    closed = False
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return "too long", b""
        if counted and len(_descendants()) > _PROCESSES:
            return "too many processes", b""
        if closed:
            try:
                process.wait(min(left, 0.05))
            except subprocess.TimeoutExpired:
                continue
        over = process.poll() is not None  # asked first: what it wrote is in the pipe by then
        ready = not closed and select.select([pipe], [], [], 0 if over else min(left, 0.05))[0]
        if ready:
            piece = os.read(pipe, 65536)
            closed = not piece
            output += piece
            if len(output) > most:
                return "too much", b""
        elif over:
            return ("done" if process.returncode == 0 else "failed"), bytes(output)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program and everything that it began, whatever session that moved to."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        pass  # all of the group has ended
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    _sweep()


def _sweep() -> None:
    """End every process that comes from this one."""
    for _ in range(2000):
        found = _descendants()
        if not found:
            return
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass  # it has ended meanwhile
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass  # no child is left
        time.sleep(0.001)


def _descendants() -> list[int]:
    """The processes that come from this one; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for pid, fields in _processes():
        children.setdefault(int(fields[1]), []).append(pid)
    found, waiting = [], [os.getpid()]
    while waiting:
        mine = children.pop(waiting.pop(), [])
        found += mine
        waiting += mine
    return found


def _processes() -> list[tuple[int, list[str]]]:
    """Every process, with the fields of /proc/PID/stat behind its name: state, parent, …"""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    found.append((int(name), file.read().rpartition(")")[2].split()))
            except OSError:
                pass  # it has ended meanwhile
    return found


def _threads() -> list[tuple[int, int]]:
    """User and number of threads of every process."""
    found = []
    for pid, fields in _processes():
        try:
            found.append((os.stat(f"/proc/{pid}/task").st_uid, int(fields[17])))
        except (OSError, IndexError):
            pass  # it has ended meanwhile
    return found


def _new_folder(user: int | None) -> str:
    """An empty folder to run in; the root where nothing can be written."""
    try:
        folder = tempfile.mkdtemp()
        if user is not None:
            os.chown(folder, user, user)
    except OSError:
        return "/"
    return folder


def _remove(folder: str) -> None:
    if folder != "/":
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except RecursionError:
            pass  # a program made folders without end; they go with the sandbox


def _file_of(content: bytes) -> Any:
    """A file without a name that holds ``content``, at its beginning."""
    if hasattr(os, "memfd_create"):
        file: Any = os.fdopen(os.memfd_create("tuneport"), "w+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115  # it is the caller's to close
    file.write(content)
    file.seek(0)
    return file


def _call_prctl(option: int, value: int) -> None:
    try:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
    except (AttributeError, OSError):
        pass  # no Linux
