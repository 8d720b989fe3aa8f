"""What every test shares: no network, one thread for torch, hypothesis profiles, and the command line as a function."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import functools
import gc
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from support.broken_disks import Drive, Server, mounted
from support.command_results import Cli, Ran
from support.forked_commands import CORE, MODELS, ForkingServer
from support.needed_libraries import is_marked_models, libraries
from support.shown_progress import Lines, keep_lines

_COMMON: dict[str, Any] = {
    "deadline": None,
    "print_blob": True,
    # Fixtures of a whole test (tmp_path) are only ever written over, never relied on to be empty.
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("ci", max_examples=300, **_COMMON)
settings.register_profile("long", max_examples=12_000, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@functools.cache
def needs_models(file: Path) -> bool:
    """Whether a file of tests needs more than the core: it, its helpers or its fixtures import more, or it says so."""
    return bool(libraries(file)) or is_marked_models(file)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """In an environment with the core alone, files that need more cannot even be imported; nor can what needs their fixtures."""
    if importlib.util.find_spec("torch") is not None:
        return None
    file = collection_path / "conftest.py" if collection_path.is_dir() else collection_path
    is_of_tests = file.name == "conftest.py" or file.match("test_*.py")
    return True if is_of_tests and file.exists() and needs_models(file) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every test is of the `core`, or needs the `models` extra; files with slow tests begin, so that no worker is left with one."""
    if config.option.markexpr:  # reading the imports of all files takes seconds
        for item in items:
            item.add_marker(pytest.mark.models if needs_models(item.path) else pytest.mark.core)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def memory_is_measured_once() -> Iterator[None]:
    """How much this process holds, which bounds a run in it. The system walks all its pages to tell, and of a worker with torch
    that was a fifth of the time of tests of transfers. What is held to a bound of its own runs as a process.
    """
    from tuneport.engine import budget

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "memory_held", functools.cache(budget.memory_held))
        yield


@pytest.fixture(scope="module", autouse=True)
def only_new_objects_are_searched_for_garbage() -> None:
    """At its end each trainer searches everything for garbage. In a worker that holds all libraries that took longer than to
    train a tiny model; what was there before the tests of a file is left out from now on.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line in this process: ``cli("transfer", "--base", path, …)``."""
    from tuneport.cli import main

    def run(*arguments: str | os.PathLike[str]) -> Ran:
        capsys.readouterr()
        try:
            status = main([os.fspath(argument) for argument in arguments])
        except SystemExit as stop:  # argparse: --help, wrong usage
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return run


@pytest.fixture
def command() -> Cli:
    """The command line as a process of its own: ``command("transfer", …, env={…}, cwd=…)``.

    ``env`` comes on top of this process's environment; ``environment`` is all of it.
    """

    def run(
        *arguments: str | os.PathLike[str],
        env: dict[str, str] | None = None,
        environment: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "tuneport", *map(os.fspath, arguments)],
            capture_output=True,
            env={**(os.environ if environment is None else environment), **(env or {})},
            cwd=cwd,
            timeout=120,
            check=False,
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """``command`` without its imports: a child of a process that has them, and a process of its own from there on.

    For what needs an environment, a folder or streams of its own. How Python starts, and what it imports, is not seen.
    """
    with ForkingServer(tmp_path_factory.mktemp("forked"), CORE) as server:
        yield server


@pytest.fixture(scope="session")
def forked_with_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """``forked`` for commands that load models; starting the server takes seconds."""
    with ForkingServer(tmp_path_factory.mktemp("forked"), MODELS) as server:
        yield server


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drive]:
    server = Server(tmp_path_factory.mktemp("driver"))
    yield server
    assert server.process.stdin is not None
    server.process.stdin.close()
    assert server.process.wait(timeout=30) == 0


@pytest.fixture
def shown_progress(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """What progress says while the test runs."""
    return keep_lines(monkeypatch)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    if shutil.which("mount") is None:
        pytest.skip("no mount here")
    yield from mounted("size=20m", tmp_path / "disk")
