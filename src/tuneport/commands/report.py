"""`tuneport report`."""

from __future__ import annotations

import argparse

from tuneport.commands.arguments import given_for
from tuneport.commands.printing import Told, told
from tuneport.reporting.report_options import ReportOptions

RECORDS = (ReportOptions,)


def call(options: argparse.Namespace) -> Told:
    """Write the page."""
    from tuneport.reporting.run import report

    return told(report(**given_for(ReportOptions, options)).to_dict())
