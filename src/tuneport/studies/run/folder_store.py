"""Keep results in a folder of this machine, or in one that all machines share: steps work in place."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuneport.errors import ForeignFileError, OutputError, named
from tuneport.files.holding import held, is_held, this_process
from tuneport.files.opening import MOST_RECORD_BYTES, opened, read_bytes, resolved
from tuneport.files.writing import told, write_whole
from tuneport.results.schema import RECORD, STEPS
from tuneport.studies.run.store import LOCK, OF_A_STEP, PATIENCE


@dataclass(frozen=True)
class FolderStore:
    """Results in a folder; several machines may share it, as long as they see it under the same path."""

    path: Path

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.path)

    @property
    def places(self) -> dict[str, str]:
        """The folder itself."""
        return {f"{self.path}/": "", str(self.path): "the study's folder"}

    def read(self, name: str) -> bytes | None:
        """A small file; None where none is there. A pipe is none (nobody may ever write to it), nor is what a link leads to elsewhere."""
        path = self.path / name
        try:
            return read_bytes(path, self.path, MOST_RECORD_BYTES)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ForeignFileError):
            return None
        except OSError as error:
            raise OutputError(
                f"Cannot read {path}: {error.strerror}. Fix the problem and run the command again."
            ) from None

    def write(self, name: str, content: bytes) -> None:
        """A small file, written beside its place and renamed."""
        path = self.path / name
        with told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._refuse_links(path.parent)
            write_whole(path, content)

    def sizes(self, folder: str) -> dict[str, int]:
        """Size of every file below a folder, by name relative to it."""
        return dict(_sizes(self.path / folder, ""))

    def remove(self, name: str) -> None:
        """A file or folder; nothing where it is not there."""
        path = self.path / name
        with told(path):
            self._refuse_links(path.parent)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def working(self, folder: str) -> Iterator[Path]:
        """The step's own folder."""
        place = self.path / STEPS / folder
        with told(place):
            self._refuse_links(place)
            place.mkdir(parents=True, exist_ok=True)
        with held(place, OF_A_STEP, patience=PATIENCE):
            yield place

    def deliver(self, folder: str, place: Path, record: bytes, key: str) -> None:
        """Everything is in place but the record."""
        self.write(f"{STEPS}/{folder}/{RECORD}", record)

    def bring(self, folder: str, part: str, key: str) -> Path:
        """Where it lies."""
        return self.path / STEPS / folder / part

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """A lock on a file of the folder; it goes away with its process."""
        with held(
            self.path / LOCK,
            f"Wait for it, or give another {named('out')}.",
            what=self.path,
            as_file=True,
            holder=_named_in,
        ) as lock:
            os.ftruncate(lock, 0)
            os.write(lock, this_process().encode())
            yield

    def holder(self) -> str | None:
        """Who holds the lock."""
        try:
            with opened(self.path / LOCK) as lock:
                return _named_in(lock.fileno()) if is_held(lock.fileno()) else None
        except OSError:
            return None

    def clean(self) -> None:
        """Nothing is kept besides the results."""

    def _refuse_links(self, place: Path) -> None:
        """Raise `OutputError` where a link below the folder leads out of it: nothing else is written to or emptied."""
        if not resolved(place).is_relative_to(resolved(self.path)):
            raise OutputError(
                f"{place} is a link to a place outside {self.path}; tuneport does not write there. Remove the link, "
                f"or give another {named('out')}."
            )


def _sizes(folder: str | os.PathLike[str], prefix: str) -> Iterator[tuple[str, int]]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _sizes(entry.path, f"{prefix}{entry.name}/")
        elif entry.is_file(follow_symlinks=False):  # no step leaves links, and one that is met leads who knows where
            yield f"{prefix}{entry.name}", entry.stat().st_size


def _named_in(lock: int) -> str:
    return os.pread(lock, 1000, 0).decode("utf-8", "replace").strip() or "another run"
