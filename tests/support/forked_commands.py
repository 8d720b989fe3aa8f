"""Commands in processes of their own that need not import everything anew: children of one server (`command_server.py`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.command_results import Ran

SERVER = Path(__file__).parent / "command_server.py"
# What commands on weights import, and what the Hub's client imports when it is first asked.
CORE = (
    "tuneport.cli",
    "tuneport.commands.printing",
    "tuneport.engine.run",
    "tuneport.diffvector.run",
    "tuneport.verification",
    "tuneport.inspection",
    "tuneport.publishing.commit",
    "huggingface_hub._snapshot_download",
    "huggingface_hub.utils.tqdm",
)
MODELS = (
    *CORE,
    "tuneport.tuning.run",
    "tuneport.tuning.trainers",
    "tuneport.tuning.losses",
    "tuneport.tuning.loading",
    "tuneport.scoring.run",
    "trl.trainer.sft_trainer",
    "lm_eval.evaluator",
    "lm_eval.models.huggingface",
)


class ForkingServer:
    """Runs one command after another, as ``command`` of conftest.py does; ``code`` is a program in its place.

    The server starts with the first command, and again after one that was given up.
    """

    def __init__(self, scratch: Path, modules: Sequence[str]) -> None:
        self.scratch, self.modules = scratch, modules
        self.process: subprocess.Popen[str] | None = None

    def __call__(
        self,
        *arguments: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        **code: str,
    ) -> Ran:
        files = {name: str(self.scratch / name) for name in ("out", "err")}
        variables = {**(os.environ if environment is None else environment), **(env or {})}
        job = {"argv": [*map(os.fspath, arguments)], "env": variables, "cwd": str(cwd or Path.cwd()), **code, **files}
        process = self.process or self.start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            status = int(process.stdout.readline())
        except (
            BaseException
        ):  # the test's time is over, or the server failed: no later test is to get this one's answer
            self.stop()
            raise
        return Ran(status, Path(files["out"]).read_text(), Path(files["err"]).read_text())

    def start(self) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER), *self.modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that it can be ended with a child that goes on
            # What imports write stays here, and they are as quiet as in `tuneport.libraries`.
            env={**os.environ, "HF_HOME": str(self.scratch / "hf"), "TRL_EXPERIMENTAL_SILENCE": "1"},
        )
        return self.process

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            self.process = None

    def __enter__(self) -> ForkingServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
