"""One command, measured from outside: wall time, CPU seconds, and peak memory over its whole tree of processes.

Memory is the proportional set size (PSS), summed over the command and all its descendants, polled from
/proc/PID/smaps_rollup: shared pages count once, mapped files count. A poll walks the page tables of what it looks at, so
it is made every 20 ms, but never oftener than keeps it under a fiftieth of one CPU: a process of gigabytes is looked at
more seldom, in its favour. The largest VmHWM of any one process stands beside it: the kernel's own high-water mark of
resident pages, read at every poll. (ru_maxrss will not do: a child inherits that of the runner it was forked from.)
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.02
MOST_OF_A_CPU = 0.02
MIB = 2**20


@dataclass(frozen=True)
class Figures:
    """What one run took. Memory in MiB; ``status`` is the exit status."""

    wall: float
    cpu: float
    user: float
    system: float
    pss: float
    peak_resident: float
    polls: int
    status: int


def measure(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Figures:
    """Run ``command`` to its end; what it prints goes to the file ``log``."""
    pss = resident = polls = 0
    with log.open("wb") as out:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=dict(environment)
        )
        ended = select.poll()
        descriptor = os.pidfd_open(process.pid)
        ended.register(descriptor, select.POLLIN)
        pause = POLL_SECONDS
        while not ended.poll(pause * 1000):
            looked = time.perf_counter()
            tree = list(_tree(process.pid))
            pss = max(pss, sum(_field(pid, "smaps_rollup", "Pss:") for pid in tree))
            resident = max(resident, *(_field(pid, "status", "VmHWM:") for pid in tree), 0)
            polls += 1
            pause = max(POLL_SECONDS, (time.perf_counter() - looked) / MOST_OF_A_CPU)
        wall = time.perf_counter() - begun
        os.close(descriptor)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    return Figures(wall, cpu, usage.ru_utime, usage.ru_stime, pss / MIB, resident / MIB, polls, process.returncode)


def _tree(root: int) -> Iterator[int]:
    pids = [root]
    while pids:
        pid = pids.pop()
        yield pid
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            pass  # it ended between two looks


def _field(pid: int, file: str, name: str) -> int:
    """Bytes that a file of /proc gives in kB; 0 for a process that has ended."""
    try:
        with open(f"/proc/{pid}/{file}", encoding="ascii", errors="replace") as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
