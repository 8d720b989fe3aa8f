"""Check a config's counts of layers and experts against the weights, before transformers builds the model.

transformers makes a module for each layer in config.json, even without weights: a billion layers would use all memory
and never finish.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.errors import CheckpointError
from tuneport.files.printable import printable_line, quoted

_COUNT = re.compile(r"(^|_)(layers?|experts|depth|blocks|stages)$")
# More than any model has; a small model with shared layers may name more of them than it has tensors.
ALWAYS_ALLOWED = 1000


def check_layer_counts(checkpoint: Checkpoint) -> None:
    """Raise `CheckpointError` where config.json names more layers or experts than there can be weights for."""
    most = max(ALWAYS_ALLOWED, len(checkpoint.tensors))
    _check(checkpoint.config, most, f"{checkpoint.role} {checkpoint.label}: config.json")


def _check(config: Mapping[str, Any], most: int, where: str) -> None:
    for field, value in config.items():
        if isinstance(value, Mapping):
            _check(value, most, where)
        elif _COUNT.search(field) and isinstance(value, int) and value > most:
            raise CheckpointError(
                f"{where}: {quoted(field)} is {printable_line(str(value)[:40])}, but the weights have {most:,} at "
                f"most. Correct it."
            )
