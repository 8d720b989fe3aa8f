"""Work is done, and told as far as it can be, whatever became of stdin, stdout and stderr."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import tiny_checkpoints as tiny

from tuneport import terminal
from tuneport.verification import verify

TUNEPORT = f"{sys.executable} -m tuneport"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tiny.Trio:
    trio = tiny.trio(tmp_path_factory.mktemp("models"))
    (trio.target / "LICENSE.\x1b[2Jtxt").write_text("ours")  # told as a decision
    return trio


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-", "2>/dev/full >&-"])
def test_a_closed_stream_stops_no_run_and_gets_into_no_file(made: tiny.Trio, tmp_path: Path, closed: str) -> None:
    if "full" in closed and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    flags = " ".join(f"'{argument}'" for argument in made.flags(tmp_path / "out"))
    done = shell(f"{TUNEPORT} {flags} {closed}")
    assert done.returncode == 0 and "Traceback" not in done.stderr
    tiny.assert_same(tiny.read_weights(tmp_path / "out"), tiny.expected(made))
    assert verify(tmp_path / "out").leaves > 0


@pytest.mark.parametrize("closed", ["2>&-", ">&-"])
def test_a_failure_keeps_its_status(tmp_path: Path, closed: str) -> None:
    done = shell(f"{TUNEPORT} inspect '{tmp_path / 'nothing'}' --json {closed}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stdout.startswith('{"error"') if closed == "2>&-" else done.stderr.startswith("tuneport: ")


def test_a_result_that_cannot_be_printed_is_told_as_done(made: tiny.Trio, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    flags = " ".join(f"'{argument}'" for argument in made.flags(tmp_path / "out"))
    done = shell(f"{TUNEPORT} {flags} --json >/dev/full")
    assert done.returncode == 1 and done.stderr.startswith("tuneport: Done, but the result could not be written")
    assert (tmp_path / "out" / "tuneport.json").exists()


# What is imported first when Ctrl-C comes.
INTERRUPTED = """
import sys
class Finder:
    def find_spec(self, name, *rest):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
sys.argv = ["tuneport", "inspect", "nothing"]
from tuneport.__main__ import run
sys.exit(run())
"""


@pytest.mark.parametrize("module", ["tuneport.cli", "tuneport.inspection"])
def test_ctrl_c_while_modules_are_imported_ends_in_words(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(module=module)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "tuneport: Stopped. Run the same command again to resume.\n"


def test_words_are_safe_to_print_and_go_nowhere_without_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    terminal.tell("a\x1b[2Jb")
    assert stream.getvalue() == "a\\x1b[2Jb\n" and not terminal.is_watched()
    stream.close()
    terminal.tell("nobody hears")
    monkeypatch.setattr(sys, "stderr", None)
    terminal.tell("nobody hears")
    assert not terminal.is_watched()


def test_a_stream_whose_reader_is_gone_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    gone = open(write, "wb", buffering=0)  # noqa: SIM115  (closed below)
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(gone, write_through=True))
    terminal.tell("nobody hears")
    gone.close()
