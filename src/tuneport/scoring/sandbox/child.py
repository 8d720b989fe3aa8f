"""Runs one judged program on one input, inside the sandbox. Sent there as text, so it needs only the standard library.

It gets the program, the limits and, on its stdin, this one input. It has no other input, no expected output and nothing
to forge a verdict with. What the program prints, or what its function returns as JSON, is its output.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from typing import Any

_NO_NEW_PRIVILEGES, _DIE_WITH_PARENT, _KILL = 38, 1, 9  # of Linux's prctl


def judge(settings: dict[str, Any]) -> None:
    """Limit this process, then run the program in it. Raises what the program raises, so that the exit status tells."""
    _limit(settings)
    if settings["function"]:
        _return(settings["code"], settings["function"])
        return
    try:
        exec(_compiled(settings["code"]), {"__name__": "__main__"})
    except SystemExit:
        pass  # a program may say that it is done, with whatever status


def _compiled(code: str) -> Any:
    return compile(
        code, "answer", "exec", dont_inherit=True
    )  # else what this file imports from __future__ would hold there


def _return(code: str, name: str) -> None:
    """Call a function with one JSON argument a line, and write its result as JSON; what it prints goes nowhere."""
    given = sys.stdin.read()
    out, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    room: dict[str, Any] = {"__name__": "answer"}
    beginning = "from typing import *\nimport collections, functools, heapq, itertools, math\n"
    exec(_compiled(beginning + code), room)
    call = getattr(room["Solution"](), name) if "Solution" in room else room[name]
    found = call(*[json.loads(line) for line in given.split("\n")])
    found = list(found) if isinstance(found, tuple) else found
    text = json.dumps(found)
    if json.loads(text) != found:
        raise ValueError("it returned a value that is not JSON")
    with os.fdopen(out, "w", encoding="utf-8") as file:
        file.write(text)


def _limit(settings: dict[str, Any]) -> None:
    seconds = settings["seconds"] + 1
    wanted = [
        ("RLIMIT_CPU", seconds),
        ("RLIMIT_AS", settings["memory"]),
        ("RLIMIT_FSIZE", settings["file_size"]),
        ("RLIMIT_NOFILE", 256),
        ("RLIMIT_NPROC", settings["processes"]),
        ("RLIMIT_CORE", 0),
    ]
    user = settings["user"]
    if user is not None:  # before the limit of processes, which is counted by user
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    _call_prctl(_NO_NEW_PRIVILEGES, 1)  # else sudo or su would give the limits back
    _call_prctl(_DIE_WITH_PARENT, _KILL)
    for name, value in wanted:
        kind = getattr(resource, name, None)
        if kind is None:
            continue  # a system without this limit
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (OSError, ValueError):
            pass  # macOS has no limit of memory; the sandbox's own has to do


def _call_prctl(option: int, value: int) -> None:
    try:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
    except (AttributeError, OSError):
        pass  # no Linux
