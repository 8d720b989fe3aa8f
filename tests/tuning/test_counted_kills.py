"""A fine-tuning killed at counted changes of files, most of them at its very end, ends as one that nobody killed."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from support.fault_driver import Fault
from support.forked import tune_after_a_fork
from support.quick_tuning import QUICK

from tuneport.tuning.recipes import Lora
from tuneport.tuning.run import tune

pytestmark = pytest.mark.slow


def with_fault(job: dict[str, Any], *arguments: Any, **choices: Any) -> None:
    """Run `tune` in this child process, with a fault at a counted change of a file."""
    fault = Fault(job)
    tune_after_a_fork(*arguments, **choices)
    fault.active = False
    Path(job["counts"]).write_text(json.dumps(fault.counts))


def lasting(out: Path) -> dict[str, Any]:
    """Every file of a folder by its name, without what two unbroken runs differ in: times."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in out.iterdir()}
    del found["README.md"]  # made of the record
    log = [json.loads(line) for line in found["log.jsonl"].splitlines()]
    record = json.loads(found["tune.json"])
    record["files"] = record["outcome"]["seconds"] = None
    return {**found, "log.jsonl": [{**line, "seconds": None} for line in log], "tune.json": record}


@pytest.mark.parametrize("lora", [None, Lora(rank=4)], ids=["full", "lora"])
def test_the_same_command_ends_with_every_file_of_an_unbroken_run(
    base: Path, sums: Path, tmp_path: Path, lora: Lora | None
) -> None:
    out, counts = tmp_path / "at" / "out", tmp_path / "counts.json"
    arguments: tuple[Any, ...] = (base, [sums], QUICK)
    choices: dict[str, Any] = {"out": out, "lora": lora, "save_every": 3}
    job = {"under": str(tmp_path / "at"), "call": "change", "do": "kill", "counts": str(counts)}

    def ran(at: int) -> int | None:
        shutil.rmtree(out.parent, ignore_errors=True)
        out.parent.mkdir()
        child = multiprocessing.get_context("fork").Process(
            target=with_fault, args=({**job, "at": at}, *arguments), kwargs=choices
        )
        child.start()
        child.join()
        return child.exitcode

    assert ran(0) == 0
    unbroken, changes = lasting(out), int(json.loads(counts.read_text())["change"])
    plan, begun = out.parent / "out.partial" / "plan.json", []
    # On the way, and where the result becomes whole and the checkpoints go.
    for at in (*(changes * part // 4 for part in (1, 2, 3)), *range(changes - 27, changes + 1, 3)):
        assert ran(at) == -signal.SIGKILL
        assert not out.exists()
        begun.append(plan.exists())
        tune(*arguments, **choices)
        assert lasting(out) == unbroken
        assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert begun.count(True) > 3 and begun.count(False) > 5, "before and after the result was whole"
