"""What a transfer of a family left behind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.model_families import Family


@dataclass(frozen=True)
class Carried:
    """A family and the output of its transfer."""

    family: Family
    out: Path

    @property
    def manifest(self) -> dict[str, Any]:
        return dict(json.loads((self.out / "tuneport.json").read_text(encoding="utf-8")))
