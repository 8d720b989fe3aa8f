"""How far a diff vector agrees with that of the target's own fine-tuning, which a transfer replaces."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import numpy as np

from tuneport.checkpoint import floats
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.reading import Workspace, reading
from tuneport.comparison.pieces_side_by_side import pieces
from tuneport.pairing.common_tensors import share
from tuneport.pairing.tensors import ties_of


def agreement(base: Checkpoint, tuned: Checkpoint, target: Checkpoint, tuned_target: Checkpoint) -> dict[str, Any]:
    """‖tuned target − target‖, and how Δ = tuned − base agrees with it, over the tensors that all four have.

    ``cosine_diffs`` is their cosine, ``sign_agreement`` the share of entries with equal signs among those that neither leaves at
    zero. Raises `PairingError` where the four do not belong together.
    """
    checkpoints = [base, tuned, target, tuned_target]
    shared = share(checkpoints, [ties_of(checkpoint) for checkpoint in checkpoints])
    sums = np.zeros(3)
    agreeing = moved = 0
    space = Workspace()
    with ExitStack() as stack:
        readers = [stack.enter_context(reading(checkpoint)) for checkpoint in checkpoints]
        for tensor in shared.tensors:
            for _, numbers in pieces(tensor, readers, space):
                one, other = floats.difference(numbers[1], numbers[0]), floats.difference(numbers[3], numbers[2])
                signs = np.sign(one) * np.sign(other)
                agreeing, moved = agreeing + int((signs > 0).sum()), moved + int((signs != 0).sum())
                one, other = one.astype(np.float64), other.astype(np.float64)
                sums += [one @ one, other @ other, one @ other]
        for reader in readers:
            reader.check_unchanged()
    lengths = math.sqrt(sums[0]) * math.sqrt(sums[1])
    return {
        "name": tuned_target.hub_id or tuned_target.label,
        "norm_diff_target": math.sqrt(sums[1]),
        "cosine_diffs": float(sums[2]) / lengths if lengths > 0 and math.isfinite(lengths) else None,
        "sign_agreement": agreeing / moved if moved else None,
        "parameters": sum(tensor.elements for tensor in shared.tensors),
    }
