"""The folder of a run: what it may replace, and what is said where the disk refuses."""

from __future__ import annotations

import json
import multiprocessing
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from support.command_results import Cli
from support.forked import tune_after_a_fork
from support.quick_tuning import QUICK
from support.tiny_tuning import same, weights

from tuneport.errors import OutputError
from tuneport.tuning.run import tune


def test_overwrite_replaces_another_plans_output_and_nothing_that_is_read(
    base: Path, sums: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "tuned"
    flags = ["tune", base, "--data", sums, "--out", out, "--batch-size", "2"]
    assert cli(*flags, "--steps", "1").status == 0
    assert cli(*flags, "--steps", "2").status == 1
    ran = cli(*flags, "--steps", "2", "--overwrite")
    assert (ran.status, json.loads((out / "tune.json").read_text())["outcome"]["steps"]) == (0, 2), ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]
    own = out / "mine.jsonl"
    shutil.copyfile(sums, own)
    ran = cli("tune", base, "--data", own, "--out", out, "--steps", "3", "--overwrite")
    assert ran.status == 1 and "mine.jsonl, an input" in ran.err
    assert own.exists()


def test_a_disk_that_is_too_small_is_told_before_training(
    base: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))  # type: ignore[attr-defined] # a private name of shutil's, which is what disk_usage returns
    with pytest.raises(OutputError, match=r"the disk has 1,000 free"):
        tune(base, [sums], QUICK, out=tmp_path / "out")


def _too_large(queue: Any, *arguments: Any, **choices: Any) -> None:
    """Fine-tune where no file may grow beyond 20 KB, and say what came of it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        tune_after_a_fork(*arguments, **choices)
    except Exception as error:
        queue.put((type(error).__name__, str(error)))
    else:
        queue.put(("nothing", ""))


@pytest.mark.parametrize("save_every", [3, 500], ids=["checkpoint", "model"])
def test_a_file_that_cannot_be_written_is_told_in_words_and_the_run_goes_on_later(
    base: Path, sums: Path, full: Path, tmp_path: Path, save_every: int
) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    out, running = tmp_path / "out", {"save_every": save_every}
    child = context.Process(target=_too_large, args=(queue, base, [sums], QUICK), kwargs={"out": out, **running})
    child.start()
    kind, words = queue.get()
    child.join()
    assert kind == "OutputError", words
    assert "finished work is kept" in words
    assert not out.exists()
    assert same(weights(tune(base, [sums], QUICK, out=out, **running).out), weights(full))
