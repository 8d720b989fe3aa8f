"""The command line: parse, call one command, print where the result is.

Commands import heavy modules only when they run, so --help is instant. Exit status: 0 done, 1 an error with a message,
2 wrong usage; a traceback only with --debug.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from tuneport import __version__
from tuneport.commands import COMMANDS
from tuneport.errors import FLAGS, TuneportError, read_by
from tuneport.terminal import open_streams


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    # numpy's BLAS would start a thread for every CPU; the core works with threads of its own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    open_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    asked = next((each for each in arguments if each in COMMANDS), None)
    options = build_parser([asked] if asked else []).parse_args(arguments)
    from tuneport.commands import arguments as given
    from tuneport.commands import printing

    how = {"as_json": options.json, "debug": options.debug}
    try:
        given.check_encodable(options)
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


def build_parser(commands: Sequence[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """The parser, with the flags of ``commands``; docs/commands.md is made from all of them."""
    parser = argparse.ArgumentParser(
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
