"""The log of a run: one line per step, in order, even after a kill.

`log.jsonl` has step, loss, learning rate, tokens seen and seconds. When a run resumes, lines after its resume step are
removed, so that every step occurs once.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuneport.errors import TrainingError, named
from tuneport.files.json_text import read_json
from tuneport.files.opening import read_lines
from tuneport.files.writing import write_whole

LOG = "log.jsonl"
# What is reported beyond these and stays in the log: rewards, preferences, the parts of a distillation's loss, and what tells of a run gone wrong.
_KEPT = (
    "reward", "reward_std", "kl", "grad_norm", "completions/mean_length", "rewards/accuracies", "rewards/margins",
    "answer_kl", "retain_kl",
)  # fmt: skip
# What a run that goes on needs of each line.
_NUMBERS = ("step", "loss", "tokens", "seconds")


class Logbook:
    """Writes `log.jsonl` in a folder, from the line after step ``resumed`` on."""

    def __init__(self, folder: Path, resumed: int, *, writes: bool) -> None:
        """Take back the lines of steps that will be done again."""
        self.path = folder / LOG
        self.lines = [line for line in whole_lines(self.path, _NUMBERS) if line["step"] <= resumed]
        last = self.lines[-1] if self.lines else {"tokens": 0, "seconds": 0.0}
        self._tokens, self._seconds = int(last["tokens"]), float(last["seconds"])
        self._started = time.perf_counter()
        self._file = None
        if writes:
            write_whole(self.path, "".join(json.dumps(line) + "\n" for line in self.lines))
            self._file = open(self.path, "a", buffering=1)  # noqa: SIM115  (open as long as the run is; see close)

    def note(self, step: int, logs: dict[str, Any]) -> None:
        """A step's line. Raises `TrainingError` if the loss is not a number."""
        loss, norm = logs["loss"], logs.get("grad_norm", 0.0)
        if not math.isfinite(loss) or not math.isfinite(norm):
            what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
            raise TrainingError(
                f"At step {step} {what}. Lower {named('learning_rate')} (or raise {named('warmup_ratio')}), and check "
                f"the data near there; {named('out')} keeps the log. With other options, choose another {named('out')}."
            )
        line = {
            "step": step,
            "loss": loss,
            "learning_rate": logs.get("learning_rate"),
            "tokens": self._tokens + int(logs.get("num_tokens", 0)),
            "seconds": round(self.seconds, 3),
            **{name: logs[name] for name in _KEPT if name in logs},
        }
        self.lines.append(line)
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")

    @property
    def seconds(self) -> float:
        """Seconds of training, including the runs that this one resumes."""
        return self._seconds + time.perf_counter() - self._started

    @property
    def tokens(self) -> int:
        """Tokens seen."""
        return int(self.lines[-1]["tokens"]) if self.lines else 0

    def final_loss(self) -> float | None:
        """The mean loss of the last ten steps."""
        last = [line["loss"] for line in self.lines[-10:]]
        return sum(last) / len(last) if last else None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def whole_lines(path: Path, numbers: Sequence[str]) -> list[dict[str, Any]]:
    """The lines of a log, objects in which these fields are numbers, up to one that is torn or damaged."""
    found: list[dict[str, Any]] = []
    for text in read_lines(path, path.parent) if os.path.lexists(path) else ():
        try:
            line = read_json(text)
        except ValueError:
            break
        if not isinstance(line, dict) or not all(isinstance(line.get(name), int | float) for name in numbers):
            break
        found.append(line)
    return found
