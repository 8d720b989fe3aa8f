"""The number of threads that torch computes with: sums are added in another order on another number, and end in other
bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def computing_on(threads: int) -> Iterator[None]:
    """Have torch compute on so many threads; afterwards on as many as before."""
    try:
        import torch
    except ModuleNotFoundError:
        yield  # the command that needs it says what to install
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
