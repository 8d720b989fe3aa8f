"""Several processes on this machine: what happens to a step whose process dies, and to processes whose parent dies."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.tiny_study import write_study
from support.waiting_steps import SIGNS, end_the_process, is_running

from tuneport.studies.file.study_file import read_study
from tuneport.studies.graph import study_inputs
from tuneport.studies.graph.build import build
from tuneport.studies.run.engines.local import local
from tuneport.studies.run.schedule import look, perform_all
from tuneport.studies.run.store_at import open_store


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("models"))


def test_a_process_that_is_ended_takes_one_step_with_it_which_is_tried_once_more(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signs = tmp_path / "signs"
    signs.mkdir()
    monkeypatch.setenv(SIGNS, str(signs))
    store = open_store(tmp_path / "out")
    state = look(build(read_study(file), study_inputs.Inputs(file.parent)), store)
    with local(2) as engine:
        perform_all(state, store, engine, perform=end_the_process)
    (failed,) = state.failed
    assert failed.name == "transfer M3 + Δ(M1)", "M2 + Δ(M1) was done at the second try"
    assert "killed 2 times" in str(failed.error)
    assert len(state.whole) == 29
    state = look(build(read_study(file), study_inputs.Inputs(file.parent)), store)
    assert [step.name for step in state.to_do] == [failed.name]


def test_a_script_that_runs_a_study_is_not_run_again_by_its_processes(file: Path, tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(
        f"print('once')\nimport tuneport\ntuneport.study({str(file)!r}, {str(tmp_path / 'out')!r}, jobs=2)\n"
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("once\n", "")


def test_processes_end_with_the_one_that_started_them(file: Path, tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from tuneport.studies.run.engines.local import Processes, _new_worker\n"
        "worker = _new_worker()\n"
        "print(worker.process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == -9
    until = time.monotonic() + 10
    while is_running(int(ran.stdout)):
        assert time.monotonic() < until, "it is still there"
        time.sleep(0.02)
