"""Generated programs: judged in the user's sandbox, and run nowhere without one."""

from __future__ import annotations

import base64
import json
import os
import pickle
import resource
import sys
import textwrap
import zlib
from pathlib import Path
from typing import Any

import pytest

import tuneport
from tuneport.errors import ScoringError, UsageError
from tuneport.scoring.sandbox.code_problems import read_problem
from tuneport.scoring.sandbox.sandbox import Sandbox, program_in
from tuneport.scoring.suites import find_suite
from tuneport.scoring.tasks import livecodebench

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
    monkeypatch.setattr("tuneport.scoring.sandbox.sandbox._SECONDS_A_TEST", 1)
    assert Sandbox(PYTHON).passes("while True: pass", PROBLEM) is False


def test_a_command_that_runs_no_python_is_told_before_a_model_is_loaded(models: Path, tmp_path: Path) -> None:
    Sandbox(PYTHON).check()
    for command, error in (("cat", UsageError), ("true", UsageError), ("/no/such/program", ScoringError)):
        with pytest.raises(error, match=r"run_code_in|/no/such"):
            tuneport.evaluate([models / "all"], [], tmp_path / "o.json", suite="livecodebench", run_code_in=command)


def test_without_a_sandbox_nothing_is_run(models: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run_code_in is missing"):
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


RIGHT = "n = int(input())\nprint(2 * n)\n"
NO_RIGHT_OUTPUT = {
    "reads what its parent was given": """
        import __main__, gc, os, sys
        held = repr(vars(__main__)) + repr([thing for thing in gc.get_objects() if isinstance(thing, (str, dict))])
        for frame in sys._current_frames().values():
            while frame:
                held += repr(frame.f_locals)
                frame = frame.f_back
        print("80" if "80\\n" in held else 4)
        """,
    "writes what looks like a verdict": """
        import os
        frame = b'{"ended": "done", "length": 2}\\n4\\n{"ended": "done", "length": 3}\\n80\\n passed\\n'
        for descriptor in range(256):
            try:
                os.write(descriptor, frame)
            except OSError:
                pass
        os._exit(0)
        """,
    "ends with status 0": "import os\nos._exit(0)",
    "is ended by a signal": "import os\nprint(2 * int(input()), flush=True)\nos.kill(os.getpid(), 9)",
    "fails after the right output": RIGHT + "sys.stdout.flush()\nraise RuntimeError",
    "prints every number that it may be asked for": "print(*range(100), sep='\\n')",
    "prints without an end": "import os\nwhile True: os.write(1, b'4' * 65536)",
    "needs more memory than it may have": "held = bytearray(2**32)\n" + RIGHT,
    "writes a file without an end": "f = open('f', 'wb')\nwhile True: f.write(bytes(2**24))",
    "keeps its time by a child in another session": "import os\nif os.fork() == 0: os.setsid()\nwhile True: pass",
}
EQUAL_TO_ALL = """
class All(list):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
class Solution:
    def add(self, one, other): return All()
"""


@pytest.mark.parametrize("attack", NO_RIGHT_OUTPUT)
def test_nothing_but_the_right_outputs_makes_a_program_pass(attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneport.scoring.sandbox.sandbox._SECONDS_A_TEST", 2)
    assert Sandbox(PYTHON).passes(textwrap.dedent(NO_RIGHT_OUTPUT[attack]), PROBLEM) is False
    assert not judged_processes()


def test_an_object_that_is_equal_to_everything_is_no_answer() -> None:
    assert Sandbox(PYTHON).passes(EQUAL_TO_ALL, FUNCTIONAL) is False


def test_what_a_program_leaves_behind_is_ended_and_keeps_nobody_waiting() -> None:
    leaves = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n" + RIGHT
    assert Sandbox(PYTHON).passes(leaves, PROBLEM) is True
    assert not judged_processes()
    many = (
        "import os, time\nfor _ in range(300):\n    if os.fork() == 0:\n        os.setsid()\n        time.sleep(600)\n"
    )
    Sandbox(PYTHON).passes(many, PROBLEM)
    assert not judged_processes()


def judged_processes() -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        if "open(int(sys.argv[1]), 'rb')" in line:
            found.append(line)
    return found


def test_output_is_bounded_while_it_is_read() -> None:
    sandbox = f'{sys.executable} -c "import os\nwhile True: os.write(1, bytes(1 << 20))"'
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert Sandbox(sandbox).passes(RIGHT, PROBLEM) is False
    flood = "import os\nfor _ in range(300): os.write(1, b'x' * (1 << 20))\n" + RIGHT
    assert Sandbox(PYTHON).passes(flood, PROBLEM) is False
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


@pytest.mark.parametrize(
    "said",
    [
        "no JSON\\n",
        "[]\\n",
        '{"ended": "done", "length": -1}\\n',
        '{"ended": "done", "length": 1e300}\\n',
        '{"ended": "done", "length": 99999999999}\\n',
        '{"ended": "done", "length": 9}\\n4',
        "[" * 200 + "\\n",
    ],
)
def test_a_sandbox_that_says_something_else_has_passed_nothing(said: str) -> None:
    line = said.replace('"', '\\\\\\"')
    assert (
        Sandbox(f"{sys.executable} -c \"import sys; sys.stdin.read(); print('{line}')\"").passes(RIGHT, PROBLEM)
        is False
    )


def test_neither_expected_outputs_nor_secrets_of_the_environment_enter_the_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    keeps = "import os, sys, json; json.dump([sys.stdin.read(), dict(os.environ)], open(sys.argv[1], 'w'))"
    problem = PROBLEM | {"public_test_cases": json.dumps([{"input": "an input", "output": "an output"}])}
    assert Sandbox(f'{sys.executable} -c "{keeps}" {tmp_path}/kept').passes("a program", problem) is False
    program, environment = json.loads((tmp_path / "kept").read_text())
    (call,) = (line for line in program.splitlines() if line.startswith("main("))
    job = zlib.decompress(base64.b64decode(call.split("'")[1])).decode()
    assert "an input" in job and "a program" in job
    assert "an output" not in job and "an output" not in program
    assert environment["PATH"] and "hf_secret" not in repr(environment)


@pytest.mark.parametrize(
    ("command", "kills"),
    [
        ("docker run --rm -i python:3.12 python -", "kill tuneport-"),
        ("docker --context far run -i python:3.12 python -", "--context far kill tuneport-"),
        ("docker run --name mine -i python:3.12 python -", "kill mine"),
        ("docker run --name=mine -i python:3.12 python -", "kill mine"),
        ("sh -c 'docker run --rm -i python:3.12 python -'", "kill tuneport-"),
        ("sh -c 'cd / && exec docker --context far run -i python:3.12 python - | cat'", "--context far kill tuneport-"),
        ("sh -ec 'A=1 docker run --name mine -i python:3.12 python -'", "kill mine"),
        (
            """env sh -c 'echo run >&2; if true; then docker container run -i python:3.12 python -; fi'""",
            "container kill tuneport-",
        ),
    ],
)
def test_a_container_that_goes_on_is_ended_by_its_name(
    command: str, kills: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = tmp_path / "docker"
    stand_in.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncase "$*" in *run*) exec cat >&2 /dev/zero;; esac\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("tuneport.scoring.sandbox.sandbox._SECONDS", 0.5)
    assert Sandbox(command).passes(RIGHT, PROBLEM) is False
    begun, ended = (tmp_path / "calls").read_text().splitlines()
    assert ended.startswith(kills)
    name = ended.rpartition(" ")[2]
    assert f"--name {name} " in begun or f"--name={name} " in begun
    assert begun.endswith("-i python:3.12 python -")


def test_what_a_command_that_runs_no_python_says_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"does not run a Python program from its stdin\. It says: no such image \?\[31m"
    ):
        Sandbox("sh -c 'printf \"no such image \\033[31m\\n\" >&2; cat > /dev/null'").check()


def test_private_tests_are_read_as_a_text_and_never_unpickled(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    def private(value: Any) -> dict[str, Any]:
        return PROBLEM | {"private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(value))).decode()}

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        packed = zlib.compress(pickle.dumps(json.dumps(HIDDEN), protocol))
        assert len(read_problem(PROBLEM | {"private_test_cases": base64.b64encode(packed).decode()}).tests) == 2
    for value in (Attack(), ["a"], b"a", "no JSON", json.dumps([1]), json.dumps([{"input": 1, "output": ""}])):
        with pytest.raises(ScoringError, match="livecodebench: problem 'a' cannot be read"):
            read_problem(private(value))
    with pytest.raises(ScoringError, match=r"unpack to more than"):
        read_problem(PROBLEM | {"private_test_cases": base64.b64encode(zlib.compress(b"["))[:9].decode() + "A=="})
    assert not (tmp_path / "made").exists()
