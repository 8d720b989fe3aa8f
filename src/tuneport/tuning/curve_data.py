"""The examples of a curve: people choose models by a curve, so its examples are no longer a test.

The examples behind `--tasks` of a fine-tuning are kept as digests beside the model and as a record; training on them
gives a warning.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from tuneport.errors import DataError, named
from tuneport.examples.leakage import example_digests
from tuneport.examples.naming import names_data
from tuneport.examples.questions import OwnTask, read_tasks
from tuneport.scoring.evaluate_options import Asking
from tuneport.scoring.prompts import check_written


@dataclass(frozen=True)
class Selection:
    """The tasks of a curve: one's own, by the file that holds them, and names of the harness's."""

    own: tuple[OwnTask, ...] = ()
    names: tuple[str, ...] = ()
    match: str | None = None  # what of an answer counts

    def digests(self) -> frozenset[str]:
        """Of each example of one's own files."""
        return frozenset(d for task in self.own for example in task.examples for d in example_digests(example))

    def record(self) -> list[dict[str, Any]]:
        """What tune.json says of it."""
        counted = {} if self.match is None else {"match": self.match}
        own = [{"task": task.name, "data": task.file, "examples": len(task.examples), **counted} for task in self.own]
        return [*own, *({"task": name, "data": None, "examples": None} for name in self.names)]

    def warnings(self, trained: Set[str]) -> list[str]:
        """Duplicates in the files, and examples of the curve that are in the training data."""
        found = [warning for task in self.own for warning in task.warnings]
        for task in self.own:
            ids = [example.id for example in task.examples if not trained.isdisjoint(example_digests(example))]
            if ids:
                shown = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
                found.append(
                    f"{len(ids):,} of {len(task.examples):,} examples of {task.name} ({task.file}), for the curve are "
                    f"also in the training data ({shown}), so the curve would measure memory. Remove them from one of "
                    f"the two."
                )
        return found

    def check(self, tokenizer: Any) -> None:
        """Raise `TuneportError` for what would stop the first scoring, before hours of training."""
        spoken = sorted({task.file for task in self.own if any(example.messages for example in task.examples)})
        if spoken and not tokenizer.chat_template:
            raise DataError(
                f"{named('tasks')} {', '.join(spoken)}: the examples are `messages`, but the model has no chat "
                f"template. Set one with {named('chat_template')}, or use examples with a `prompt`."
            )
        whose = f"{named('tasks')}: the chat template"
        check_written(tokenizer, self.own, whose, f"choose another {named('chat_template')}")
        if self.names:
            from tuneport.libraries import quietly
            from tuneport.scoring.named import load_named

            with quietly():
                load_named(self.names)


def read_selection(tasks: Sequence[Any], match: str | None = None) -> Selection:
    """The examples behind the names, whose answers `match` picks out.

    Raises `DataError` with every fault of their files, and `UsageError` for an invalid `match`, before anything is
    trained.
    """
    Asking(match=match)
    own = read_tasks([task for task in tasks if names_data(task)])
    return Selection(tuple(own), tuple(str(task) for task in tasks if not names_data(task)), match)
