"""The options of `compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneport.diagnosis.probing.probe_options import ProbeOptions
from tuneport.engine.choices import Choices, Running
from tuneport.engine.run_options import Scaled, parse_diffs
from tuneport.errors import ABSENT, Fault, UsageError, named
from tuneport.options import Options, Place, nested, option


def _parse_targets(value: object) -> tuple[Any, ...]:
    """One model or several. Raises ValueError."""
    several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if isinstance(value, Mapping) or not several:
        raise ValueError("must be one or more folders or Hub ids")
    return tuple(several)


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Options):
    """The options of `compare`."""

    base: Place | None = option(None, metavar="MODEL", positional=True, help="the base model that was fine-tuned")
    tuned: Place | None = option(
        None, metavar="MODEL", positional=True, help="the fine-tuned model, or a PEFT adapter of the base"
    )
    onto: tuple[Place, ...] = option(
        (),
        metavar="MODEL",
        positional=True,
        repeatable=True,
        parse=_parse_targets,
        help="the target: another version; several are ranked, best first",
    )
    diffs: Scaled | None = option(
        None,
        metavar="DIFF[=SCALE]",
        repeatable=True,
        parse=parse_diffs,
        accepts="str | PathLike[str] | Sequence[str | tuple[str, float]] | Mapping[str, float] | None",
        help="a saved diff vector instead of base and tuned; several are ranked, best first",
    )
    tuned_target: Place | None = option(
        None,
        metavar="MODEL",
        help="the target's own fine-tuned model: shows how far its diff vector agrees with the transferred one",
    )
    spectrum: bool = option(
        False,
        help="also compute singular values and effective rank of each matrix of Δ, and its overlap with target − base "
        "(several times slower)",
    )
    out: Place | None = option(
        None, metavar="FILE.json", positional=True, help="JSON file to write (created when complete)"
    )
    choices: Choices = nested(
        Choices,
        "preset",
        "rules",
        "row_rules",
        "drop",
        "renames",
        "dtype",
        "config",
        "sidecar",
        "new_tokens",
        "vocabulary",
        "scale",
    )
    probing: ProbeOptions = nested(ProbeOptions)
    running: Running = nested(Running, "overwrite", "max_memory", "workers")

    def __post_init__(self) -> None:
        """Check every value, and which of them go together."""
        super().__post_init__()
        parents = {"base": self.base, "tuned": self.tuned}
        if not self.onto:
            raise UsageError(Fault("onto", ABSENT, "is missing"))
        if self.tuned_target is not None and (len(self.onto) > 1 or self.diffs is not None):
            raise UsageError(
                Fault("tuned_target", self.tuned_target, "needs base, tuned and one target", "Leave out the others")
            )
        if self.diffs is not None:
            if any(value is not None for value in parents.values()):
                raise UsageError(
                    Fault("diffs", ABSENT, "is used with onto alone", f"Leave out {named('base')} and {named('tuned')}")
                )
            if self.probing.probe:
                told = "goes with base and tuned: the tuned model answers the prompts"
                raise UsageError(
                    Fault("probe", ABSENT, told, f"Leave out {named('diffs')}, or give {named('retain')} alone")
                )
        elif absent := [name for name, value in parents.items() if value is None]:
            raise UsageError([Fault(name, ABSENT, "is missing") for name in absent])
