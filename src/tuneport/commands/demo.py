"""`tuneport demo`."""

from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import dataclass

from tuneport.commands.arguments import given_for
from tuneport.commands.printing import Told
from tuneport.options import Bounds, Options, Place, option


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    """The options of the demo."""

    out: Place = option(metavar="DIR", help="folder to write models, questions and summary.json to")
    seed: int = option(0, bounds=Bounds(least=0), help="random seed")


RECORDS = (DemoOptions,)


def call(options: argparse.Namespace) -> Told:
    """Run the demo."""
    asked = DemoOptions(**given_for(DemoOptions, options))
    from tuneport.families.demo.demo_run import demo

    show = (lambda text: None) if options.json else print  # stdout then holds one object and nothing else
    summary = demo(os.fspath(asked.out), seed=asked.seed, show=show)
    done = f"{asked.out}: {'already done' if summary.already_done else 'done'}"
    return Told(f"{done}\nas a page: tuneport report {shlex.quote(os.fspath(asked.out))}", summary.record)
