"""What a transfer tells of itself: its manifest, and each tensor's entry by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "tuneport.json").read_text()))


def by_name(folder: Path) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in manifest(folder)["tensors"]}
