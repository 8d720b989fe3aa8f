"""Other people's libraries: their versions for the record, what to do if one is missing, and how to silence their output."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tuneport.progress import is_silent
from tuneport.terminal import draw, erase, is_watched, speaking_to, stream, tell

# What decides the numbers of a fine-tuning or a score.
_PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers", "lm_eval", "vllm", "numpy")
_PATIENCE = 2.0  # seconds without a word
_LOADING = "loading PyTorch and transformers"
_LOUD = ("lm_eval", "lm-eval", "transformers", "datasets", "accelerate", "trl", "peft", "filelock", "httpx", "urllib3")


@functools.cache
def packages() -> dict[str, str]:
    """Versions of the libraries that may have computed, by name; not to be changed. Looked up once, since it takes a while."""
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def missing(*modules: str) -> list[str]:
    """Those of these modules that are not installed; none of them is imported."""
    return [name for name in modules if find_spec(name) is None]


CPU_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"


def install_line(extra: str) -> str:
    """The line that installs an extra: beside an installed tuneport, or in the folder of a clone."""
    return f"pip install 'tuneport[{extra}]', or from a clone: pip install -e '.[{extra}]'"


def how_to_install(extra: str) -> str:
    """That line, as a sentence; on a machine without a GPU, with the index of PyTorch for CPUs."""
    without_gpu = sys.platform == "linux" and not Path("/dev/nvidiactl").exists()
    smaller = f" Without a GPU add {CPU_INDEX}, or pip downloads gigabytes for GPUs." if without_gpu else ""
    return f"Install it: {install_line(extra)}.{smaller if extra == 'models' else ''}"


@contextlib.contextmanager
def quietly(to_stderr: bool = False) -> Iterator[None]:
    """Silence their progress bars, remarks and warnings while the block runs; our records and warnings have what matters.

    What they print is not a result (stdout may be someone's JSON): it is discarded, or with ``to_stderr`` printed there. On a
    terminal stderr, the bars of a scoring stay. A line says so while the libraries load for the first time.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    bars = _first_levels()
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    with contextlib.ExitStack() as stack:
        stack.enter_context(speaking_to(stream()))
        stack.enter_context(loading_is_said())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(contextlib.redirect_stdout(sys.stderr if to_stderr else io.StringIO()))
        if not to_stderr and not is_watched():
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        if bars is not None:
            bars.disable_progress_bar()
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if bars is not None:
                bars.enable_progress_bar()


@contextlib.contextmanager
def loading_is_said() -> Iterator[None]:
    """While libraries may load for the first time: a line on a terminal that goes away, elsewhere one that stays if it takes long."""
    if "transformers.modeling_utils" in sys.modules or is_silent():
        yield
    elif is_watched():
        draw(_LOADING)
        try:
            yield
        finally:
            erase()
    else:
        waiting = threading.Timer(_PATIENCE, _say_once)
        waiting.daemon = True
        waiting.start()
        try:
            yield
        finally:
            waiting.cancel()


@functools.cache
def _say_once() -> None:
    tell(f"{_LOADING}; progress follows, a line per minute")


def _first_levels() -> Any:
    """Two libraries set their logger's level when it is first asked for, and would take back what is set before it.

    Returns where transformers' bars can be switched; None where they are off, or nothing is installed.
    """
    there = [library for library in ("transformers", "datasets") if not missing(library)]
    for library in there:
        import_module(f"{library}.utils.logging").get_verbosity()
    if "transformers" not in there:
        return None
    bars = import_module("transformers.utils.logging")
    return bars if bars.is_progress_bar_enabled() else None
