"""Files of a lab run that are written once and whole: a run that goes on finds the very file it began with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A JSONL file, one object a line."""
    write_once(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_once(path: Path, text: str) -> None:
    """Write `path` if it is not there; it appears when it is whole, and keeps its time of change from then on."""
    if not path.exists():
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text(text)
        fresh.rename(path)
