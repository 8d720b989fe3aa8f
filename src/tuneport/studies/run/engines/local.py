"""Run steps on this machine: one after another in this process, or several at once in child processes.

Returns the records of jobs. If a process is killed from outside (by the system, out of memory), its step is tried once
more in a new process.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

from tuneport.errors import named
from tuneport.progress import keep_silent
from tuneport.studies.run.step_records import Record
from tuneport.studies.run.work import Job, died, do

TRIES = 2
_DIED = (
    "The process of this step was killed {tries} times (by the system, out of memory?). "
    f"Use fewer {named('jobs')}, or close other programs, and run again; finished work is kept."
)


class InThisProcess:
    """One step after another."""

    def __init__(self) -> None:
        self._next: Job | None = None

    def room(self) -> int:
        """One, or none."""
        return int(self._next is None)

    def start(self, job: Job) -> None:
        """Take a job; it is done when somebody waits for its end."""
        self._next = job

    def ended(self) -> list[Record]:
        """Do what was taken."""
        job, self._next = self._next, None
        return [] if job is None else [do(job)]


_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from tuneport.studies.run.engines.local import serve
serve(int(sys.argv[2]), int(sys.argv[3]))
"""


@dataclass(frozen=True)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    living: int  # our end of a pipe that closes when we die

    def leave(self) -> None:
        """Close what leads to it, and wait for its end, which that brings about."""
        self.connection.close()
        os.close(self.living)
        self.process.wait()


class Processes:
    """Several processes, each with one step at a time; a thread waits for each."""

    def __init__(self, count: int) -> None:
        self._count, self._closing = count, False
        self._threads = ThreadPoolExecutor(count)
        self._under_way: set[Future[Record]] = set()
        self._idle: list[_Worker] = []
        self._busy: dict[int, _Worker] = {}

    def room(self) -> int:
        """How many processes have nothing to do."""
        return self._count - len(self._under_way)

    def start(self, job: Job) -> None:
        """Give the job to a process that waits, or to a new one."""
        self._under_way.add(self._threads.submit(self._done, job))

    def ended(self) -> list[Record]:
        """Records of the steps that have ended; waits for one."""
        done, self._under_way = wait(self._under_way, return_when=FIRST_COMPLETED)
        return [future.result() for future in done]

    def close(self) -> None:
        """End the processes, also those at work; their steps can be resumed."""
        self._closing = True
        for worker in list(self._busy.values()):
            worker.process.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._idle:
            worker.leave()

    def _done(self, job: Job) -> Record:
        """The record of a step; where its process dies it is tried again in a fresh one, and at last that is its record."""
        for _ in range(TRIES):
            try:
                worker = self._idle.pop()
            except IndexError:
                worker = _new_worker()
            self._busy[worker.process.pid] = worker
            try:
                worker.connection.send(job)
                record: Record = worker.connection.recv()
            except (EOFError, OSError):
                worker.leave()
                if self._closing:
                    raise
            else:
                self._idle.append(worker)
                return record
            finally:
                del self._busy[worker.process.pid]
        return died(job, _DIED.format(tries=TRIES))


@contextlib.contextmanager
def local(jobs: int = 1) -> Iterator[InThisProcess | Processes]:
    """The engine for `jobs` steps at a time."""
    if jobs == 1:
        yield InThisProcess()
        return
    processes = Processes(jobs)
    try:
        yield processes
    finally:
        processes.close()


def _new_worker() -> _Worker:
    """A process of its own. Not one of multiprocessing's, which would run the caller's script once more."""
    ours, theirs = Pipe()
    dying, living = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _START, json.dumps(sys.path), str(theirs.fileno()), str(dying)],
        pass_fds=(theirs.fileno(), dying),
        stdin=subprocess.DEVNULL,
    )
    theirs.close()
    os.close(dying)
    return _Worker(process, ours, living)


def serve(connection: int, dying: int) -> None:
    """Do what comes, until nobody sends any more; what a fresh process runs."""
    threading.Thread(target=_end_with_parent, args=(dying,), daemon=True).start()
    keep_silent()
    os.environ["TQDM_DISABLE"] = "1"  # some libraries' bars cannot be switched off otherwise
    jobs: Connection[Any, Any] = Connection(connection)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            jobs.send(do(jobs.recv()))


def _end_with_parent(dying: int) -> None:
    """A killed run leaves no process that keeps writing into its folder: its end of the pipe closes with it."""
    os.read(dying, 1)
    os._exit(1)
