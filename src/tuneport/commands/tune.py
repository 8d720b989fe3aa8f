"""`tuneport tune`."""

from __future__ import annotations

import argparse

from tuneport.commands.arguments import given_for
from tuneport.commands.dry_run import DryRun, is_dry
from tuneport.commands.printing import Told
from tuneport.commands.pushing import pushing
from tuneport.engine.run_options import PushOptions
from tuneport.tuning.recipes import TuneOptions

RECORDS = (TuneOptions, DryRun, PushOptions)


@pushing
def call(options: argparse.Namespace) -> Told:
    """Fine-tune, or show the plan and what it needs."""
    from tuneport.tuning.run import rehearse, tune

    given = given_for(TuneOptions, options)
    if is_dry(options):
        planned = rehearse(**given)
        return Told(planned.in_words(), planned.to_dict())
    tuned = tune(**given)
    return Told(tuned.heading(), tuned.to_dict())
