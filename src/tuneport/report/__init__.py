"""A study's records become one page: `tuneport.report(DIR)`. Callable (see verbs.py)."""

from tuneport.verbs import make_callable

make_callable(__name__, "tuneport.report.run")
