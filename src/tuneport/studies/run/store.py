"""Where a study's results are kept: small files, a place for each step, and parts brought to the machine that runs a step.

A folder (`folder_store.py`) or a URL (`url_store.py`); `store_at.py` chooses. Stores can be sent to other processes.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol

from tuneport.results.schema import RESULTS

LOCK = ".lock"
# A killed process releases its locks at once, one on a node that died within some seconds.
PATIENCE = 60.0
OF_A_STEP = "Another study is running this step; wait for it."
# What a study writes beside its steps and its own file.
WRITTEN = ("inputs.json", RESULTS)


class Store(Protocol):
    """Where the results of a study lie. Names are relative, with slashes."""

    @property
    def where(self) -> str:
        """The path or URL, for people."""

    @property
    def places(self) -> dict[str, str]:
        """Where things lie on this machine, and what records call it."""

    def read(self, name: str) -> bytes | None:
        """A small file; None where it is not there."""

    def write(self, name: str, content: bytes) -> None:
        """A small file, replaced as a whole."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Size of every file below a folder, by name relative to it."""

    def remove(self, name: str) -> None:
        """A file or folder; nothing where it is not there."""

    def working(self, folder: str) -> contextlib.AbstractContextManager[Path]:
        """A place on this machine for the step of this folder alone, with what an earlier try has left."""

    def deliver(self, folder: str, place: Path, record: bytes, key: str) -> None:
        """The step in `place` is done: bring over what it wrote, then its record. `key` tells its outputs from others."""

    def bring(self, folder: str, part: str, key: str) -> Path:
        """A part of a finished step, on this machine. `key` tells apart what was made again with other contents."""

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the whole study. Raises `OutputError` that says who holds it."""

    def holder(self) -> str | None:
        """Who runs the study now; None where nobody does."""

    def clean(self) -> None:
        """Remove what this machine keeps besides the results."""
