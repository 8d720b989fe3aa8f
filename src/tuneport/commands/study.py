"""`tuneport study`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from tuneport.commands.arguments import given_for
from tuneport.commands.dry_run import is_dry
from tuneport.commands.printing import Told, told
from tuneport.options import Options, option
from tuneport.studies.study_options import StudyOptions


@dataclass(frozen=True, kw_only=True)
class DryRunOfSteps(Options):
    """Ask for the plan alone."""

    dry_run: bool = option(False, help="show every step, done or to do, and the cost; do nothing")


RECORDS = (StudyOptions, DryRunOfSteps)


def call(options: argparse.Namespace) -> Told:
    """Run the study, or show its steps."""
    given = given_for(StudyOptions, options)
    if is_dry(options):
        from tuneport.studies.run.describe import in_words, rehearse

        planned = rehearse(**given)
        return Told(in_words(planned), planned.to_dict())
    from tuneport.studies.run.run import study

    return told(study(**given).to_dict())
