"""Faults at counted moments: the driver of fault_driver.py as tests call it, and disks of any size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.command_results import Ran

DRIVER = Path(__file__).parent / "fault_driver.py"
Drive = Callable[..., Ran]


class Server:
    """One driver process that forks for each job."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.process = subprocess.Popen(
            [sys.executable, str(DRIVER), "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, argv: list[str], **fault: Any) -> Ran:
        assert self.process.stdin is not None and self.process.stdout is not None
        files = {name: str(self.scratch / name) for name in ("out", "err")}
        self.process.stdin.write(json.dumps({"argv": argv, **files, **fault}) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        return Ran(status, Path(files["out"]).read_text(), Path(files["err"]).read_text())


def mounted(options: str, place: Path) -> Iterator[Path]:
    """A small tmpfs, where this user may mount one."""
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
