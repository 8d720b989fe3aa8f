"""The main job: `plan` says what will happen, `run` does it, `arithmetic` is what it means. Callable: `run.transfer`."""

from tuneport.verbs import make_callable

make_callable(__name__, "tuneport.transfer.run")
