"""The command line that the lab's experiments share: `python -m tuneport.families.NAME --out DIR --seed N [--family DIR]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tuneport.errors import TuneportError, UsageError


def run(name: str, experiment: Callable[..., Any], arguments: Sequence[str] | None) -> int:
    """An experiment on the models of a demo, made first where none is given: 0 when done, else the error's status."""
    parser = _parser(name, experiment)
    parser.add_argument("--family", type=Path, metavar="DIR", help="a finished demo's folder (default: OUT-family)")
    options = parser.parse_args(arguments)

    def go() -> None:
        experiment(options.out, family_of(options.family, options.out, options.seed))

    return _told(go, options.out)


def run_alone(name: str, experiment: Callable[..., Any], arguments: Sequence[str] | None) -> int:
    """An experiment on a family of its own: 0 when done, else the error's status."""
    options = _parser(name, experiment).parse_args(arguments)
    return _told(lambda: experiment(options.out, options.seed or 0), options.out)


def _parser(name: str, experiment: Callable[..., Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m tuneport.families.{name}", description=experiment.__doc__)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where models and summary.json go")
    parser.add_argument("--seed", type=int, metavar="N", help="of the family and all that is drawn (default 0)")
    return parser


def family_of(given: Path | None, out: Path, seed: int | None) -> Path:
    """The demo to start from; one that is not there is made."""
    from tuneport.families.demo import demo
    from tuneport.families.grown import open_family

    if given is None:
        given = out.with_name(f"{out.name}-family")
        demo(given, seed=seed or 0, show=lambda text: None)
    found = open_family(given).seed
    if seed is not None and seed != found:
        raise UsageError(
            f"--family {given} was made with seed {found}, not {seed}. Give --seed {found}, or no --family."
        )
    return given


def _told(go: Callable[[], None], out: Path) -> int:
    try:
        go()
    except TuneportError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    print(f"\n{out}")
    return 0
