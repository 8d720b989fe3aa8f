"""What others wrote is computed in a child that the system ends: by its CPU time, and by its memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tuneport.files.limited_process import LimitError, ask

HERE = "files.test_limited_process:maker"


def maker() -> Callable[[Mapping[str, Any]], Any]:
    return lambda request: eval(request["text"], {"os": os, **request})


def asked(text: str, seconds: float = 5.0, memory: int = 2**28, stays: bool = True, **given: Any) -> Any:
    return ask(HERE, {"text": text, **given}, seconds=seconds, memory=memory, stays=stays)


def test_an_answer_comes_from_one_child_that_stays() -> None:
    first = asked("[os.getpid(), value]", value={"a": (1, "\ud800")})
    assert first == [first[0], {"a": [1, "\ud800"]}]
    assert first[0] != os.getpid()
    assert asked("os.getpid()") == first[0]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("sum(range(10**15))", False),  # one step of the interpreter, in which no signal is looked at
        ("__import__('re').match('(a+)+$', 'a' * 99 + '!')", False),
        ("'x' * 10**10", True),
        ("[bytes(2**20) for _ in range(2**20)]", True),
        ("os.abort()", True),
    ],
)
def test_a_child_that_breaks_a_limit_is_ended_and_the_next_question_has_a_new_one(text: str, memory: bool) -> None:
    before = asked("os.getpid()")
    with pytest.raises(LimitError) as caught:
        asked(text, seconds=0.2)
    assert caught.value.memory is memory
    after = asked("os.getpid()")
    assert before != after
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


def test_time_that_is_not_computed_does_not_count() -> None:
    assert asked("os.waitpid(os.posix_spawn('/bin/sh', ['sh', '-c', ':'], {}), 0)[1]", seconds=0.2) == 0


def test_a_child_imports_nothing_from_the_folder_that_the_command_is_run_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "importlib", "pickle", "sitecustomize", "tuneport"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'made')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = asked("os.getpid()", stays=False)
    assert asked("os.getpid()") != before
    assert not (tmp_path / "made").exists()
