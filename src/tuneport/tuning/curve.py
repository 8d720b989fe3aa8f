"""Evaluate during training: save the model after some steps, score it, and add a line to `curve.jsonl`.

This does not change what training draws afterwards: random states are restored.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuneport.files.writing import write_whole
from tuneport.scoring.devices import random_states_kept
from tuneport.tuning.logbook import Logbook, whole_lines
from tuneport.tuning.prepare import Prepared
from tuneport.tuning.recipes import TuningRun
from tuneport.tuning.team import Team

CURVE = "curve.jsonl"


def add_point(
    trainer: Any, prepared: Prepared, folder: Path, step: int, logbook: Logbook, team: Team, running: TuningRun
) -> None:
    """Save the model as it is, score it, and add a line to the curve."""
    import tuneport
    from tuneport.tuning.save import save_model

    model = trainer.accelerator.unwrap_model(trainer.model)
    if prepared.lora is not None:  # merged into a copy: taking a merge back would not give the same bits
        model = copy.deepcopy(model).float().merge_and_unload()
        state = model.state_dict()
    else:
        state = trainer.accelerator.get_state_dict(trainer.model)
    if team.leads:
        place = folder / f"step-{step}"
        shutil.rmtree(place, ignore_errors=True)
        parts = (model, state, prepared.tokenizer, prepared.start, prepared.chat)
        with _random_states_kept():
            save_model(place, *parts, dtype=prepared.dtype, shard_size=running.shard_size)
            scores = tuneport.evaluate(
                models=[place],
                tasks=list(running.tasks),
                out=place / "scores.json",
                match=running.match,
                max_new_tokens=_longest(running.max_new_tokens, prepared.length),
                batch_size=running.eval_batch_size,
            )
        (scored,) = scores["models"]
        line = {"step": step, "tokens": logbook.tokens, "seconds": round(logbook.seconds, 3), "tasks": scored["tasks"]}
        _add_to_curve(folder / CURVE, line)
        shutil.rmtree(place)
    trainer.model.train()
    team.wait()


def _longest(given: int | None, length: int) -> int | None:
    """Most tokens of an answer; a model of a short context cannot say as much as a long one, and training must not stop for it."""
    return None if given is None else min(given, max(length // 2, 1))


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """What the block draws leaves no trace: Python's, numpy's and torch's generators, the device's too."""
    import numpy as np

    states = random.getstate(), np.random.get_state()
    try:
        with random_states_kept():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _add_to_curve(path: Path, line: dict[str, Any]) -> None:
    """The curve with this step's line; lines of the same or later steps, from a run that was killed, go."""
    kept = [*(point for point in whole_lines(path, ("step",)) if point["step"] < line["step"]), line]
    write_whole(path, "".join(json.dumps(point) + "\n" for point in kept))
