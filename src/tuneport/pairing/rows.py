"""Rows matched by token, as runs of neighbours.

For every row of an output matrix: the row of target, base and tuned that it is made of (-1: none). Returned as runs:
stretches in which all counterparts are at the same distance, so that a stretch is read at once. A permuted vocabulary
of a million tokens is a million runs, an unchanged one is a single run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of one matrix: where each begins, and the rows of target, base, tuned and raw at its beginning."""

    columns: int
    starts: Ids
    partners: Ids  # shape (runs, 4): target, base, tuned, raw; -1 is none
    rows: int  # how many there are

    def cuts(self, start: int, stop: int) -> list[int]:
        """Elements strictly between ``start`` and ``stop`` at which a run begins."""
        first = int(np.searchsorted(self.starts, start // self.columns, side="right"))
        last = int(np.searchsorted(self.starts, -(-stop // self.columns), side="left"))
        return [cut for row in self.starts[first:last].tolist() if start < (cut := row * self.columns) < stop]

    def target(self, element: int) -> int:
        """The target's element that meets this one, or -1."""
        return self._partner(element, 0)

    def base(self, element: int) -> int:
        """The base's element that meets this one, or -1."""
        return self._partner(element, 1)

    def tuned(self, element: int) -> int:
        """The tuned model's element whose difference meets this one, or -1."""
        return self._partner(element, 2)

    def raw(self, element: int) -> int:
        """The element that is taken as it stands, or -1."""
        return self._partner(element, 3)

    def only(self, rows: NDArray[np.bool_]) -> Runs:
        """The runs in which the other rows have no partner in base and tuned; there is one mark for each row."""
        target, base, tuned, raw = self._by_row()
        base[~rows] = tuned[~rows] = -1
        return runs_of(target, base, tuned, raw, self.columns)

    def met(self) -> NDArray[np.bool_]:
        """For each row whether target, base and tuned all have it."""
        found: NDArray[np.bool_] = np.repeat((self.partners[:, :3] >= 0).all(axis=1), self._counts())
        return found

    def _counts(self) -> Ids:
        return np.diff(np.append(self.starts, self.rows))

    def _by_row(self) -> Ids:
        """The partners of every row, in four rows of an array: target, base, tuned, raw."""
        counts = self._counts()
        behind = np.arange(self.rows, dtype=np.int64) - np.repeat(self.starts, counts)
        found: Ids = np.repeat(self.partners, counts, axis=0).T.copy()
        found += np.where(found >= 0, behind, 0)
        return found

    def _partner(self, element: int, column: int) -> int:
        row = element // self.columns
        run = int(np.searchsorted(self.starts, row, side="right")) - 1
        partner = int(self.partners[run, column])
        return -1 if partner < 0 else partner * self.columns + (element - int(self.starts[run]) * self.columns)


def matched_rows(runs: Runs, elements: int) -> tuple[Ids, Ids]:
    """The runs of rows that target, base and tuned have: the first row of each, and how many."""
    rows = np.diff(np.append(runs.starts, elements // runs.columns))
    found = (runs.partners[:, :3] >= 0).all(axis=1)
    return runs.starts[found], rows[found]


def matched(runs: Runs | None, elements: int) -> int:
    """Elements of rows that all three have; without runs all do."""
    return elements if runs is None else int(matched_rows(runs, elements)[1].sum()) * runs.columns


def runs_of(target: Ids, base: Ids, tuned: Ids, raw: Ids, columns: int) -> Runs:
    """Runs for matrices of ``columns`` elements a row; the four arrays have one entry for each row of the output."""
    stacked: NDArray[Any] = np.stack([target, base, tuned, raw], axis=1).astype(np.int64)
    steps = np.diff(stacked, axis=0)
    together = (steps == 1) | ((stacked[1:] == -1) & (stacked[:-1] == -1))
    # -1 to 0 is a step of 1 as well, but from no partner to a partner: not the same run.
    together &= (stacked[1:] == -1) == (stacked[:-1] == -1)
    starts = np.concatenate([[0], np.flatnonzero(~together.all(axis=1)) + 1]).astype(np.int64)
    return Runs(columns, starts, stacked[starts], len(stacked))


def with_rows_behind(runs: Runs | None, rows: int, behind: int, columns: int) -> Runs:
    """Runs of a matrix that has so many rows ``behind`` the given ones, which meet nothing; without runs, all rows in order."""
    if runs is None:
        runs = Runs(columns, np.zeros(1, np.int64), np.array([[0, 0, 0, -1]], np.int64), rows)
    if not behind:
        return runs
    partners = np.concatenate([runs.partners, np.full((1, 4), -1, np.int64)])
    return Runs(columns, np.append(runs.starts, rows), partners, rows + behind)
