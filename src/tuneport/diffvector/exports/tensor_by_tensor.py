"""Work on whole tensors in parallel: one worker takes one tensor after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tuneport.checkpoint.reading import Workspace
from tuneport.engine.stream import run_leaves
from tuneport.output.digest import LEAF_BYTES
from tuneport.progress import BYTES, Progress


@dataclass(frozen=True)
class _Whole:
    """A tensor as one piece of work."""

    size: int

    @property
    def nbytes(self) -> int:
        """One leaf's bytes at most: it is done by one worker."""
        return max(min(self.size, LEAF_BYTES), 1)


def for_each_tensor(sizes: Sequence[int], do: Callable[[int, Workspace], None], workers: int, what: str) -> None:
    """Call ``do`` with the number of each tensor, those of most bytes first; ``sizes`` are their bytes, shown as progress."""
    order = sorted(range(len(sizes)), key=lambda number: -sizes[number])
    tasks = [_Whole(sizes[number]) for number in order]
    progress = Progress(what, sum(sizes), BYTES)

    def one(place: int, task: _Whole, leaf: int, space: Workspace) -> bool:
        do(order[place], space)
        progress.add(task.size - task.nbytes)  # the rest is counted by who runs it
        return True

    run_leaves(tasks, one, workers, progress)
