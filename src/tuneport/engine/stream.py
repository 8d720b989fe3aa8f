"""Compute leaves of tensors in parallel, in any order, with the same result.

Worker threads take leaf after leaf from a list of tasks until none is left, one fails, or the user stops the run.
Buffers belong to a worker and are reused. The heavy work (reads, kernel, digest, writes) releases the interpreter's
lock, so threads run in parallel.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from tuneport.checkpoint.reading import Workspace
from tuneport.output.digest import LEAF_BYTES, leaf_count
from tuneport.progress import Progress


class Task(Protocol):
    """Something with leaves of 4 MiB: usually one tensor of the output."""

    @property
    def nbytes(self) -> int:
        """How many bytes it has."""


TaskT = TypeVar("TaskT", bound=Task)


def run_leaves(
    tasks: Sequence[TaskT],
    do: Callable[[int, TaskT, int, Workspace], bool],
    workers: int,
    progress: Progress,
) -> None:
    """Do every leaf of every task; ``do`` gets the task's number too, and returns False to have no leaf of a later task begun.

    The first exception of a worker ends the run and is raised here, after all workers have stopped; so does an
    interrupt of the main thread.
    """
    shared = _Shared[TaskT](_leaves_of(tasks))
    threads = [threading.Thread(target=_work, args=(shared, do, progress), daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    with progress:
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.1)  # a join without an end would not hear of Ctrl-C
        except KeyboardInterrupt:
            shared.stop()
            for thread in threads:
                thread.join()
            raise
    if shared.error is not None:
        raise shared.error


class _Shared(Generic[TaskT]):
    """What the workers share: the leaves still to do, and the first error."""

    def __init__(self, leaves: Iterator[tuple[int, TaskT, int]]) -> None:
        self._leaves = leaves
        self._lock = threading.Lock()
        self._last_task = sys.maxsize
        self.error: BaseException | None = None

    def take(self) -> tuple[int, TaskT, int] | None:
        with self._lock:
            found = next(self._leaves, None)
            return found if found is not None and found[0] <= self._last_task else None

    def stop_after(self, task: int) -> None:
        with self._lock:
            self._last_task = min(self._last_task, task)

    def stop(self, error: BaseException | None = None) -> None:
        with self._lock:
            self._last_task = -1
            self.error = self.error or error


def _leaves_of(tasks: Sequence[TaskT]) -> Iterator[tuple[int, TaskT, int]]:
    for number, task in enumerate(tasks):
        for leaf in range(leaf_count(task.nbytes)):
            yield number, task, leaf


def _work(shared: _Shared[TaskT], do: Callable[[int, TaskT, int, Workspace], bool], progress: Progress) -> None:
    workspace = Workspace()
    try:
        while (found := shared.take()) is not None:
            number, task, leaf = found
            if not do(number, task, leaf, workspace):
                shared.stop_after(number)
            progress.add(min(LEAF_BYTES, task.nbytes))
    except BaseException as error:  # handed to the main thread, which raises it
        shared.stop(error)
