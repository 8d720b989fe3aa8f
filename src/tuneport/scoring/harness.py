"""lm-evaluation-harness, called in process.

`ask` runs one task config that is held in memory, without looking through the harness's own thousands of task files;
`evaluate` runs tasks and groups that are loaded. It stands in for the harness's `simple_evaluate`, which would look
through all tasks, list the installed packages and ask the Hub about the model.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

SEED = 1234  # the harness's own, for shots and for the libraries


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
    found = harness_evaluate(
        lm=model,
        task_dict={"tasks": dict(tasks), "groups": dict(groups)},
        bootstrap_iters=0,
        log_samples=True,
        **choices,
    )
    assert found is not None, "the harness gives its results to the first process only"
    return dict(found)
