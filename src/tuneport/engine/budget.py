"""Choose the number of workers and the size of pieces, so that memory stays under --max-memory.

Computed from the limit and the memory already in use. Sizes are in bytes, pieces in elements. The need depends on the
number of tensors and leaves, not on their size.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from tuneport.engine.kernel import BLOCK
from tuneport.errors import OutputError, named
from tuneport.platforms import posix

MIB = 2**20
DEFAULT_MAX_MEMORY = 128 * MIB
# A vocabulary of 128k entries takes 130 MiB to parse.
DEFAULT_MAX_MEMORY_PARSING = 256 * MIB
# Pieces of a worker, the best first: a large one is handed between threads less often, which counts more than the
# second-level cache does (131,072 elements took 1.3 times as long as 524,288 with two workers).
PIECES = (8 * BLOCK, 4 * BLOCK, 2 * BLOCK, BLOCK)
# Elements at a time where one thread looks through a tensor.
PIECE = 2 * BLOCK
# Four buffers of at most eight bytes an element, and numpy's temporaries of one block where the kernel does not serve.
_BYTES_PER_ELEMENT = 4 * 8
_TEMPORARIES = 10 * BLOCK * 8
_THREAD = MIB // 2
# What the command line holds before a run begins: the interpreter, numpy and tuneport.
_BARE = 32 * MIB
# The manifest being written, and what is known of each leaf (`results`).
_BOOKKEEPING = 6 * MIB
_BYTES_PER_LEAF = 120


@dataclass(frozen=True)
class Budget:
    """Workers, elements in a piece, and the most bytes of memory the run will take."""

    workers: int
    piece: int
    estimate: int
    limit: int


def budget(
    limit: int | None, workers: int | None, default: int = DEFAULT_MAX_MEMORY, more: int = 0, leaves: int = 0
) -> Budget:
    """The largest pool that fits into ``limit`` bytes. Raises `OutputError` with the minimum if none does.

    ``more`` are bytes that each worker needs beside its pieces: tiles of an adapter's factors. ``leaves``: how many will be
    written. What the plan takes for each tensor is held already.
    Without a limit ``default`` holds; in a process that holds much already (a notebook with torch in it), it bounds
    what the run adds.
    """
    held = memory_held()
    if limit is None:
        limit = max(default, held + default - _BARE)
    bookkeeping = _BOOKKEEPING + leaves * _BYTES_PER_LEAF
    wanted = workers if workers is not None else usable_cpus()
    for count in range(wanted, 0, -1):
        for piece in PIECES:
            estimate = held + bookkeeping + count * (piece * _BYTES_PER_ELEMENT + _TEMPORARIES + _THREAD + more)
            if estimate <= limit:
                return Budget(count, piece, estimate, limit)
    raise OutputError(
        f"{named('max_memory', f'{limit / MIB:.0f}MiB')} is too little: this run needs at least {-(-estimate // MIB)}MiB "
        "with one worker."
    )


def usable_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_held() -> int:
    """Bytes this process holds now: its proportional share on Linux, the peak of its resident set elsewhere."""
    try:
        with open("/proc/self/smaps_rollup", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux, or /proc is not mounted: the peak below is an upper bound
    resource = posix("resource")
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024
