"""Check the folder of a run: its place, and enough disk space; turn failures during the run into messages."""

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
from tuneport.tuning.distillation.teaching import ANSWERS, TEXTS
from tuneport.tuning.logbook import LOG
from tuneport.tuning.prepare import Prepared
from tuneport.tuning.recipes import TuningRun
from tuneport.tuning.team import Team

# What a system says when something cannot be written.
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)

# What a run has written before its first step; where anything else lies in the folder, it stays.
_BEGUN = {PLAN, LOG, HASHES, CHECKPOINTS, ANSWERS, TEXTS, "tensorboard"}


def check_place(out: Path, prepared: Prepared, read: Sequence[Any]) -> None:
    """Refuse invalid places, and places with an input file."""
    start = resolved(prepared.start.path)
    if resolved(out) == start or start in resolved(out).parents or resolved(out) in start.parents:
        raise OutputError(
            f"{named('out', out)} is the model {prepared.start.label}, contains it or is inside it; choose another."
        )
    for name in read:
        if not isinstance(name, str | os.PathLike):
            continue  # a table in memory
        file = file_of(name)
        if file.exists() and resolved(out) in (resolved(file), *resolved(file).parents):
            raise OutputError(f"{named('out', out)} contains {name}, an input; choose a separate folder.")
    if not resolved(out).parent.is_dir():
        raise OutputError(f"{named('out', out)}: the folder {resolved(out).parent} does not exist. Create it first.")


def check_space(folder: Path, model: Any, prepared: Prepared, running: TuningRun) -> None:
    """Raise `OutputError` where the disk cannot hold the model and the checkpoints on the way."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    written = sum(parameter.numel() for parameter in model.parameters()) if prepared.lora is None else trained
    on_the_way = 3 if prepared.steps > running.save_every else 0  # two stay, one more is being written
    needed = 4 * written + on_the_way * (4 * written + 8 * trained)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder}: the model and its checkpoints take up to {needed:,} bytes, but the disk has {free:,} free. "
            f"Free some space, or choose another {named('out')}."
        )


@contextmanager
def discarded_if_nothing_began(folder: Path, team: Team) -> Iterator[None]:
    """If a run is refused before its first step, DIR.partial is removed, so that other options can use the place."""
    try:
        yield
    except TuneportError:
        log = folder / LOG
        if (
            team.leads
            and not (log.exists() and log.stat().st_size)
            and {entry.name for entry in folder.iterdir()} <= _BEGUN
            and not any(folder.glob("*/lot-*"))  # answers of a teacher, which took long
        ):
            shutil.rmtree(folder)
        raise


@contextmanager
def refusals_in_words(folder: Path) -> Iterator[None]:
    """Turn failures during a run (disk, memory, a library that does not know a model) into messages."""
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
                f"Not enough memory. Use a smaller {named('per_device_train_batch_size')} (the update stays the same), "
                f"{named('gradient_checkpointing')}, or {named('lora')}; {named('dry_run')} estimates the need."
            ) from error
        _tell_of_libraries(error)
        raise
    except Exception as error:  # whatever a forward pass raises over a model that its class, or TRL, does not know
        _tell_of_libraries(error)
        raise


def _tell_of_libraries(error: Exception) -> None:
    """Turn a library's error into a message; our own errors are not changed."""
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
        f"The training stopped in {place}: {type(error).__name__}: {first}. The installed libraries cannot train this "
        f"model with its config.json or these options. `--debug` shows the full traceback."
    ) from error
