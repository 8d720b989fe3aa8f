"""The options of `study`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tuneport.errors import Fault, UsageError, named
from tuneport.options import Bounds, Options, Place, option


@dataclass(frozen=True, kw_only=True)
class StudyOptions(Options):
    """The options of `study`."""

    file: Place = option(metavar="STUDY.toml", positional=True, argument=True, help="the study file (docs/formats.md)")
    out: Place = option(metavar="DIR", positional=True, help="folder or URL (through fsspec) for records and results")
    engine: Literal["local", "ray"] = option("local", help="where steps run")
    jobs: int = option(1, bounds=Bounds(least=1), help="local: number of steps to run at once, each in its own process")
    ray_address: str | None = option(
        None,
        metavar="A",
        help="ray: address of a running cluster (default: RAY_ADDRESS, or a new cluster for this run)",
    )
    families: tuple[int, ...] = option(
        (), nargs="+", bounds=Bounds(least=0), help="seeds of the lab's families, instead of the file's"
    )
    only: tuple[str, ...] = option(
        (), metavar="NAME", nargs="+", help="only these steps or models and what they need; * matches anything"
    )

    def __post_init__(self) -> None:
        """Check every value, and which of them go together."""
        super().__post_init__()
        if self.ray_address is not None and self.engine != "ray":
            told = f"{named('engine')} {self.engine} does not use a cluster"
            raise UsageError(
                Fault("ray_address", self.ray_address, told, f"Pass {named('engine')} ray, or leave it out")
            )
