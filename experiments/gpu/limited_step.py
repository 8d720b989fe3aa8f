"""Run one step of the check in a process of its own, within a limit of time: a step that fails or hangs stops no other.

The child writes what it found to a file, and all that it prints to another, whose end explains a failure. Peaks of the GPU's
memory are the child's own, so a step's figures hold nothing of the step before.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.gpu.sizes import Sizes

Step = Callable[[Path, Sizes, str], dict[str, Any]]
_LINES = 12  # of a traceback, in the record


def run_step(step: Step, folder: Path, sizes: Sizes, device: str, seconds: float) -> dict[str, Any]:
    """What the step returned, with ``status`` (done, failed, too long), ``seconds`` and, of a failure, ``why`` (a step may return it beside figures)."""
    told, said = folder / f"{step.__name__}.json", folder / f"{step.__name__}.log"
    # Without CUDA for a step on the CPU: `tune` takes the best device there is. The child inherits it.
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # CUDA cannot be used in a forked child of a process that has used it. A check that has hidden it from all of its processes
    # forks, which saves the imports.
    kind = "fork" if device == "cpu" and before == "" else "spawn"
    child = multiprocessing.get_context(kind).Process(target=_child, args=(step, folder, sizes, device, told, said))
    began = time.monotonic()
    try:
        child.start()
    finally:
        if before is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
    try:
        child.join(seconds)
        took, late = round(time.monotonic() - began, 1), child.is_alive()
    finally:  # also where the check itself is interrupted
        if child.is_alive():
            _end(child.pid)
            child.join()
    if late:
        return {"status": "too long", "seconds": took, "why": f"stopped after its limit of {seconds:.0f} s"}
    if not told.exists():
        why = f"the process ended with status {child.exitcode}: {_last_lines(said)}"
        return {"status": "failed", "seconds": took, "why": why}
    return {"seconds": took, **json.loads(told.read_text())}


def _child(step: Step, folder: Path, sizes: Sizes, device: str, told: Path, said: Path) -> None:
    os.setsid()  # so that what it starts ends with it
    log = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    try:
        figures = step(folder, sizes, device)
        found = {"status": "failed" if "why" in figures else "done", **figures, **_peaks(device)}
    except BaseException:  # the record says what it was, whatever it was
        lines = traceback.format_exc().strip().splitlines()
        found = {"status": "failed", "why": "\n".join(lines[-_LINES:])}
    unfinished = told.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(found))
    unfinished.replace(told)


def _peaks(device: str) -> dict[str, int]:
    """Most bytes of the GPU's memory that tensors took, and that PyTorch held for them."""
    if device == "cpu":
        return {}
    import torch

    return {
        "peak_allocated": torch.cuda.max_memory_allocated(),
        "peak_reserved": torch.cuda.max_memory_reserved(),
    }


def _end(pid: int | None) -> None:
    assert pid is not None, "the child was started"
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # not yet a group of its own, or just gone
        os.kill(pid, signal.SIGKILL)


def _last_lines(said: Path) -> str:
    lines = said.read_text(errors="replace").strip().splitlines() if said.exists() else []
    return "\n".join(lines[-_LINES:]) or "it said nothing"
