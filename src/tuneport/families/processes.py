"""Run two processes of one thread each: on two cores they are faster than one process of two threads.

Each starts as a new process, so it inherits nothing from the parent's torch.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tuneport.errors import WorkerError
from tuneport.progress import keep_silent


@contextmanager
def two_processes() -> Iterator[ProcessPoolExecutor]:
    """A pool of two quiet processes of one thread each; waiting work is dropped when the block fails. Raises
    `WorkerError` if one of them was killed from outside.
    """
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=_start_quietly)
    try:
        yield pool
    except KeyboardInterrupt:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()  # a later run resumes the worker's task; nobody waits for its end
        raise
    except BrokenProcessPool:
        raise WorkerError(
            "A worker process was killed (by the system, out of memory?). Finished work is kept: run the same command "
            "again to resume."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def make(pool: ProcessPoolExecutor, path: Path, function: Callable[..., None], *arguments: Any) -> Future[None]:
    """Start `function(path, *arguments)` in another process, unless an earlier run has made `path`."""
    if not path.exists():
        return pool.submit(function, path, *arguments)
    made: Future[None] = Future()
    made.set_result(None)
    return made


def _start_quietly() -> None:
    keep_silent()
    os.environ["TQDM_DISABLE"] = "1"  # before transformers, which has bars of its own for some files
    import torch
    from transformers.utils import logging

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def _end_with_parent() -> None:
    """A killed run leaves no process that keeps writing into its folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
