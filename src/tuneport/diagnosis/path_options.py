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
        "DATA", "texts, or questions with answers, as for `evaluate`: a file, org/name on the Hub, or in Python a table"
    )
    out: Place | None = option(
        None, metavar="FILE", positional=True, help="JSON file to write; it appears when it is whole"
    )
    points: int | None = _line(
        None,
        f"so many at equal distances, A and B included (default: {POINTS}; at most 1,000 points in all)",
        bounds=Bounds(least=3),
    )
    refine: int | None = _line(
        None,
        f"so many more where the loss rises and bends (default: {REFINE}; 0 where `alphas` says where)",
        bounds=Bounds(least=0),
    )
    alphas: tuple[float, ...] | None = _line(None, "these points, besides 0 and 1", metavar="X[,X…]", separator=",")
    beyond: float | None = _line(None, "go on past B, to A + X·(B − A)", bounds=Bounds(above=1))
    threshold: float | None = _line(
        THRESHOLD, "barrier in nats a token below which A and B count as connected", bounds=Bounds(least=0)
    )
    allow_config: bool = _line(
        False, "compute all of the line by B's config, where A's differs in more than behaviour (rope scaling, say)"
    )
    loss_only: bool = option(False, group="asking", help="the loss of answers alone; generate nothing")
    asking: Asking = nested(Asking, "match", "max_new_tokens")
    columns: Mapping[str, str] | None = columns_option()
    chat_template: Place | None = chat_template_option("template, where B has none")
    device: str | None = device_option()
    batch_size: Any = batch_size_option()
    seed: int = option(0, group="asking", bounds=Bounds(least=0), help="of the halves and the bootstrap")
    strict: bool = strict_option()
    overwrite: bool = overwrite_option()

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        if self.device is not None:
            check_device(self.device)
