"""`--dry-run` of the commands that write models from models: shows `tuneport.plan` and does nothing else."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from tuneport.commands.arguments import given_for
from tuneport.commands.printing import Told
from tuneport.options import Options, option


@dataclass(frozen=True, kw_only=True)
class DryRun(Options):
    """Ask for the plan alone."""

    dry_run: bool = option(
        False,
        group="the run",
        help="show the plan and write nothing; reads only headers and a sample of values (or of the data)",
    )


def is_dry(options: argparse.Namespace) -> bool:
    """Whether only the plan is asked for."""
    return bool(getattr(options, "dry_run", False))


def planned(record: type[Any], options: argparse.Namespace) -> Told:
    """The plan of a run with a record's options."""
    from tuneport.diffvector.run import plan

    given = given_for(record, options)
    given.pop("encoding", None)  # there is one, and a plan does not depend on it
    found = plan(**given)
    if not found["refused"]:
        shown = [] if options.json else found["warnings"]  # the text has them
        return Told(found.in_words(), found.to_dict(), told=shown)
    error = {"type": "Refused", "message": f"cannot {found['operation']}: {len(found['refused'])} problem(s) found."}
    return Told(found.in_words(), {**found.to_dict(), "error": error}, status=1)
