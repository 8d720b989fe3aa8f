"""`tuneport transfer`."""

from __future__ import annotations

import argparse

from tuneport.commands.arguments import given_for
from tuneport.commands.dry_run import DryRun, is_dry, planned
from tuneport.commands.printing import Told, warn
from tuneport.commands.pushing import pushing
from tuneport.engine.run_options import PushOptions, TransferOptions

RECORDS = (TransferOptions, DryRun, PushOptions)


@pushing
def call(options: argparse.Namespace) -> Told:
    """Transfer, or show the plan."""
    if is_dry(options):
        return planned(TransferOptions, options)
    from tuneport.diffvector.run import transfer

    output = transfer(**given_for(TransferOptions, options), warn=warn)
    return Told(output.in_words(), output.to_dict(), told=output.told)
