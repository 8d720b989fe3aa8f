"""A declared set of versions, fine-tunings, transfers and evaluations, run as one graph. Callable: `run.study`."""

from tuneport.verbs import make_callable

make_callable(__name__, "tuneport.study.run")
