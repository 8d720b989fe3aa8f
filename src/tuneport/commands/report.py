"""`tuneport report` on the command line: the parser, the call, and where the page lies."""

from __future__ import annotations

import argparse
from typing import Any

from tuneport.commands.printing import Told, told


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `tuneport report`."""
    parser.add_argument("study", metavar="DIR", help="folder or URL that `tuneport study` wrote, finished or not")
    parser.add_argument(
        "--format",
        choices=["page", "markdown"],
        default="page",
        help="page: one HTML file with figures, which opens without network; markdown: tables, for a model card or an "
        "issue (default: %(default)s)",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="default: DIR/report.html, or DIR/report.md; of a URL there is none"
    )


def _call(options: argparse.Namespace) -> dict[str, Any]:
    """Run the verb and say where the page lies."""
    from tuneport.reporting.run import report

    return report(options.study, options.out, format=options.format)


RECORDS: tuple[type, ...] = ()


def call(options: argparse.Namespace) -> Told:
    """Run the command."""
    return told(_call(options))
