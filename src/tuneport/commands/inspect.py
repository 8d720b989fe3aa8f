"""`tuneport inspect`."""

from __future__ import annotations

import argparse

from tuneport.commands.arguments import given_for
from tuneport.commands.printing import Told
from tuneport.engine.run_options import InspectOptions

RECORDS = (InspectOptions,)


def call(options: argparse.Namespace) -> Told:
    """Inspect."""
    from tuneport.inspection import in_words, inspect

    found = inspect(**given_for(InspectOptions, options))
    return Told(in_words(found), found.to_dict())
