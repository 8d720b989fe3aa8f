"""The folder of a long run: `DIR.partial` until it is complete, then `DIR`.

A run resumes where an earlier one with the same plan stopped, says if it was done before, and refuses a folder with
other contents. Existing files are never removed, unless a complete new output replaces them on request.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuneport.errors import OutputError, TakenError, listing
from tuneport.files.holding import held
from tuneport.files.json_text import read_json
from tuneport.files.opening import read_bytes
from tuneport.files.printable import listed_names
from tuneport.files.writing import write_whole
from tuneport.output.journal import differing_fields
from tuneport.output.replacing import check_replaceable, finish_replacing, is_empty_folder, move_into_place

PLAN = "plan.json"


@contextmanager
def workplace(
    out: Path,
    plan: Mapping[str, Any],
    record: str | None = None,
    *,
    overwrite: bool = False,
    on_the_way: Sequence[str] = (),
) -> Iterator[Path | None]:
    """The folder to work in, renamed to `out` when all went well; None if `out` holds this plan's results.

    The plan is in plan.json. With `record`, the name of a JSON file that the run writes at its end and that holds
    the plan under "plan", the finished folder has no plan.json of its own. With `overwrite` an `out` of another plan is
    replaced when all went well, if it is tuneport's own: its record says so. Folders named in `on_the_way` hold what only
    an unfinished run needs: the finished one has none of them.
    """
    assert record is not None or not on_the_way, "nothing else would tell that they are no longer needed"
    assert record is not None or not overwrite, "what is replaced is known by its record"
    if out.name in ("", ".."):
        raise OutputError(f"{out} is not a valid name for a new folder. Choose another DIR.")
    wanted = json.loads(json.dumps(plan))
    if os.path.lexists(out) and not is_empty_folder(out):
        if not overwrite or _plan_in(out, record) == wanted:
            _compare(out, wanted, record)
            finish_replacing(out)
            yield None
            return
        check_replaceable(out)
    unfinished = out.with_name(f"{out.name}.partial")
    if os.path.lexists(unfinished) and {file.name for file in unfinished.iterdir()} - {f"{PLAN}.new"}:
        _compare(unfinished, wanted, record)
    with held(unfinished, "Wait for it, or choose another DIR."):
        _refuse_links(unfinished)
        finish_replacing(out)
        if _is_whole(unfinished, record):
            _finish(out, unfinished, on_the_way)  # a kill came between the last write and the last rename
            yield None
            return
        if not os.path.lexists(unfinished / PLAN):
            write_whole(unfinished / PLAN, json.dumps(wanted, indent=1) + "\n")
        yield unfinished
        if record is not None:
            (unfinished / PLAN).unlink()  # from here on the result is whole, and nothing but `_finish` is left to do
        _finish(out, unfinished, on_the_way)


def _refuse_links(unfinished: Path) -> None:
    """Raise `TakenError` for links in the folder: libraries that write there would write through them."""
    links = sorted(path.relative_to(unfinished).as_posix() for path in unfinished.rglob("*") if path.is_symlink())
    if links:
        raise TakenError(
            f"{unfinished} contains links, and tuneport does not write through links. Remove "
            f"them:{listed_names(links, 8)}"
        )


def _finish(out: Path, unfinished: Path, on_the_way: Sequence[str]) -> None:
    """Remove what the finished folder does not have, and rename it."""
    for name in on_the_way:
        if (unfinished / name).exists():
            shutil.rmtree(unfinished / name)
    move_into_place(out, unfinished)


def _is_whole(unfinished: Path, record: str | None) -> bool:
    """Whether only `_finish` is left to do: the plan went, and the record is there."""
    return record is not None and (unfinished / record).is_file() and not os.path.lexists(unfinished / PLAN)


def _compare(folder: Path, wanted: Any, record: str | None) -> None:
    """Raise unless `folder` was begun with the plan `wanted`."""
    found = _plan_in(folder, record)
    if found is None:
        raise TakenError(f"{folder} exists and contains something else. Choose another DIR, or move it away.")
    different = differing_fields(found, wanted)
    if different:
        raise TakenError(
            f"{folder} was started with a different plan; differences:{listing(different, 10)}\n"
            "Choose another DIR, or move it away."
        )


def _plan_in(folder: Path, record: str | None) -> dict[str, Any] | None:
    """The plan a folder was begun with; None where it holds none."""
    for name, key in ((PLAN, None), (record, "plan")):
        try:
            found = read_json(read_bytes(folder / name, folder)) if name else None
        except (OSError, ValueError):
            continue
        found = found.get(key) if key and isinstance(found, dict) else found
        if isinstance(found, dict):
            return found
    return None
