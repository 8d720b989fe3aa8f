"""How far a study's folder is, from what lies in it alone: neither the models nor the file it was declared in are needed.

In comes the folder, out comes a description for `tuneport inspect`.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuneport.study import records
from tuneport.study.records import RECORD, Record

_ANEW = "Run the study again: it writes the file anew and repeats nothing."


def is_study(folder: Path) -> bool:
    """Whether a folder is what `tuneport study` writes."""
    return (folder / "study.toml").is_file() and ((folder / "steps").is_dir() or (folder / "results.json").is_file())


def progress(folder: Path) -> dict[str, Any]:
    """What was asked, what of it is done, what failed and why."""
    found = [record for path in sorted((folder / "steps").glob(f"*/{RECORD}")) if (record := _record(path)) is not None]
    doubts: list[str] = []
    document = _results(folder, doubts)
    planned = {step["identity"] for step in document["steps"]}
    current = [record for record in found if record.identity in planned] if planned else found
    outcomes = Counter("failed" if record.outcome == "failed" else "done" for record in current)
    scored = [row for row in document["results"] if row.get("status") == "done" and row.get("split") == "test"]
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
        **({"doubts": doubts} if doubts else {}),
        "next": f"tuneport report {folder.name}" if planned and left == 0 else "Run tuneport study again; it goes on.",
    }


def _record(path: Path) -> Record | None:
    try:
        found = records.read(path.read_bytes())
    except OSError:
        return None
    if found is None or not isinstance(found.identity, str) or not isinstance(found.seconds, int | float):
        return None
    return found


def _results(folder: Path, doubts: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The rows of results.json that can be read; ``doubts`` says where that is not all of it."""
    try:
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = {"results": [], "steps": []}
    except (OSError, ValueError, RecursionError) as error:
        found = None
        doubts.append(f"results.json cannot be read: {error}. {_ANEW}")
    told = found if isinstance(found, dict) else {}
    whole = {
        "results": [row for row in _list(told, "results") if isinstance(row, dict)],
        "steps": [step for step in _list(told, "steps") if isinstance(step, dict) and _is_named(step)],
    }
    if found is not None and any(told.get(name) != rows for name, rows in whole.items()):
        doubts.append(f"results.json is not what a study writes. {_ANEW}")
    return whole


def _list(told: Mapping[str, Any], name: str) -> list[Any]:
    rows = told.get(name)
    return rows if isinstance(rows, list) else []


def _is_named(step: Mapping[str, Any]) -> bool:
    return isinstance(step.get("identity"), str)


def _name(folder: Path) -> str:
    try:
        return str(tomllib.loads((folder / "study.toml").read_text(encoding="utf-8"))["study"]["name"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return folder.name
