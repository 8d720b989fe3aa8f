"""What a curve is read on: whoever looks at it chooses by it, so its examples are no test any more.

In come the names that `--tasks` gives a fine-tuning, out come the examples behind them: as digests that lie beside the model,
as a record, and as a warning where the fine-tuning trains on them.
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
        """What stands twice in the files, and which examples of the curve stand in the training data."""
        found = [warning for task in self.own for warning in task.warnings]
        for task in self.own:
            ids = [example.id for example in task.examples if not trained.isdisjoint(example_digests(example))]
            if ids:
                shown = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
                found.append(
                    f"{len(ids):,} of {len(task.examples):,} examples of {task.name} ({task.file}), on which the curve is to be "
                    f"read, stand in the training data ({shown}): there it measures memory. Leave them out of the one or "
                    "the other."
                )
        return found

    def check(self, tokenizer: Any) -> None:
        """Raise `TuneportError` for what the first scoring would stop at: hours of training stand before it."""
        spoken = sorted({task.file for task in self.own if any(example.messages for example in task.examples)})
        if spoken and not tokenizer.chat_template:
            raise DataError(
                f"{named('tasks')} {', '.join(spoken)}: the examples are `messages`, and the model has no chat template. Give it "
                f"one with {named('chat_template')}, or examples with a `prompt`."
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

    Raises `DataError` with every fault of their files, and `UsageError` where `match` is none, before anything is trained.
    """
    Asking(match=match)
    own = read_tasks([task for task in tasks if names_data(task)])
    return Selection(tuple(own), tuple(str(task) for task in tasks if not names_data(task)), match)
