"""The libraries under a fine-tuning, kept from talking; what matters is in the log, the record and our warnings."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from typing import Any


@contextmanager
def quietly() -> Iterator[None]:
    """Their bars and remarks off while the block runs; what they print goes to stderr."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    _let_libraries_set_levels()
    loggers = [logging.getLogger(name) for name in ("trl", "transformers", "accelerate", "peft", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    bars = _transformers_bars(False)
    try:
        # What libraries and rewards print is no result: stdout may be somebody's JSON.
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            _transformers_bars(True)


def _let_libraries_set_levels() -> None:
    """Two of them set their logger's level when it is first asked for, and would take back what is set before."""
    for library in ("transformers", "datasets"):
        if find_spec(library) is not None:  # else prepare() says what is missing
            import_module(f"{library}.utils.logging").get_verbosity()


def _transformers_bars(on: bool) -> bool:
    """Switch transformers' progress bars; whether they were on."""
    try:
        from transformers.utils import logging
    except ModuleNotFoundError:
        return False  # prepare() says what is missing
    before = bool(logging.is_progress_bar_enabled())
    switch: Any = logging.enable_progress_bar if on else logging.disable_progress_bar
    switch()
    return before
