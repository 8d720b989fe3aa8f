"""Render docs/commands.md from the command line itself, so that the two cannot disagree.

``python -m experiments.pages.commands_page`` writes the page; ``--check`` exits with status 1 where the committed page is another.
"""

from __future__ import annotations

import argparse
import os
import sys

from experiments.pages.write_page import DOCS, write_or_compare
from tuneport.cli import build_parser

PAGE = DOCS / "commands.md"


def render() -> str:
    os.environ["COLUMNS"] = "100"
    parser = build_parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    parts = [
        "# Commands\n",
        "Made from the command line by `make docs`; `make lint` checks that it still agrees.\n",
        f"```text\n{parser.format_help()}```\n",
    ]
    for name, command in commands.choices.items():
        parts.append(f"## tuneport {name}\n\n```text\n{command.format_help()}```\n")
    parts.append(
        "## Exit status\n\n"
        '0: done. 1: an error, with a message on stderr (with `--json` also as `{"error": {…}}` on stdout). '
        "2: wrong usage. A traceback only with `--debug`.\n"
    )
    return "\n".join(parts)


def main() -> int:
    return write_or_compare(PAGE, render(), sys.argv[1:], "the command line")


if __name__ == "__main__":
    sys.exit(main())
