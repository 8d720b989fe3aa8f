"""Where the command line begins: ``tuneport``, and ``python -m tuneport``.

Ctrl-C may come while modules are imported, which takes longer than a person's second thought; it ends in words from here on.
"""

import sys


def run() -> int:
    """Run the command line and return its exit status."""
    try:
        from tuneport.cli import main

        return main()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("tuneport: Stopped. The same command goes on where this one stopped.\n")
        return 1


if __name__ == "__main__":
    sys.exit(run())
