"""What every experiment on a family begins and ends with: a workshop in its folder, and a record in summary.json.

In comes what is to be made and asked in the workshop, out comes the record, shown as a table. An experiment that is
finished is shown again; one that was stopped goes on from the models it has.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneport.families import comparison
from tuneport.families.workshop import Workshop, need_models_extra, workshop
from tuneport.files.opening import read_text
from tuneport.output.workdir import workplace

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SUMMARY = "summary.json"


def experiment(
    name: str,
    out: str | Path,
    seed: int,
    recipe: DataclassInstance,
    run: Callable[[Workshop], dict[str, Any]],
    show: Callable[[str], None],
) -> dict[str, Any]:
    """Do `run` in a workshop in `out`, unless it is done; returns what summary.json holds.

    Raises `UsageError` where the libraries that train are not installed, `OutputError` where `out` holds something else.
    """
    need_models_extra("This experiment")
    out, started = Path(out), time.perf_counter()
    with workplace(out, {"format": f"tuneport-{name}-1", "seed": seed, "recipe": asdict(recipe)}) as folder:
        if folder is not None:
            with workshop(folder) as shop:
                found = run(shop)
            found |= {
                "seconds": round(time.perf_counter() - started, 1),
                "resumed": shop.resumed,  # then the time is this run's alone
                "recipe": asdict(recipe),
            }
            (folder / SUMMARY).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    record: dict[str, Any] = json.loads(read_text(out / SUMMARY))
    show(comparison.table(record))
    return record
