"""Read the questions of a study before anything runs, so that problems show hours before a command would find them.

Files of examples and names of the harness's tasks become tasks, or an error that says what is wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tuneport.errors import UsageError
from tuneport.examples.leakage import leaked
from tuneport.examples.questions import OwnTask, read_tasks
from tuneport.studies.declared import Evaluation
from tuneport.studies.graph.steps import apart, of_loss


def read_questions(files: Sequence[str], names: Iterable[str], *, loss: bool) -> list[OwnTask]:
    """The tasks in files; `names` are asked beside them, so that none of theirs may be called the same."""
    tasks = read_tasks(files, loss=loss)
    both = sorted({task.name for task in tasks} & {*names})
    if both:
        raise UsageError(
            f"{', '.join(both)}: is the name of a harness task and of your examples; give the examples another `task`."
        )
    return tasks


def asked_in_two_ways(evaluations: Mapping[str, Evaluation]) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Two evaluations that ask the same tasks with other settings: their names, the tasks, and the settings.

    Bases are asked everything, and have one score a task: it could be compared with one of the two alone.
    """
    for (first, one), (second, other) in itertools.combinations(evaluations.items(), 2):
        suites = [f"suite {one.suite}"] if one.suite is not None and one.suite == other.suite else []
        tasks = [task for task in one.tasks if task in other.tasks] + suites
        losses = [f"the loss of {task}" for task in one.loss if task in other.loss]
        for shared, settings in (
            (tasks, (one.settings, other.settings)),
            (losses, (of_loss(one.settings), of_loss(other.settings))),
        ):
            chosen, others = (apart(each)[0] for each in settings)
            differ = sorted(name for name in {*chosen, *others} if chosen.get(name) != others.get(name))
            if shared and differ:
                yield first, second, shared, differ


def need_apart(tests: Sequence[OwnTask], data: Sequence[str], called: str = "validation data") -> None:
    """Raise `UsageError` if an example of these files is also in the test."""
    rows = leaked(tests, data)
    if rows:
        told = ", ".join(
            f"{row['count']} of {row['of']} examples of {row['task']} ({row['ids'][0]}, …)" for row in rows
        )
        raise UsageError(
            f"{told} are also in the {called}. Selection on the test set is not allowed; use other examples."
        )
