"""Progress: what is said of how far work is, and where it is shown."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support import tiny_checkpoints as tiny
from support.broken_disks import Drive
from support.shown_progress import Lines

import tuneport
from tuneport import libraries, progress, terminal
from tuneport.libraries import quietly
from tuneport.progress import BYTES, Progress, duration
from tuneport.scoring.harness import _Bar


class Terminal(io.StringIO):
    """A stream that a person looks at; ``wrote`` is set with every write."""

    def __init__(self) -> None:
        super().__init__()
        self.wrote = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        found = super().write(text)
        self.wrote.set()
        return found


class Pipe(Terminal):
    def isatty(self) -> bool:
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [100.0]
    monkeypatch.setattr("tuneport.progress.time.monotonic", lambda: now[0])

    def later(seconds: float) -> None:
        now[0] += seconds

    return later


def test_rate_and_time_left_are_of_what_is_done_now(clock: Callable[[float], None]) -> None:
    bar = Progress("transfer", 10e9, BYTES)
    for _ in range(4):  # read again and found whole
        bar.taken_up(1e9)
        bar.add(1e9)
    clock(10)
    assert bar.words() == "transfer 40% of 10.00 GB (4.00 GB from an earlier run)"
    bar.add(2e9)
    assert bar.words() == "transfer 60% of 10.00 GB (4.00 GB from an earlier run), 0.20 GB/s, 20 s left"
    steps = Progress("tune", 300, "steps", before=100)
    clock(50)
    steps.set(125)
    steps.note = "loss 1.2000"
    assert steps.words() == "tune 125 of 300 steps (100 from an earlier run), 2.0 s each, 6 min left, loss 1.2000"


def test_durations_have_one_or_two_units() -> None:
    assert [duration(s) for s in (48, 720, 12_000, 400_000)] == ["48 s", "12 min", "3 h 20 min", "4.6 days"]


def test_a_terminal_has_one_line_cut_to_its_width_and_other_words_come_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "30")
    with Progress("tune", 40, "steps") as outer:
        with Progress("", 7, "requests"):
            stream.wrote.clear()
            assert stream.wrote.wait(10)
        terminal.tell("warning: x")
        outer.add(40)
        stream.wrote.clear()
        assert stream.wrote.wait(10)
    shown = stream.getvalue()
    lines = shown.split("\r\x1b[K")
    assert "tune 0 of 40 steps · 0 of 7 …" in lines and "warning: x\n" in lines
    assert shown.endswith("\r\x1b[K") and "\n\n" not in shown
    assert all(len(line.rstrip("\n")) < 30 for line in lines)


def test_elsewhere_a_line_now_and_then_also_while_libraries_are_kept_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress._Screen.seconds == 60
    monkeypatch.setattr(progress._Screen, "seconds", 0.01)
    stream = Pipe()
    monkeypatch.setattr(sys, "stderr", stream)
    with quietly(), Progress("evaluate", 3, "tasks") as bar:
        bar.note = "M1: gsm8k"
        print("a library's remark", file=sys.stderr)
        stream.wrote.clear()
        assert stream.wrote.wait(10)
    lines = stream.getvalue().splitlines()
    assert set(lines) <= {"evaluate 0 of 3 tasks", "evaluate 0 of 3 tasks, M1: gsm8k"} and "\r" not in stream.getvalue()


def test_a_terminal_says_what_is_waited_for_while_libraries_are_loaded_and_forgets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "transformers.modeling_utils", raising=False)
    watched, piped = Terminal(), Pipe()
    for stream in (watched, piped):
        monkeypatch.setattr(sys, "stderr", stream)
        with quietly(to_stderr=True):
            assert ("loading PyTorch" in stream.getvalue()) is (stream is watched)
    assert watched.getvalue().endswith("\r\x1b[K") and piped.getvalue() == ""


def test_elsewhere_it_is_said_if_it_takes_long_and_never_by_a_process_whose_work_another_reports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert libraries._PATIENCE == 2
    libraries._say_once.cache_clear()
    monkeypatch.setattr(libraries, "_PATIENCE", 0.01)
    monkeypatch.delitem(sys.modules, "transformers.modeling_utils", raising=False)
    piped = Pipe()
    monkeypatch.setattr(sys, "stderr", piped)
    monkeypatch.setattr(progress, "_silent", True)
    before = threading.active_count()
    with quietly(to_stderr=True):
        assert threading.active_count() == before
    monkeypatch.setattr(progress, "_silent", False)
    with quietly(to_stderr=True):
        assert piped.wrote.wait(10)
    (line,) = piped.getvalue().splitlines()
    assert line.startswith("loading PyTorch and transformers")


def test_the_bars_of_the_harness_count_what_it_says_there_is(shown_progress: Lines) -> None:
    bar = _Bar(total=7, desc="Running generate_until requests")
    bar.update(2)
    bar.close()
    assert list(_Bar("abc")) == ["a", "b", "c"]
    assert any("2 of 7 requests" in line for line in shown_progress)
    assert "3 of 3 requests" in shown_progress[-1]


def test_a_failure_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(ValueError, match="stop"), Progress("outer", 3, "tasks"):
        Progress("inner", 3, "tasks").__enter__()
        raise ValueError("stop")
    assert progress._open == []


def test_each_function_of_the_core_says_how_far_it_is(shown_progress: Lines, tmp_path: Path) -> None:
    made = tiny.trio(tmp_path)
    out, diff = tmp_path / "out", tmp_path / "diff"
    tuneport.transfer(made.base, made.tuned, made.target, out)
    tuneport.diff(made.base, made.tuned, diff)
    tuneport.apply(diff, made.target, tmp_path / "applied")
    tuneport.verify(out, made.base, made.tuned, made.target, full=True)
    for what in ("transfer", "diff", "apply", "recompute"):
        assert any(line.startswith(f"{what} 100% of ") for line in shown_progress), shown_progress


def test_after_a_kill_it_says_how_much_was_there(drive: Drive, shown_progress: Lines, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    made = tiny.trio(tmp_path / "in", shards=(1, 2, 1))
    argv = made.flags(tmp_path / "out", "--workers", "1")
    counts = tmp_path / "counts.json"
    assert drive(made.flags(tmp_path / "whole", "--workers", "1"), counts=str(counts)).status == 0
    drive(argv, call="write", at=json.loads(counts.read_text())["write"], do="kill")
    tuneport.transfer(made.base, made.tuned, made.target, tmp_path / "out", workers=1)
    assert any("from an earlier run" in line for line in shown_progress), shown_progress
