"""What a call of the command line said, and what a transfer of a family left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from families.model_families import Family


@dataclass(frozen=True)
class Said:
    """What one call of the command line said: its status, and what stood on stdout and stderr."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.out))


Run = Callable[..., Said]


@dataclass(frozen=True)
class Carried:
    """A family and the output of its transfer."""

    family: Family
    out: Path

    @property
    def manifest(self) -> dict[str, Any]:
        return dict(json.loads((self.out / "tuneport.json").read_text(encoding="utf-8")))
