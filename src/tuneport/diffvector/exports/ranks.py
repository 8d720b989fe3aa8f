"""Choose the rank of each matrix from its singular values: one rank for all, a share of the energy, or a byte budget.

Plain functions of arrays. Singular values are in falling order; the energy of a matrix is the sum of their squares.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def rank_of_energy(values: Values, square: float, share: float) -> int:
    """The smallest rank whose directions hold ``share`` of ``square``; all of the values where none does."""
    if not len(values):
        return 0
    reached = np.cumsum(values**2) >= share * square * (1 - 1e-12)
    return int(np.argmax(reached)) + 1 if reached.any() else len(values)


def holds_energy(values: Values, square: float, share: float) -> bool:
    """Whether the values hold ``share`` of ``square``."""
    return float(np.sum(values**2)) >= share * square * (1 - 1e-12)


def ranks_of_budget(values: Sequence[Values], costs: Sequence[int], budget: int) -> list[int]:
    """The rank of each matrix under a budget of bytes: the directions with most energy for a byte come first.

    ``costs`` are the bytes of one direction of each matrix. A direction that no longer fits is passed over together with those
    behind it in its matrix; cheaper ones of others may still fit.
    """
    ranks, left = [0] * len(values), budget
    queue = [
        (-float(own[0] ** 2) / cost, number)
        for number, (own, cost) in enumerate(zip(values, costs, strict=True))
        if len(own)
    ]
    heapq.heapify(queue)
    while queue:
        _, number = heapq.heappop(queue)
        if costs[number] > left:
            continue
        left -= costs[number]
        ranks[number] += 1
        if ranks[number] < len(values[number]):
            gain = float(values[number][ranks[number]] ** 2) / costs[number]
            heapq.heappush(queue, (-gain, number))
    return ranks
