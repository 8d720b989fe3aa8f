"""What a diff vector adds to one tensor of the target: scale·Δ, in the target's order of rows.

Read from the plan of an `apply` in pieces, so no tensor has to fit into memory. Rows without a partner are zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tuneport.checkpoint.floats import Floats
from tuneport.checkpoint.reading import Workspace
from tuneport.engine.pieces import Readers, Sum, meet
from tuneport.engine.plan import OutputTask

# Elements that are read at a time.
PIECE = 2**18


@dataclass(frozen=True)
class TargetDifference:
    """scale·Δ of one tensor, as float32; ``shape`` is the target's, new rows not counted."""

    recipe: Sum
    shape: tuple[int, ...]
    readers: Readers

    def fill(self, start: int, out: Floats, space: Workspace) -> None:
        """Fill ``out`` (one row) with the elements from ``start`` on."""
        stop, position = start + out.size, start
        while position < stop:
            end = min(position + PIECE, stop)
            for begin, last in self.recipe.cuts(position, end):
                met = meet(self.recipe, begin, last, self.readers, space)
                part = out[begin - start : last - start]
                if met is None:
                    part[:] = 0
                else:
                    np.multiply(met.diff, np.float32(met.scale), out=part, casting="same_kind")
            position = end

    def rows(
        self, most: int, space: Workspace, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[int, Floats]]:
        """The matrix in strips of at most ``most`` elements (one row at least): first row, and rows, which are reused."""
        height, width = self.shape[0] if last is None else last, self.shape[1]
        strip = max(most // width, 1)
        held = np.empty((min(strip, height - first), width), np.float32)
        for begin in range(first, height, strip):
            found = held[: min(strip, height - begin)]
            self.fill(begin * width, found.reshape(-1), space)
            yield begin, found

    def square(self, space: Workspace) -> float:
        """‖scale·Δ‖²."""
        total, held, elements = 0.0, np.empty(PIECE, np.float32), int(np.prod(self.shape, dtype=np.int64))
        for start in range(0, elements, PIECE):
            part = held[: min(PIECE, elements - start)]
            self.fill(start, part, space)
            wide = part.astype(np.float64)
            total += float(wide @ wide)
        return total


def difference_of(task: OutputTask, readers: Readers) -> TargetDifference | None:
    """The difference of one task of a plan of one diff vector; None where it only copies the target."""
    recipe = task.recipe
    assert isinstance(recipe, Sum), "a plan of apply has sums alone"
    if not any(term.scale and term.plus is not None for term in recipe.terms):
        return None
    return TargetDifference(recipe, recipe.target.tensor.shape, readers)
