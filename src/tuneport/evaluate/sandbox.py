"""Generated programs are run nowhere but in a sandbox that the user names: a command that runs Python from its stdin.

In comes a model's program and the tests it has to pass, out comes whether it passed. Nothing of it runs in this
process; the tests, too, are unpacked in the sandbox only, since LiveCodeBench keeps them as a pickle.
"""

from __future__ import annotations

import json
import re
import secrets
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuneport.errors import ScoringError, UsageError

_SECONDS_A_TEST, _SECONDS = 6, 180

# What the sandbox gets on its stdin, behind one line that holds the job as JSON.
_RUNNER = r"""
import base64, io, json, pickle, signal, sys, zlib

def unpacked(text):
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(pickle.loads(zlib.decompress(base64.b64decode(text))))

def too_long(*_):
    raise TimeoutError

class Reader(io.StringIO):
    buffer = property(lambda self: io.BytesIO(self.getvalue().encode()))

def printed(code, given):
    out, real = io.StringIO(), (sys.stdin, sys.stdout)
    sys.stdin, sys.stdout = Reader(given), out
    try:
        exec(compile(code, "answer", "exec"), {"__name__": "__main__"})
    except SystemExit:
        pass
    finally:
        sys.stdin, sys.stdout = real
    return [line.strip() for line in out.getvalue().strip().splitlines()]

def returned(code, name, given):
    room = {"__name__": "answer"}
    exec("from typing import *\nimport collections, functools, heapq, itertools, math\n" + code, room)
    call = getattr(room["Solution"](), name) if "Solution" in room else room[name]
    found = call(*[json.loads(line) for line in given.split("\n")])
    return list(found) if isinstance(found, tuple) else found

def passes(job, test):
    signal.alarm(job["seconds"])
    try:
        if job["function"]:
            return returned(job["code"], job["function"], test["input"]) == json.loads(test["output"])
        return printed(job["code"], test["input"]) == [line.strip() for line in test["output"].strip().splitlines()]
    except BaseException:
        return False
    finally:
        signal.alarm(0)

signal.signal(signal.SIGALRM, too_long)
tests = unpacked(JOB["public"]) + (unpacked(JOB["private"]) if JOB["private"] else [])
verdict = "passed" if tests and all(passes(JOB, test) for test in tests) else "failed"
print("\n" + JOB["token"] + " " + verdict)
"""


@dataclass(frozen=True)
class Sandbox:
    """The user's command, such as ``docker run --rm -i --network none python:3.12 python -``."""

    command: str

    def check(self) -> None:
        """Run a program of one line. Raises `UsageError` where the command does not run Python."""
        passing = {"public_test_cases": json.dumps([{"input": "2", "output": "4"}]), "private_test_cases": ""}
        if not self.passes("print(int(input()) * 2)", passing) or self.passes("print(5)", passing):
            raise UsageError(f"--run-code-in {self.command!r}: it does not run a Python program from its stdin.")

    def passes(self, code: str, document: Mapping[str, Any]) -> bool:
        """Whether a program passes all tests of a problem; a program that hangs or ends the sandbox does not."""
        token = secrets.token_hex(16)
        metadata = json.loads(document.get("metadata") or "{}")
        job = {
            "token": token,
            "code": code,
            "function": metadata.get("func_name"),
            "public": document["public_test_cases"] or "[]",
            "private": document["private_test_cases"],
            "seconds": _SECONDS_A_TEST,
        }
        program = f"JOB = __import__('json').loads({json.dumps(json.dumps(job))})\n{_RUNNER}"
        try:
            done = subprocess.run(
                shlex.split(self.command), input=program, capture_output=True, text=True, errors="replace",
                timeout=_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return False
        except (OSError, ValueError) as error:
            raise ScoringError(f"--run-code-in {self.command!r} cannot be run: {error}") from None
        return f"\n{token} passed\n" in done.stdout


def program_in(said: str) -> str:
    """The last fenced block of an answer, or all of it where there is none."""
    blocks = re.findall(r"```(?:[Pp]ython)?[ \t]*\n(.*?)(?:```|\Z)", said, re.DOTALL)
    return str(blocks[-1]) if blocks else said
