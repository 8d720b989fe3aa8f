"""The options of `path`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from tuneport.diagnosis.points import POINTS, REFINE, THRESHOLD
from tuneport.options import Bounds, Options, Place, nested, option
from tuneport.scoring.evaluate_options import (
    Asking,
    batch_size_option,
    chat_template_option,
    check_device,
    columns_option,
    data_option,
    device_option,
    overwrite_option,
    strict_option,
)

_line = partial(option, group="points on the line")


@dataclass(frozen=True, kw_only=True)
class PathOptions(Options):
    """The options of `path`."""

    a: Place = option(metavar="A", positional=True, argument=True, help="the model at α = 0: folder or Hub id")
    b: Place = option(
        metavar="B",
        positional=True,
        argument=True,
        help="the model at α = 1, whose config, tokenizer and template are used",
    )
    data: tuple[Any, ...] = data_option(
        "DATA", "texts, or questions with answers, as for `evaluate`: a file, org/name on the Hub, or a table in Python"
    )
    out: Place | None = option(None, metavar="FILE", positional=True, help="JSON file to write (created when complete)")
    points: int | None = _line(
        None,
        f"number of evenly spaced points, including A and B (default: {POINTS}; at most 1,000 points in all)",
        bounds=Bounds(least=3),
    )
    refine: int | None = _line(
        None,
        f"extra points where the loss rises and bends (default: {REFINE}; 0 with `alphas`)",
        bounds=Bounds(least=0),
    )
    alphas: tuple[float, ...] | None = _line(None, "measure these points, and 0 and 1", metavar="X[,X…]", separator=",")
    beyond: float | None = _line(None, "continue past B, up to A + X·(B − A)", bounds=Bounds(above=1))
    threshold: float | None = _line(
        THRESHOLD, "barrier (nats per token) below which A and B count as connected", bounds=Bounds(least=0)
    )
    allow_config: bool = _line(
        False, "use B's config for the whole line even if A's differs in more than behaviour (such as rope scaling)"
    )
    loss_only: bool = option(False, group="models", help="measure only the loss of answers; generate nothing")
    asking: Asking = nested(Asking, "match", "max_new_tokens")
    columns: Mapping[str, str] | None = columns_option()
    chat_template: Place | None = chat_template_option("chat template, if B has none")
    device: str | None = device_option()
    batch_size: Any = batch_size_option()
    seed: int = option(0, group="models", bounds=Bounds(least=0), help="random seed (split into halves, bootstrap)")
    strict: bool = strict_option()
    overwrite: bool = overwrite_option()

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        if self.device is not None:
            check_device(self.device)
