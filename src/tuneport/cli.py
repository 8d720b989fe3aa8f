"""The command line: parse, call one command, print where the result is.

Commands import heavy modules only when they run, so --help is instant. Exit status: 0 done, 1 an error with a message,
2 wrong usage; a traceback only with --debug.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import itertools
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn

from tuneport import __version__
from tuneport.commands import COMMANDS
from tuneport.errors import FLAGS, TuneportError, UsageError, read_by
from tuneport.terminal import open_streams


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    # numpy's BLAS would start a thread for every CPU; the core works with threads of its own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    open_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    from tuneport.commands import printing

    how = {"as_json": "--json" in arguments, "debug": "--debug" in arguments}
    try:
        options = _parsed(arguments)
        with read_by(FLAGS), _stopped_by_a_scheduler():
            return printing.show(options.call(options), as_json=options.json)
    except TuneportError as error:
        return printing.fail(type(error).__name__, error.message(FLAGS), **how, status=error.exit_status)
    except KeyboardInterrupt:
        return printing.fail("Interrupted", "Stopped. Run the same command again to resume.", **how)
    except BrokenPipeError:
        return 1  # the reader of stdout went away, and wants no more
    except (OSError, MemoryError) as error:
        return printing.fail(type(error).__name__, printing.system_message(error), **how)
    except BaseException as error:
        if (
            type(error).__name__ != "PanicException"
        ):  # each library in Rust has a class of its own, never to be imported
            raise
        return printing.fail("PanicException", printing.panic_message(error), **how)


class _Parser(argparse.ArgumentParser):
    """Wrong usage is an error like any other: one sentence, with the help to read instead of all of it."""

    def error(self, message: str) -> NoReturn:
        needs = f"{self.prog.rpartition(' ')[2]} needs "
        message = message.replace("the following arguments are required: ", needs, 1)
        for pattern, words in _IN_OUR_WORDS:
            message = re.sub(pattern, words, message)
        raise UsageError(f"{message}. {_see(self.prog)}")


_IN_OUR_WORDS = (  # for argparse's messages
    (r"^argument (\S+): ", r"\1: "),
    (r"^(\S+): ('.*') must be ", r"\1 \2: must be "),
    (r"^(\S+): invalid choice: (.*?) \(choose from (.*)\)$", r"\1 \2: must be one of \3"),
)


def _see(program: str) -> str:
    return f"Run `{program} --help` to see what it takes."


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one command. Raises `UsageError` for a command or a flag that does not exist, or a wrong value."""
    asked = next((each for each in arguments if each in COMMANDS), None)
    first = next((each for each in arguments if not each.startswith("-")), None)
    if asked is None and first is not None:
        raise UsageError(f"{first} is not a command. {_meant(first, COMMANDS)}Commands: {', '.join(COMMANDS)}.")
    parser = build_parser([asked] if asked else [])
    if asked is not None:
        from tuneport.commands.arguments import check_encodable, flags_of, tell_preset

        known = flags_of(parser, asked)
        for flag in (each.partition("=")[0] for each in itertools.takewhile("--".__ne__, arguments)):
            if flag.startswith("--") and not any(one.startswith(flag) for one in known):
                meant = _meant(flag, known)
                raise UsageError(f"{flag} is not an option of {asked}. {meant}{_see(f'tuneport {asked}')}")
    options, unused = parser.parse_known_args(arguments)
    if unused:
        raise UsageError(f"{asked} has no use for {' '.join(unused)}. {_see(f'tuneport {asked}')}")
    check_encodable(options)
    if asked is not None:
        tell_preset(options)
    return options


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}? " if near else ""


def build_parser(commands: Sequence[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """The parser, with the flags of ``commands``; docs/commands.md is made from all of them."""
    parser = _Parser(
        prog="tuneport",
        description="Transfer a fine-tuning from one version of a language model to another: target + (tuned − base).",
        epilog="MODEL is a folder or a Hub id, such as org/name or org/name@revision.",
    )
    parser.add_argument("--version", action="version", version=f"tuneport {__version__}")
    parsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, what in COMMANDS.items():
        own = parsers.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        own.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        own.add_argument("--debug", action="store_true", help="show a traceback when something fails")
        if name in commands:
            from tuneport.commands.arguments import add_options

            command = importlib.import_module(f"tuneport.commands.{name}")
            own.set_defaults(call=command.call, name=name)
            add_options(own, *command.RECORDS, not_always=getattr(command, "NOT_ALWAYS", ()))
    return parser


@contextlib.contextmanager
def _stopped_by_a_scheduler() -> Iterator[None]:
    """SIGTERM, which schedulers send before they kill, ends a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
