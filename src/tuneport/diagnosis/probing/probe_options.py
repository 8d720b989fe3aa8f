"""The options of `compare` for prompts and texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from tuneport.errors import Fault, UsageError, named
from tuneport.examples.naming import parse_data
from tuneport.options import Options, Place, nested, option
from tuneport.scoring.evaluate_options import (
    Asking,
    batch_size_option,
    chat_template_option,
    check_device,
    columns_option,
    device_option,
)

_data = partial(
    option,
    (),
    group="prompts and texts (models extra)",
    repeatable=True,
    parse=parse_data,
    accepts="str | PathLike[str] | DataFrame | Dataset | Sequence[str | PathLike[str] | DataFrame | Dataset]",
)


@dataclass(frozen=True)
class ProbeOptions(Options):
    """Which prompts and texts, and how models are asked."""

    probe: tuple[Any, ...] = _data(
        metavar="FILE",
        help="prompts, with or without answers: compare the tuned model's answers with those of the target and of "
        "target + Δ (in memory)",
    )
    retain: tuple[Any, ...] = _data(
        metavar="FILE", help="texts to measure what the target keeps: their loss under the target and under target + Δ"
    )
    columns: Mapping[str, str] | None = columns_option()
    asking: Asking = nested(Asking, "match", "max_new_tokens")
    chat_template: Place | None = chat_template_option("chat template for models that have none")
    device: str | None = device_option()
    batch_size: Any = batch_size_option()

    def __post_init__(self) -> None:
        """Check every value, and which of them go together."""
        super().__post_init__()
        if self.device is not None:
            check_device(self.device)
        if self.probe:
            return
        asking = self.asking
        given = {"match": asking.match, "max_new_tokens": asking.max_new_tokens, "chat_template": self.chat_template}
        given |= {} if self.retain else {"device": self.device}
        if alone := {name: value for name, value in given.items() if value is not None}:
            remedy = f"Also give {named('probe')}"
            raise UsageError([Fault(name, value, "is only for prompts", remedy) for name, value in alone.items()])
