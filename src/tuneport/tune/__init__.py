"""Fine-tuning, on TRL: `data` reads examples, `encode` makes tokens of them, `run` trains. Callable: `run.tune`."""

from tuneport.verbs import make_callable

make_callable(__name__, "tuneport.tune.run")
