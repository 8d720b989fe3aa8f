"""`tuneport study`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from tuneport.commands.arguments import given_for
from tuneport.commands.dry_run import is_dry
from tuneport.commands.printing import Told, told
from tuneport.options import Options, build, option
from tuneport.studies.file.new_study import NewStudyOptions, write_new_study
from tuneport.studies.study_options import StudyOptions


@dataclass(frozen=True, kw_only=True)
class DryRunOfSteps(Options):
    """Ask for the plan alone."""

    dry_run: bool = option(False, help="show every step (done or to do) and the cost; run nothing")


RECORDS = (StudyOptions, DryRunOfSteps, NewStudyOptions)
# With --init it is not needed; without it the record says so.
NOT_ALWAYS = ("out",)


def call(options: argparse.Namespace) -> Told:
    """Run the study, show its steps, or write a new file."""
    new = build(NewStudyOptions, given_for(NewStudyOptions, options), "study")
    if new.init:
        place = Path(options.file).expanduser()
        write_new_study(place, new)
        words = f"{place}: written. Check it, then list its steps: tuneport study {place} --out DIR --dry-run"
        return Told(words, {"file": str(place)})
    given = given_for(StudyOptions, options)
    if is_dry(options):
        from tuneport.studies.run.describe import in_words, rehearse

        planned = rehearse(**given)
        return Told(in_words(planned), planned.to_dict())
    from tuneport.studies.run.run import study

    return told(study(**given).to_dict())
