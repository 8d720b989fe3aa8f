"""Generated programs: judged in the user's sandbox, and run nowhere without one."""

from __future__ import annotations

import base64
import json
import pickle
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

import tuneport
from tuneport.errors import ScoringError, UsageError
from tuneport.evaluate.sandbox import Sandbox, program_in
from tuneport.evaluate.suites import find_suite
from tuneport.evaluate.tasks import livecodebench

PYTHON = f"{sys.executable} -I -"  # no sandbox at all: the programs of these tests are our own
HIDDEN = [{"input": "40\n", "output": "80\n", "testtype": "stdin"}]
PROBLEM: dict[str, Any] = {
    "question_title": "Double", "question_content": "Print twice the number.", "platform": "atcoder", "question_id": "a",
    "contest_id": "c", "contest_date": "2024-01-01T00:00:00", "starter_code": "", "difficulty": "easy",
    "public_test_cases": json.dumps([{"input": "2\n", "output": "4\n", "testtype": "stdin"}]),
    "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(json.dumps(HIDDEN)))).decode(),
    "metadata": "{}",
}  # fmt: skip
FUNCTIONAL = PROBLEM | {
    "starter_code": "class Solution:\n    def add(self, one: int, other: List[int]) -> int:\n        ",
    "public_test_cases": json.dumps([{"input": "2\n[3, 4]", "output": "9", "testtype": "functional"}]),
    "private_test_cases": json.dumps([{"input": "0\n[]", "output": "0", "testtype": "functional"}]),
    "metadata": json.dumps({"func_name": "add"}),
}


@pytest.mark.parametrize(
    ("problem", "code", "passed"),
    [
        (PROBLEM, "print(2 * int(input()))", True),
        (PROBLEM, "import sys\nn = int(sys.stdin.buffer.read())\nprint(n + n)\nsys.exit()", True),
        (PROBLEM, "print(4)", False),  # right on the public test only
        (PROBLEM, "print(2 * int(input())", False),
        (PROBLEM, "import os\nos._exit(0)", False),
        (
            FUNCTIONAL,
            "class Solution:\n    def add(self, one, other: List[int]):\n        return one + sum(other)",
            True,
        ),
        (FUNCTIONAL, "class Solution:\n    def add(self, one, other):\n        return one", False),
    ],
)
def test_a_program_passes_if_it_passes_every_public_and_private_test(
    problem: dict[str, Any], code: str, passed: bool
) -> None:
    assert Sandbox(PYTHON).passes(code, problem) is passed


def test_a_program_that_hangs_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneport.evaluate.sandbox._SECONDS_A_TEST", 1)
    assert Sandbox(PYTHON).passes("while True: pass", PROBLEM) is False


def test_a_command_that_runs_no_python_is_told_before_a_model_is_loaded(models: Path, tmp_path: Path) -> None:
    Sandbox(PYTHON).check()
    for command, error in (("cat", UsageError), ("true", UsageError), ("/no/such/program", ScoringError)):
        with pytest.raises(error, match="--run-code-in"):
            tuneport.evaluate([models / "all"], [], tmp_path / "o.json", suite="livecodebench", run_code_in=command)


def test_without_a_sandbox_nothing_is_run(models: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Name a sandbox"):
        tuneport.evaluate([models / "all"], [], tmp_path / "o.json", suite="livecodebench")
    assert not list(tmp_path.iterdir())


def test_the_last_fenced_block_is_the_program() -> None:
    assert program_in("First\n```python\na\n```\nbetter:\n```\nb\n```") == "b\n"
    assert program_in("```python\ncut short") == "cut short"
    assert program_in("print(1)") == "print(1)"


def test_the_task_asks_for_a_program_and_judges_it_in_the_sandbox() -> None:
    config = livecodebench(Sandbox(PYTHON))
    assert "Read the input from stdin" in config["doc_to_text"](PROBLEM)
    assert "def add(self" in config["doc_to_text"](FUNCTIONAL)
    assert config["process_results"](PROBLEM, ["```python\nprint(2 * int(input()))\n```"]) == {"pass@1": 1.0}
    assert config["process_results"](PROBLEM, ["I would double it."]) == {"pass@1": 0.0}
    (task,) = find_suite("livecodebench").tasks
    assert task.base.metric == "pass@1,none"
