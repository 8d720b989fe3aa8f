"""The processes of one run: one, or those that `accelerate launch` started.

Only the first process writes; it tells the others what it finds out, and whether it can continue.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneport.errors import TrainingError, TuneportError
from tuneport.output.workdir import workplace
from tuneport.scoring.devices import best_device
from tuneport.tuning.checkpoints import CHECKPOINTS
from tuneport.tuning.distillation.teaching import ANSWERS, TEXTS


@dataclass(frozen=True)
class Team:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """The leader's value, in every process."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value if self.leads else None])[0]

    def wait(self) -> None:
        """Go on when all are here."""
        if self.size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def join_team() -> Team:
    """The team that the environment tells of (accelerate and torchrun set WORLD_SIZE and RANK)."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Team()
    from accelerate import PartialState

    state = PartialState(cpu=best_device() == "cpu")
    return Team(state.process_index, state.num_processes)


@contextmanager
def team_workplace(
    team: Team, out: Path, plan: dict[str, Any], record: str, *, overwrite: bool = False
) -> Iterator[Path | None]:
    """`workplace` for a team: the leader holds the folder, and it is renamed when all have left it."""
    if not team.leads:
        found, message = team.share(None)
        if message is not None:
            raise TrainingError(f"The first process stopped: {message}")
        yield None if found is None else Path(found)
        team.wait()
        return
    told = False
    try:
        with workplace(out, plan, record, overwrite=overwrite, on_the_way=[CHECKPOINTS, ANSWERS, TEXTS]) as folder:
            team.share((None if folder is None else str(folder), None))
            told = True
            yield folder
            team.wait()
    except (TuneportError, OSError) as error:
        if not told:
            team.share((None, str(error)))
        raise
