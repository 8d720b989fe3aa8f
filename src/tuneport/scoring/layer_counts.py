"""Counts of layers and experts in a config, held against the weights before transformers builds a model of them.

transformers makes a module for each layer that config.json names, whether weights are there or not: a billion of them take
all memory and never end.
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
                f"{where}: {quoted(field)} is {printable_line(str(value)[:40])}, and the weights have room for {most:,} at most. Correct it."
            )
