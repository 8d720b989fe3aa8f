"""The diff vector as a thing of its own: taken, kept, checked, applied. Callable: `run.diff`."""

from tuneport.verbs import make_callable

make_callable(__name__, "tuneport.diff.run")
