"""`tuneport export`."""

from __future__ import annotations

import argparse

from tuneport.commands.arguments import given_for
from tuneport.commands.dry_run import DryRun, is_dry
from tuneport.commands.printing import Told, warn
from tuneport.engine.run_options import ExportOptions

RECORDS = (ExportOptions, DryRun)


def call(options: argparse.Namespace) -> Told:
    """Export, or show what the export will contain."""
    from tuneport.diffvector.exports.run import export, rehearse_export

    given = given_for(ExportOptions, options)
    if is_dry(options):
        planned = rehearse_export(**given)
        return Told(planned.in_words(), planned.to_dict())
    exported = export(**given, warn=warn)
    return Told(exported.in_words(), exported.to_dict(), told=exported.told)
