"""Call lm-evaluation-harness in process.

`ask` runs one task config in memory, without a search through the harness's thousands of task files; `evaluate` runs
tasks and groups that are loaded. It replaces the harness's `simple_evaluate`, which would search all tasks, list the
installed packages and ask the Hub about the model.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import ExitStack, contextmanager
from typing import Any

from tuneport.errors import ScoringError, TuneportError
from tuneport.progress import Progress

SEED = 1234  # the harness's own, for shots and for the libraries


@contextmanager
def in_words(what: str) -> Iterator[None]:
    """Turn any error of the harness and its libraries into a message; the cause is kept for --debug."""
    try:
        yield
    except TuneportError:
        raise
    except Exception as error:
        raise ScoringError(f"{what}: {type(error).__name__}: {error}") from error


def ask(config: Mapping[str, Any], model: Any) -> list[dict[str, Any]]:
    """The logged samples of one task, in the order of its documents."""
    from lm_eval.api.task import ConfigurableTask

    name = str(config["task"])
    found = evaluate({name: ConfigurableTask(config=dict(config))}, {}, model)["samples"][name]
    return sorted(found, key=lambda sample: sample["doc_id"])


def evaluate(tasks: Mapping[str, Any], groups: Mapping[str, Any], model: Any, **choices: Any) -> dict[str, Any]:
    """The harness's whole result for loaded tasks and groups; its bootstrap is left out (`measures` has its own)."""
    import numpy as np
    import torch
    from lm_eval.evaluator import evaluate as harness_evaluate

    for task in tasks.values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEED)
    random.seed(0)
    np.random.seed(SEED)  # the harness's tasks draw from numpy's shared generator
    torch.manual_seed(SEED)
    with _bars_as_ours(model):
        found = harness_evaluate(
            lm=model,
            task_dict={"tasks": dict(tasks), "groups": dict(groups)},
            bootstrap_iters=0,
            log_samples=True,
            **choices,
        )
    assert found is not None, "only the first process gets the harness's results"
    return dict(found)


class _Bar:
    """What the harness takes for tqdm: the requests of a task, counted by ours."""

    def __init__(self, items: Iterable[Any] | None = None, *, total: int | None = None, **_: Any) -> None:
        self._items = () if items is None else items
        count = len(self._items) if total is None and isinstance(self._items, Sized) else total or 0
        self._progress = Progress("", count, "requests")
        self._progress.__enter__()

    def update(self, count: int = 1) -> None:
        self._progress.add(count)

    def close(self) -> None:
        self._progress.__exit__(None, None, None)

    def __iter__(self) -> Iterator[Any]:
        try:
            for each in self._items:
                yield each
                self.update()
        finally:
            self.close()


@contextmanager
def _bars_as_ours(model: Any) -> Iterator[None]:
    """The bars of the harness and its model's class are ours while the block runs."""
    places = {"lm_eval.api.task", *(each.__module__ for each in type(model).__mro__)}
    with ExitStack() as stack:
        for place in places:
            module = sys.modules.get(place)
            theirs = getattr(module, "tqdm", None)
            if theirs is not None:
                stack.callback(setattr, module, "tqdm", theirs)
                setattr(module, "tqdm", _Bar)  # noqa: B010  (a module's type knows no such name)
        yield
