"""The options of `path`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tuneport.diagnosis.points import POINTS, REFINE
from tuneport.options import Bounds, Options, Place, nested, option
from tuneport.scoring.evaluate_options import (
    Asking,
    batch_size_option,
    chat_template_option,
    check_device,
    device_option,
)

_LINE = "points on the line"


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
    data: tuple[Place, ...] = option(
        metavar="FILE",
        positional=True,
        repeatable=True,
        help="JSONL file of texts, or of questions with answers, as for `evaluate`",
    )
    out: Place | None = option(
        None, metavar="FILE", positional=True, help="JSON file to write; it appears when it is whole"
    )
    points: int | None = option(
        None,
        group=_LINE,
        bounds=Bounds(least=3),
        help=f"so many at equal distances, A and B included (default: {POINTS}; at most 1,000 points in all)",
    )
    refine: int | None = option(
        None,
        group=_LINE,
        bounds=Bounds(least=0),
        help=f"so many more where the loss rises and bends (default: {REFINE}; 0 where `alphas` says where)",
    )
    alphas: tuple[float, ...] | None = option(
        None, metavar="X[,X…]", group=_LINE, separator=",", help="these points, besides 0 and 1"
    )
    beyond: float | None = option(None, group=_LINE, bounds=Bounds(above=1), help="go on past B, to A + X·(B − A)")
    threshold: float | None = option(
        None,
        group=_LINE,
        bounds=Bounds(least=0),
        help="barrier in nats a token below which A and B count as connected",
    )
    allow_config: bool = option(
        False,
        group=_LINE,
        help="compute all of the line by B's config, where A's differs in more than behaviour (rope scaling, say)",
    )
    loss_only: bool = option(False, group="asking", help="the loss of answers alone; generate nothing")
    asking: Asking = nested(Asking, "match", "max_new_tokens")
    chat_template: Place | None = chat_template_option("template, where B has none")
    device: str | None = device_option()
    batch_size: Any = batch_size_option()
    seed: int = option(0, group="asking", bounds=Bounds(least=0), help="of the halves and the bootstrap")
    overwrite: bool = option(False, identity=False, group="the run", help="replace a record that is there already")

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        if self.device is not None:
            check_device(self.device)
