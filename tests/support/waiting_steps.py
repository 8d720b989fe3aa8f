"""Performs real steps, some of which wait for a word; Ray's workers and other processes import it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuneport.studies.graph.graph import Step
from tuneport.studies.run.perform import perform

SIGNS = "TUNEPORT_TEST_SIGNS"  # names a folder


def wait_then_perform(step: Step, given: Mapping[str, Any], place: Path, threads: int) -> dict[str, Any]:
    """Steps of scale 0.5 say that they have begun, and go on once they are told to; then all do what they always do."""
    signs = Path(os.environ[SIGNS])
    if step.choices.get("scale") == 0.5:
        (signs / f"begun-{step.identity}-{_node()}").write_text(str(os.getpid()))
        until = time.monotonic() + 60
        while not (signs / "go-on").exists():
            assert time.monotonic() < until, "nobody said go on"
            time.sleep(0.02)
    return perform(step, given, place, threads)


def end_the_process(step: Step, given: Mapping[str, Any], place: Path, threads: int) -> dict[str, Any]:
    """As a system without memory does: step `M2 + Δ(M1)` once, step `M3 + Δ(M1)` each time."""
    mark = Path(os.environ[SIGNS]) / step.folder
    if step.name == "transfer M3 + Δ(M1)" or (step.name == "transfer M2 + Δ(M1)" and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), 9)
    return perform(step, given, place, threads)


def is_running(pid: int) -> bool:
    """Whether a process has not ended; one that has, and that nobody has asked for yet, is still listed."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def _node() -> str:
    try:
        import ray

        return str(ray.get_runtime_context().get_node_id())
    except (ImportError, RuntimeError, AssertionError):
        return "here"
