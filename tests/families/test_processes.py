"""The two worker processes: one thread each, and none that outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tuneport.errors import WorkerError
from tuneport.families.processes import two_processes

pytest.importorskip("torch")

PARENT = """
import signal, sys, time
from pathlib import Path
from tuneport.families.processes import two_processes

def work(path):
    import os, torch
    Path(path).write_text(f"{os.getpid()} {torch.get_num_threads()}")
    time.sleep(600)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever was started in the background ignores it
    with two_processes() as pool:
        pool.submit(work, sys.argv[1]).result()
"""


def wait_until(true: object, seconds: float) -> bool:
    """Look often rather than sleep long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "stopped"])
def test_a_run_that_is_ended_leaves_no_worker_behind(tmp_path: Path, how: signal.Signals) -> None:
    script, told = tmp_path / "parent.py", tmp_path / "told"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script), str(told)], stderr=subprocess.DEVNULL)
    assert wait_until(lambda: told.exists() and " " in told.read_text(), 120)
    worker, threads = map(int, told.read_text().split())
    parent.send_signal(how)
    parent.wait(timeout=60)  # the worker is at work for ten minutes
    assert threads == 1
    assert wait_until(lambda: not _alive(worker), 20)


def die() -> None:
    """As a process ends that the system kills for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_the_system_ends_is_told_in_words() -> None:
    with pytest.raises(WorkerError, match="run the same command again"), two_processes() as pool:
        pool.submit(die).result()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in (Path(f"/proc/{pid}/status").read_text() if Path("/proc").exists() else "")
