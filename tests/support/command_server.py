"""A process that has imported what commands need, and forks a child for each command of a test.

    python command_server.py MODULE …     one JSON job a line on stdin, one exit status (JSON) a line on stdout

A job is {"argv": […], "env": {…}, "cwd": folder, "out": file, "err": file}. The child has these, and from there on it is what
`python -m tuneport ARGV` is: it ends as a process does, and a signal that kills it is its status. A job with "code" is
`python -c CODE` instead. What is read from the environment while Python starts or a library is imported is that of this process,
but for what the clients of the Hub read.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

# Only one thread may run where a process forks, and of what commands import two libraries start threads by themselves.
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as the command line has it
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
# Where the Hub is, where its files are kept, whether it may be asked: the clients look when they are imported, once.
READ_THE_ENVIRONMENT = ("huggingface_hub.constants", "datasets.config")  # the second looks into the first


def become(job: dict[str, Any]) -> None:
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), descriptor)
    sys.stdin = os.fdopen(0, closefd=False)  # the old one may have read ahead
    for name in READ_THE_ENVIRONMENT:
        if name in sys.modules:
            importlib.reload(sys.modules[name])
    if "huggingface_hub.hf_api" in sys.modules:
        hub = sys.modules["huggingface_hub.hf_api"]
        hub.api.endpoint = hub.constants.ENDPOINT


def next_job() -> dict[str, Any] | None:
    """The next job, in a child of its own; none in the server, when no more come."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            job: dict[str, Any] = json.loads(line)
            return job
        print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])), flush=True)
    return None


def main() -> None:
    for name in sys.argv[1:]:
        importlib.import_module(name)
    threads = [Path(place, "comm").read_text().strip() for place in Path("/proc/self/task").glob("*")]
    assert len(threads) <= 1, f"a fork would have one of {threads}, and the locks of all"
    gc.freeze()  # children leave the pages of what is imported as they are
    job = next_job()
    if job is None:
        return
    become(job)
    sys.argv = ["-c" if "code" in job else "tuneport", *job["argv"]]
    if "code" in job:
        exec(compile(job["code"], "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_module("tuneport", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
