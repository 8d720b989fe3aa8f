"""Choose the device for scoring and training, with its limits and its speed.

Apple's GPUs (mps) are used if PyTorch finds one. This was never tried on one; only what PyTorch documents as missing is
refused.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tuneport.errors import Fault, UsageError

_SIDE, _LARGE = (
    768,
    4096,
)  # of the matrices that are timed: for arithmetic, and for memory (64 MiB, beyond any cache's share)
_SECONDS = 0.2  # at most about so long


def best_device() -> str:
    """The default device: cuda, mps or cpu."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_dtype(device: str, dtype: str | None, option: str) -> None:
    """Raise `UsageError` for a dtype that the device does not have; ``option`` is the one that names it."""
    if not device.startswith("mps"):
        return
    if dtype == "float64":
        raise UsageError(Fault(option, dtype, "Apple's GPUs (mps) have no float64", "Choose float32, or use the cpu"))
    if dtype == "bfloat16" and not mps_has_bfloat16():
        told = "Apple's GPUs (mps) have bfloat16 from macOS 14 on"
        raise UsageError(Fault(option, dtype, told, "Choose float32, or use the cpu"))


def mps_has_bfloat16() -> bool:
    """Whether this macOS has bfloat16 on its GPU."""
    import torch

    return bool(torch.backends.mps.is_macos_or_newer(14, 0))


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Restore torch's random generators after the block, those of the device too."""
    import torch

    device = best_device()
    before = torch.mps.get_rng_state() if device == "mps" else None
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
            yield
    finally:
        if before is not None:
            torch.mps.set_rng_state(before)


def free_memory() -> None:
    """Give back what a model held that nobody holds any more, before the next one is loaded."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def operations_per_second(bfloat16: bool = False) -> float:
    """Floating-point operations a second of this device, timed on products of matrices for a fraction of a second."""
    import torch

    device = best_device()
    dtype = torch.bfloat16 if bfloat16 and device != "cpu" else torch.float32
    matrix = torch.ones(_SIDE, _SIDE, device=device, dtype=dtype)
    return 2 * _SIDE**3 / _seconds_of(lambda: matrix @ matrix, device)


def bytes_per_second() -> float:
    """Bytes of memory that this device reads a second, timed on a matrix and a vector for a fraction of a second."""
    import torch

    device = best_device()
    matrix, vector = torch.ones(_LARGE, _LARGE, device=device), torch.ones(_LARGE, device=device)
    return 4 * _LARGE**2 / _seconds_of(lambda: matrix @ vector, device)


def _seconds_of(compute: Callable[[], Any], device: str) -> float:
    """What one of many takes."""
    import torch

    def waited() -> float:
        getattr(torch, device).synchronize() if device != "cpu" else None
        return time.perf_counter()

    compute()  # the first one loads what it needs
    began, count = waited(), 0
    while (seconds := waited() - began) < _SECONDS:
        compute()
        count += 1
    return float(seconds / count)
