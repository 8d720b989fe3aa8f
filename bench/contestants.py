"""Who runs: each contestant is one command on one variant of the triple, which leaves a folder behind.

In come the triple and an output folder, out comes the command line. Every contestant is a whole process, from the
interpreter's start to its end.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.triple import ROLES, Triple

ROOT = Path(__file__).resolve().parent.parent
TUNEPORT = ROOT / ".venv" / "bin" / "tuneport"
PYTHON = ROOT / ".venv" / "bin" / "python"
PEER_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
PEERS = ROOT / "bench" / "peers"


@dataclass(frozen=True)
class Contestant:
    """``name`` selects it, ``label`` stands in the table, ``most`` is the ratio to the floor it promises, if any."""

    name: str
    label: str
    variant: str
    parts: Callable[[list[str], str], list[str]]  # paths of base, tuned, target and out become a command
    most: float | None = None
    computes: bool = True

    def command(self, triple: Triple, out: Path) -> list[str]:
        """The command line."""
        return self.parts([str(triple.model(role, self.variant)) for role in ROLES], str(out))


def _tuneport(*flags: str) -> Callable[[list[str], str], list[str]]:
    return lambda models, out: [*_command("transfer", models), "--out", out, *flags]


def _command(name: str, models: list[str]) -> list[str]:
    base, tuned, target = models
    return [str(TUNEPORT), name, "--base", base, "--tuned", tuned, "--onto", target]


def _script(python: Path, script: Path, *arguments: str) -> Callable[[list[str], str], list[str]]:
    return lambda models, out: [str(python), str(script), *models, out, *arguments]


CONTESTANTS = (
    Contestant("floor", "copying the same bytes", "same", _script(PYTHON, ROOT / "bench" / "floor.py"), computes=False),
    Contestant("tuneport", "tuneport transfer", "same", _tuneport(), most=1.4),
    Contestant("tuneport-digests", "tuneport --digest-inputs", "same", _tuneport("--digest-inputs"), most=2.0),
    Contestant(
        "compare", "tuneport compare", "same", lambda models, _: _command("compare", models), most=2.8, computes=False
    ),
    Contestant("tuneport-tokens", "tuneport, tokenizers differ", "differ", _tuneport()),
    Contestant(
        "mergekit", "mergekit 0.1.5 linear", "same", _script(PEER_PYTHON, PEERS / "mergekit_linear.py", "bfloat16")
    ),
    Contestant(
        "mergekit-float32",
        "mergekit, dtype float32",
        "same",
        _script(PEER_PYTHON, PEERS / "mergekit_linear.py", "float32"),
    ),
    Contestant(
        "residuals", "residuals 0.3.2", "same", _script(PEER_PYTHON, PEERS / "residuals_package.py", "bfloat16")
    ),
    Contestant("paper", "the paper's way", "same", _script(PEER_PYTHON, PEERS / "paper.py")),
)


def environment() -> dict[str, str]:
    """The same for every contestant: offline, and with the bytecode that an installed package has."""
    ours = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONUNBUFFERED": ""}
    dropped = {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"}
    return {**{key: value for key, value in os.environ.items() if key not in dropped}, **ours}
