"""`tuneport diff`."""

from __future__ import annotations

import argparse

from tuneport.commands.arguments import given_for
from tuneport.commands.dry_run import DryRun, is_dry, planned
from tuneport.commands.printing import Told, warn
from tuneport.engine.run_options import DiffOptions

RECORDS = (DiffOptions, DryRun)


def call(options: argparse.Namespace) -> Told:
    """Take the diff vector, or show the plan."""
    if is_dry(options):
        return planned(DiffOptions, options)
    from tuneport.diffvector.run import diff

    output = diff(**given_for(DiffOptions, options), warn=warn)
    return Told(output.heading(), output.to_dict(), told=output.told)
