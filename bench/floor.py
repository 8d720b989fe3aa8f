"""The floor: copying the same bytes. Reads base and tuned, copies the target to a new file, and does nothing else.

As tuneport does, it takes positioned reads of 128 KiB into reused buffers and one thread for each CPU, and nothing is
synchronised to the disk. (Pieces of 1 MiB are slower: three such buffers leave a core's second-level cache.) What
remains of tuneport's time above this is its arithmetic, its digests, its checks, and Python's start.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

PIECE = 128 * 2**10


def copy(base: Path, tuned: Path, target: Path, out: Path, workers: int, piece: int) -> None:
    """Read the weights of ``base`` and ``tuned``, and copy those of ``target`` to the folder ``out``."""
    out.mkdir()
    for file in sorted(target.glob("*.safetensors")):
        sources = [os.open(folder / file.name, os.O_RDONLY) for folder in (base, tuned, target)]
        size = os.fstat(sources[2]).st_size
        copied = os.open(out / file.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        os.ftruncate(copied, size)
        arguments = (sources, copied, size, count(0, piece), piece)
        threads = [threading.Thread(target=_work, args=arguments) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for descriptor in (*sources, copied):
            os.close(descriptor)


def _work(sources: list[int], copied: int, size: int, starts: Iterator[int], piece: int) -> None:
    buffers = [memoryview(bytearray(piece)) for _ in sources]
    while (start := next(starts)) < size:
        length = min(piece, size - start)
        for source, buffer in zip(sources, buffers, strict=True):
            done = os.preadv(source, [buffer[:length]], start)
            assert done == length, "the three files have one size"
        done = os.pwrite(copied, buffers[2][:length], start)
        assert done == length, "there was room on the disk before"


if __name__ == "__main__":
    base, tuned, target, out = map(Path, sys.argv[1:5])
    workers = int(sys.argv[5]) if len(sys.argv) > 5 else len(os.sched_getaffinity(0))
    copy(base, tuned, target, out, workers, int(sys.argv[6]) if len(sys.argv) > 6 else PIECE)
