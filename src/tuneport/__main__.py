"""``python -m tuneport`` is the command line."""

import sys

from tuneport.cli import main

sys.exit(main())
