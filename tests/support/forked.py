"""A fine-tuning in a child process, which may be killed or kept from writing."""

from __future__ import annotations

from typing import Any

import torch

from tuneport.tuning.run import tune


def tune_after_a_fork(*arguments: Any, **choices: Any) -> None:
    """In a forked child torch's pool of threads is made anew when first asked for, which several threads must not do at once.

    A model is loaded by several; one of them then met "Invalid thread pool!" (seen once in some ten runs).
    """
    torch.set_num_threads(1)
    tune(*arguments, **choices)
