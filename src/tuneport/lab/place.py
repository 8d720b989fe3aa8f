"""The folder of a lab run: `DIR.partial` until everything is in it, then `DIR`.

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

from tuneport.errors import OutputError


@contextmanager
def workplace(out: Path, plan: Mapping[str, Any]) -> Iterator[Path | None]:
    """The folder to work in, renamed to `out` when all went well; None if `out` holds this plan's results."""
    wanted = json.loads(json.dumps(plan))
    if out.exists() and any(out.iterdir()):
        _compare(out, wanted)
        yield None
        return
    unfinished = out.with_name(f"{out.name}.partial")
    if unfinished.exists() and any(unfinished.iterdir()):
        _compare(unfinished, wanted)
    unfinished.mkdir(parents=True, exist_ok=True)
    with open(unfinished / "plan.json", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"{unfinished} is in use by another run. Wait for it, or choose another DIR.") from error
        if lock.tell() == 0:
            lock.write(json.dumps(wanted, indent=1) + "\n")
            lock.flush()
        yield unfinished
        unfinished.rename(out)


def _compare(folder: Path, wanted: Any) -> None:
    """Raise unless `folder` was begun with the plan `wanted`."""
    try:
        found = json.loads((folder / "plan.json").read_text())
    except (OSError, ValueError):
        raise OutputError(f"{folder} exists and holds something else. Choose another DIR, or move it away.") from None
    if found != wanted:
        fields = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
        raise OutputError(
            f"{folder} was begun with another plan ({', '.join(fields)} differ). Choose another DIR, or move it away."
        )
