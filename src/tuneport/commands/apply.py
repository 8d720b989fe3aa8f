"""`tuneport apply`."""

from __future__ import annotations

import argparse

from tuneport.commands.arguments import given_for
from tuneport.commands.dry_run import DryRun, is_dry, planned
from tuneport.commands.printing import Told, warn
from tuneport.commands.pushing import pushing
from tuneport.engine.run_options import ApplyOptions, PushOptions

RECORDS = (ApplyOptions, DryRun, PushOptions)


@pushing
def call(options: argparse.Namespace) -> Told:
    """Apply, or show the plan."""
    if is_dry(options):
        return planned(ApplyOptions, options)
    from tuneport.diffvector.run import apply

    output = apply(**given_for(ApplyOptions, options), warn=warn)
    return Told(output.heading(), output.to_dict(), told=output.told)
