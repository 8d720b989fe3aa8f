"""Two verbs: take a diff vector and keep it; add kept ones to a target.

In come folders or Hub ids, out comes a folder. Taking and then adding gives, byte for byte, what `transfer` gives: the
same pairing, the same arithmetic, the same merge of sidecars.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.diffvector.apply import plan_apply
from tuneport.diffvector.extract import plan_diff
from tuneport.diffvector.vector import open_diff
from tuneport.engine.options import Choices, Running
from tuneport.engine.plan import Plan
from tuneport.engine.run import Outcome, Warn, execute
from tuneport.errors import UsageError


def diff(
    base: str | os.PathLike[str],
    tuned: str | os.PathLike[str],
    out: str | os.PathLike[str],
    choices: Choices | None = None,
    running: Running | None = None,
    warn: Warn | None = None,
) -> Outcome:
    """Write the diff vector tuned − base to the folder ``out``, in the working dtype, with both parents' digests.

    ``tuned`` may be a PEFT adapter of the base. Of ``choices`` only drop, vocabulary, seed and shard size matter. ``warn``
    as in `transfer`. Raises `TuneportError`.
    """
    inputs = open_checkpoint(base, "base"), open_checkpoint(tuned, "tuned")
    return execute(plan_diff(*inputs, choices or Choices()), Path(out), running or Running(), warn)


def apply(
    diffs: Sequence[tuple[str | os.PathLike[str], float]],
    onto: str | os.PathLike[str],
    out: str | os.PathLike[str],
    choices: Choices | None = None,
    running: Running | None = None,
    warn: Warn | None = None,
) -> Outcome:
    """Write target + Σ scale·Δ to the folder ``out``; the diff vectors are added one after another, in this order.

    ``diffs`` are (folder, scale) pairs; ``choices.scale`` is not used, rules replace every scale. ``warn`` as in
    `transfer`. Raises `TuneportError`.
    """
    return execute(plan_of(diffs, onto, choices or Choices()), Path(out), running or Running(), warn)


def plan_of(
    diffs: Sequence[tuple[str | os.PathLike[str], float]], onto: str | os.PathLike[str], choices: Choices
) -> Plan:
    """The plan of `apply`, from headers alone."""
    if not diffs:
        raise UsageError("Give at least one diff vector.")
    for spec, scale in diffs:
        if not math.isfinite(scale):
            raise UsageError(f"{os.fspath(spec)}={scale}: the scale is no finite number.")
    vectors = [open_diff(spec, "diff" if len(diffs) == 1 else f"diff{i}") for i, (spec, _) in enumerate(diffs, 1)]
    return plan_apply(vectors, [scale for _, scale in diffs], open_checkpoint(onto, "target"), choices)
