"""Two processes of one thread each: on two cores they beat one process of two threads.

Each starts afresh and quietly, so that nothing of the parent's torch, if it has one, is inherited.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context


@contextmanager
def two_processes() -> Iterator[ProcessPoolExecutor]:
    """A pool of two quiet processes of one thread each; what waits is dropped when the block fails."""
    pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=_start_quietly)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_quietly() -> None:
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
