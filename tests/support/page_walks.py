"""The commands of a page, run one after another as somebody who follows it would."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.command_results import Cli
from support.pushing_hub import TOKEN, PushingHub

# All commands in one process, so that the libraries are imported once; each as the shell and `tuneport` would do it.
DRIVER = """
import contextlib, io, json, os, shlex, subprocess, sys
from tuneport.cli import main
said, told = [], os.path.abspath("said.json")
for command in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    words = shlex.split(command)
    if words[0] == "cd":
        os.chdir(words[1])
        said.append([0, "", ""])
    elif words[0] == "tuneport":
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main(words[1:])
            except SystemExit as stop:
                status = int(stop.code or 0)
        said.append([status, out.getvalue(), err.getvalue()])
    else:
        done = subprocess.run(command, shell=True, capture_output=True, text=True)
        said.append([done.returncode, done.stdout, done.stderr])
    if said[-1][0]:
        break
json.dump(said, open(told, "w"))
"""


def walk(forked: Cli, commands: Sequence[str], place: Path, env: Mapping[str, str]) -> list[tuple[int, str, str]]:
    """Status, stdout and stderr of each command, run in a folder until one fails."""
    done = forked(json.dumps(list(commands)), code=DRIVER, cwd=place, environment=env)
    assert done.status == 0, done.err
    return [(status, out, err) for status, out, err in json.loads((place / "said.json").read_text())]


def environment(hub: PushingHub, root: Path) -> dict[str, str]:
    """Of a process that knows only this Hub."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(root / "hf"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    return {**kept, **own}
