"""Scores that can be trusted, from lm-evaluation-harness: `run` asks, `measures` says what it is worth. Callable."""

from tuneport.verbs import make_callable

make_callable(__name__, "tuneport.evaluate.run")
