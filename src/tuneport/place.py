"""The folder of a long run: `DIR.partial` until everything is in it, then `DIR`.

A run goes on where an earlier one with the same plan stopped, says so when it was done before, and refuses
a folder that holds anything else; nothing that is there is ever removed.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuneport.errors import OutputError, TakenError

PLAN = "plan.json"


@contextmanager
def workplace(out: Path, plan: Mapping[str, Any], record: str | None = None) -> Iterator[Path | None]:
    """The folder to work in, renamed to `out` when all went well; None if `out` holds this plan's results.

    The plan stands in plan.json. With `record`, the name of a JSON file that the run writes at its end and that holds
    the plan under "plan", the finished folder has no plan.json of its own.
    """
    wanted = json.loads(json.dumps(plan))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        _compare(out, wanted, record)
        yield None
        return
    unfinished = out.with_name(f"{out.name}.partial")
    if unfinished.exists() and any(unfinished.iterdir()):
        _compare(unfinished, wanted, record)
    unfinished.mkdir(parents=True, exist_ok=True)
    with open(unfinished / PLAN, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"{unfinished} is in use by another run. Wait for it, or choose another DIR.") from error
        if lock.tell() == 0:
            lock.write(json.dumps(wanted, indent=1) + "\n")
            lock.flush()
        yield unfinished
        if record is not None:
            (unfinished / PLAN).unlink()
        unfinished.rename(out)


def _compare(folder: Path, wanted: Any, record: str | None) -> None:
    """Raise unless `folder` was begun with the plan `wanted`."""
    found = _plan_in(folder, record)
    if found is None:
        raise TakenError(f"{folder} exists and holds something else. Choose another DIR, or move it away.")
    if found != wanted:
        fields = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
        raise TakenError(
            f"{folder} was begun with another plan ({', '.join(fields)} differ). Choose another DIR, or move it away."
        )


def _plan_in(folder: Path, record: str | None) -> dict[str, Any] | None:
    """The plan a folder was begun with; None where it holds none."""
    for name, key in ((PLAN, None), (record, "plan")):
        try:
            found = json.loads((folder / name).read_text()) if name else None
        except (OSError, ValueError):
            continue
        found = found.get(key) if key and isinstance(found, dict) else found
        if isinstance(found, dict):
            return found
    return None
