"""On a system without locks, limits and positioned reads (Windows): one sentence, and what needs none of them runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import tiny_checkpoints as tiny
from support.made_up_results import MadeUp

# As far as Linux can play Windows: the modules that are missing there cannot be imported, the names of `os` are gone.
WINDOWS = """
import importlib.abc, os, platform, signal, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in {"fcntl", "resource", "termios", "pwd", "grp"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Missing())
for name in ("preadv", "pwrite", "pread", "pwritev", "sched_getaffinity", "getuid", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC",
             "O_DIRECTORY", "O_NOCTTY", "fork", "killpg"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("setitimer", "ITIMER_PROF", "SIGPROF", "SIGKILL"):
    delattr(signal, name)
platform.system = lambda: "Windows"
os.environ["TUNEPORT_KERNEL"] = "numpy"
from tuneport.cli import main
sys.exit(main(sys.argv[1:]))
"""


def on_windows(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WINDOWS, *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tiny.Trio:
    return tiny.trio(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("transfer", "--help"), ("study", "--help")])
def test_help_and_version_run_anywhere(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = on_windows(*arguments, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout and not done.stderr


def test_what_needs_no_lock_runs_anywhere(made: tiny.Trio, tmp_path: Path) -> None:
    study = MadeUp(tmp_path / "study", families=(0,), failed=None).write()
    dry = made.flags(tmp_path / "out", "--dry-run")
    for arguments in (("inspect", made.tuned), ("report", study, "--format", "markdown"), dry):
        done = on_windows(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    assert (study / "report.md").is_file() and not (tmp_path / "out").exists()


def test_what_needs_locks_ends_in_one_sentence_that_names_wsl(made: tiny.Trio, tmp_path: Path) -> None:
    diff = ("diff", "--base", made.base, "--tuned", made.tuned, "--out", tmp_path / "diff")
    for arguments in (made.flags(tmp_path / "out"), diff):
        done = on_windows(*arguments, cwd=tmp_path)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        (line,) = done.stderr.strip().splitlines()
        assert "WSL" in line and "Windows" in line
    assert list(tmp_path.iterdir()) == [], "nothing is begun"
