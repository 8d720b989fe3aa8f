"""Runs the command line in a process of its own, in which one chosen thing goes wrong at one chosen moment.

    python fault_driver.py serve          one JSON job a line on stdin, one JSON answer a line on stdout
    python fault_driver.py '{"argv": …}'  one job, in this very process

A job is {"argv": […], "under": folder, "call": what, "at": N, "do": what, …}. ``call`` is ``change`` (anything that
changes a file below ``under``), ``pwrite``, ``write`` or ``preadv``; the N-th such call, counted from 1, is preceded by
``do``. ``seconds`` and ``address_space`` (bytes) bound a job that may have no end. Nothing here imports torch, so a job
starts in milliseconds.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"
import tuneport.cli
import tuneport.commands.dry_run
import tuneport.commands.printing
import tuneport.commands.pushing
import tuneport.diffvector.run
import tuneport.engine.plan_text
import tuneport.inspection
import tuneport.verification

CHANGING = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Fault:
    """Counts calls, and does what the job says before the N-th of them."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.counts = job, {"change": 0, "pwrite": 0, "write": 0, "preadv": 0}
        self.lock, self.active, self.told = threading.RLock(), True, threading.Event()
        for name in ("pwrite", "write", "preadv"):
            setattr(os, name, self.wrapped(name, getattr(os, name)))
        sys.addaudithook(self.audit)

    def wrapped(self, name: str, real: Callable[..., int]) -> Callable[..., int]:
        def call(descriptor: int, content: Any, *more: Any) -> int:
            self.seen(name, lambda: real(descriptor, memoryview(content)[: len(content) // 2], *more))
            if name != "preadv":
                self.seen("change", lambda: None)
            return real(descriptor, content, *more)

        return call

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGING or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
            place = arguments[0]
            if isinstance(place, int):
                place = os.readlink(f"/proc/self/fd/{place}")
            # A folder is removed through descriptors: the names are then relative, and nothing else has such names.
            if not os.path.isabs(place) or os.fspath(place).startswith(self.job.get("under", "\0")):
                self.seen("change", lambda: None)

    def seen(self, name: str, half: Callable[[], object]) -> None:
        with self.lock:
            if not self.active:
                return
            self.counts[name] += 1
            if self.job.get("call") != name or self.counts[name] != self.job["at"]:
                return
            self.active = False
        getattr(self, self.job["do"])(half)
        self.active = True

    def kill(self, half: Callable[[], object]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def tear(self, half: Callable[[], object]) -> None:
        """Half of the bytes reach the file, then the process is gone."""
        half()
        os.kill(os.getpid(), signal.SIGKILL)

    def interrupt(self, half: Callable[[], object]) -> None:
        """Ctrl-C; the call goes on when the main thread has been told."""
        os.kill(os.getpid(), signal.SIGINT)
        assert self.told.wait(60)

    def terminate(self, half: Callable[[], object]) -> None:
        """A scheduler asks the process to end."""
        os.kill(os.getpid(), signal.SIGTERM)

    def handle(self, number: int, frame: object) -> None:
        """What the main thread does about it: as Python does, and a word to the waiting call."""
        self.told.set()
        raise KeyboardInterrupt

    def truncate(self, half: Callable[[], object]) -> None:
        os.truncate(self.job["path"], self.job["size"])

    def unlink(self, half: Callable[[], object]) -> None:
        os.unlink(self.job["path"])

    def corrupt(self, half: Callable[[], object]) -> None:
        with open(self.job["path"], "r+b") as file:
            file.seek(self.job["size"])
            file.write(b"\xff")

    def fill(self, half: Callable[[], object]) -> None:
        """Fill the disk of ``path``, and leave no byte."""
        for size in (2**20, 4096, 512, 1):
            try:
                with open(self.job["path"], "ab", buffering=0) as file:
                    while file.write(b"x" * size):
                        pass
            except OSError:
                pass

    def wait(self, half: Callable[[], object]) -> None:
        """Say that the moment has come, and wait for the word to go on."""
        sys.stdout.write("reached\n")
        sys.stdout.flush()
        sys.stdin.readline()


def run(job: dict[str, Any]) -> int:
    if "seconds" in job:
        signal.alarm(job["seconds"])
    if "address_space" in job:
        resource.setrlimit(resource.RLIMIT_AS, (job["address_space"],) * 2)
    fault = Fault(job)
    signal.signal(signal.SIGINT, fault.handle)
    try:
        status = tuneport.cli.main(job["argv"])
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 70
    if "counts" in job:
        fault.active = False
        with open(job["counts"], "w") as file:
            json.dump(fault.counts, file)
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def serve() -> None:
    gc.freeze()  # children leave the pages of what is imported as they are
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            for name, descriptor in (("out", 1), ("err", 2)):
                os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), descriptor)
            os._exit(run(job))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps(status), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        os._exit(run(json.loads(sys.argv[1])))
