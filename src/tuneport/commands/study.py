"""`tuneport study` on the command line: the parser, the call, and the outcome in words."""

from __future__ import annotations

import argparse
from typing import Any

from tuneport.commands.printing import Told, told


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `tuneport study`."""
    parser.add_argument("file", metavar="STUDY.toml", help="what is compared, and how (docs/formats.md)")
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="folder or URL (through fsspec) of records and results"
    )
    parser.add_argument(
        "--engine", choices=["local", "ray"], default="local", help="where steps are done (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs", metavar="N", type=int, default=1, help="local: steps at once, each a process (default: 1)"
    )
    parser.add_argument(
        "--ray-address", metavar="A", help="ray: a cluster that runs (default: RAY_ADDRESS, else one for this run)"
    )
    parser.add_argument(
        "--family",
        metavar="N",
        type=int,
        nargs="+",
        default=[],
        help="these families of the lab, by seed, instead of the file's",
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        nargs="+",
        default=[],
        help="only these steps or models, and what they stand on; * for any",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show every step, done or to do, and the cost; do nothing"
    )


def _call(options: argparse.Namespace) -> dict[str, Any]:
    """Run the verb and put the outcome in words."""
    if options.dry_run:
        from tuneport.studies.run.describe import in_words, rehearse

        told = rehearse(options.file, options.out, families=options.family, only=options.only)
        return {**told, "words": in_words(told)}
    from tuneport.studies.run.run import study

    return study(
        options.file,
        options.out,
        engine=options.engine,
        jobs=options.jobs,
        ray_address=options.ray_address,
        families=options.family,
        only=options.only,
    )


RECORDS: tuple[type, ...] = ()


def call(options: argparse.Namespace) -> Told:
    """Run the command."""
    return told(_call(options))
