"""The folder of a run: whether it may lie there, whether the disk can hold it, and in words what is refused on the way."""

from __future__ import annotations

import errno
import os
import shutil
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuneport.errors import OutputError, TrainingError, TuneportError, named
from tuneport.examples.digests import HASHES
from tuneport.examples.naming import file_of
from tuneport.files.opening import resolved
from tuneport.files.writing import cannot_write
from tuneport.output.workdir import PLAN
from tuneport.tuning.checkpoints import CHECKPOINTS
from tuneport.tuning.logbook import LOG
from tuneport.tuning.prepare import Prepared
from tuneport.tuning.recipes import TuningRun
from tuneport.tuning.team import Team

# What a system says when something cannot be written.
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)

# What a run has written before its first step; where anything else lies in the folder, it stays.
_BEGUN = {PLAN, LOG, HASHES, CHECKPOINTS, "tensorboard"}


def check_place(out: Path, prepared: Prepared, read: Sequence[Any]) -> None:
    """Refuse places that cannot be meant, and such as hold a file that is read."""
    start = resolved(prepared.start.path)
    if resolved(out) == start or start in resolved(out).parents or resolved(out) in start.parents:
        raise OutputError(
            f"{named('out', out)} is the model {prepared.start.label}, or holds it, or lies in it; give another."
        )
    for name in read:
        if not isinstance(name, str | os.PathLike):
            continue  # a table in memory
        file = file_of(name)
        if file.exists() and resolved(out) in (resolved(file), *resolved(file).parents):
            raise OutputError(f"{named('out', out)} holds {name}, which is read; give a folder of its own.")
    if not resolved(out).parent.is_dir():
        raise OutputError(f"{named('out', out)}: the folder {resolved(out).parent} does not exist. Make it first.")


def check_space(folder: Path, model: Any, prepared: Prepared, running: TuningRun) -> None:
    """Raise `OutputError` where the disk cannot hold the model and the checkpoints on the way."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    written = sum(parameter.numel() for parameter in model.parameters()) if prepared.lora is None else trained
    on_the_way = 3 if prepared.steps > running.save_every else 0  # two stay, one more is being written
    needed = 4 * written + on_the_way * (4 * written + 8 * trained)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder}: the model and its checkpoints take up to {needed:,} bytes, the disk has {free:,} free. Free some "
            f"space, or choose another {named('out')}."
        )


@contextmanager
def discarded_if_nothing_began(folder: Path, team: Team) -> Iterator[None]:
    """Where a run is refused before its first step, DIR.partial goes: other choices may then take its place."""
    try:
        yield
    except TuneportError:
        log = folder / LOG
        if (
            team.leads
            and not (log.exists() and log.stat().st_size)
            and {entry.name for entry in folder.iterdir()} <= _BEGUN
        ):
            shutil.rmtree(folder)
        raise


@contextmanager
def refusals_in_words(folder: Path) -> Iterator[None]:
    """Say in words what disk and memory refuse in the middle of a run, and what a library does not know of a model."""
    from safetensors import SafetensorError

    try:
        yield
    except TuneportError:
        raise
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno not in _REFUSALS:
            raise
        raise cannot_write(folder, error) from error
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if "unexpected pos" in text or "failed writing" in text or "No space left" in text:  # torch.save, disk full
            raise cannot_write(folder, OSError(f"{text.splitlines()[0]} (is the disk full?)")) from error
        if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
            raise TrainingError(
                f"There is not enough memory. Give a smaller {named('per_device_train_batch_size')} (the update stays the same), "
                f"{named('gradient_checkpointing')}, or {named('lora')}; {named('dry_run')} estimates what is needed."
            ) from error
        _tell_of_libraries(error)
        raise
    except Exception as error:  # whatever a forward pass raises over a model that its class, or TRL, does not know
        _tell_of_libraries(error)
        raise


def _tell_of_libraries(error: Exception) -> None:
    """Raise what a library raised in words; an error of our own stays what it is."""
    frames = traceback.extract_tb(error.__traceback__)
    where = Path(frames[-1].filename) if frames else Path()
    if Path(__file__).parents[1] in where.parents:
        return
    place = (
        "/".join(where.parts[where.parts.index("site-packages") + 1 :])
        if "site-packages" in where.parts
        else where.name
    )
    first = (str(error).strip() or "no message").splitlines()[0]
    raise TrainingError(
        f"The training stopped in {place}: {type(error).__name__}: {first}. The installed libraries cannot train this model as "
        "its config.json describes it, or with these choices. `--debug` shows the whole traceback."
    ) from error
