"""`tuneport adapt`: climb the ladder, or show what would be tried."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tuneport.adaptation.adapt_options import AdaptOptions
from tuneport.commands.arguments import given_for
from tuneport.commands.dry_run import DryRun, is_dry
from tuneport.commands.printing import Told, table
from tuneport.commands.pushing import pushing
from tuneport.engine.run_options import PushOptions

if TYPE_CHECKING:
    from tuneport.adaptation.adapt_record import Adaptation

RECORDS = (AdaptOptions, DryRun, PushOptions)


@pushing
def call(options: argparse.Namespace) -> Told:
    """Climb."""
    from tuneport.adaptation.run import adapt, rehearse_adapt

    given = given_for(AdaptOptions, options)
    if is_dry(options):
        planned = rehearse_adapt(**given)
        return Told(planned.in_words(), planned.to_dict())
    found = adapt(**given)
    return Told(in_words(found), found.to_dict())


def in_words(found: Adaptation) -> str:
    """The rungs as a table, why each was kept or not, and what was chosen."""
    from tuneport.output.adapted_card import measured_in_words

    record = found.record
    lines = [table(found.table()), measured_in_words(record), ""]
    lines += [f"{rung['name']}: {rung['status']}. {rung['why']}" for rung in record["rungs"]]
    return "\n".join([*lines, "", found.heading()])
