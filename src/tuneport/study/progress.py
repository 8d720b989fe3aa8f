"""How far a study's folder is, from what lies in it alone: neither the models nor the file it was declared in are needed.

In comes the folder, out comes a description for `tuneport inspect`.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from tuneport.study import records
from tuneport.study.records import RECORD, Record


def is_study(folder: Path) -> bool:
    """Whether a folder is what `tuneport study` writes."""
    return (folder / "study.toml").is_file() and ((folder / "steps").is_dir() or (folder / "results.json").is_file())


def progress(folder: Path) -> dict[str, Any]:
    """What was asked, what of it is done, what failed and why."""
    found = [record for path in sorted((folder / "steps").glob(f"*/{RECORD}")) if (record := _record(path)) is not None]
    document = _json(folder / "results.json")
    named = document.get("steps")
    planned = {step["identity"] for step in named if isinstance(step, dict) and "identity" in step} if named else set()
    current = [record for record in found if record.identity in planned] if planned else found
    outcomes = Counter("failed" if record.outcome == "failed" else "done" for record in current)
    scored = [row for row in document.get("results", []) if row.get("status") == "done" and row.get("split") == "test"]
    failed = [f"{record.name}: {record.error}" for record in current if record.outcome == "failed"]
    left = len(planned) - outcomes["done"]
    return {
        "name": _name(folder),
        "steps": len(planned) or None,
        "done": outcomes["done"],
        "failed": failed,
        "left": left if planned else None,
        "scored_models": len(scored),
        "of_other_choices": len(found) - len(current),
        "seconds": round(sum(record.seconds for record in current), 1),
        "bytes": sum(path.stat().st_size for path in (folder / "steps").rglob("*") if path.is_file()),
        "next": f"tuneport report {folder.name}" if planned and left == 0 else "Run tuneport study again; it goes on.",
    }


def _record(path: Path) -> Record | None:
    try:
        return records.read(path.read_bytes())
    except OSError:
        return None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _name(folder: Path) -> str:
    try:
        return str(tomllib.loads((folder / "study.toml").read_text(encoding="utf-8"))["study"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name
