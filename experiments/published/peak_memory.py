"""How long a command takes and how much memory all its processes hold together at the worst moment.

Proportional set sizes, added up over the command and its descendants, from /proc; where there is none, no
figure.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneport.errors import TuneportError


@dataclass(frozen=True)
class Cost:
    """Wall seconds and the highest sum of proportional set sizes in MiB (None where /proc does not tell)."""

    seconds: float
    peak_mib: float | None


def run_measured(command: Sequence[str], interval: float = 0.02) -> Cost:
    """Run `command` to its end, looking at its memory every `interval` seconds; raise if it fails."""
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while True:
        try:
            said, _ = process.communicate(timeout=interval)
            break
        except subprocess.TimeoutExpired:
            peak = max(peak, sum(_proportional_kib(pid) for pid in _family(process.pid)))
    seconds = time.perf_counter() - started
    if process.returncode:
        raise TuneportError(f"`{' '.join(command)}` ended with status {process.returncode}:\n{said}")
    return Cost(seconds, peak / 1024 if peak else None)


def _family(pid: int) -> list[int]:
    """A process and all its descendants that are alive."""
    children: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += [int(child) for child in (task / "children").read_text().split()]
    except OSError:  # it has ended in the meantime, or there is no /proc
        return [pid]
    return [pid, *(descendant for child in children for descendant in _family(child))]


def _proportional_kib(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:  # it has ended in the meantime, or there is no /proc
        pass
    return 0
