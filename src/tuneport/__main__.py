"""The entry point of the command line: ``tuneport``, and ``python -m tuneport``.

The user may press Ctrl-C while modules are still imported; that too ends with a message, without a traceback.
"""

import sys


def run() -> int:
    """Run the command line and return its exit status."""
    try:
        from tuneport.cli import main

        return main()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("tuneport: Stopped. Run the same command again to resume.\n")
        return 1


if __name__ == "__main__":
    sys.exit(run())
