"""Where the results of a study lie: a folder on this machine (or one that all machines see), or a URL.

In comes a path or a URL that fsspec knows, out comes a `Store`: small files read and written whole, a place for each step to
work in, parents' outputs brought to where a step runs. In a folder steps work in place; behind a URL they work in a scratch
folder of the machine, which is carried over when it is whole, its record last. Stores can be sent to other processes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tuneport.errors import OutputError, UsageError
from tuneport.study.records import RECORD, finished_files

STEPS = "steps"
LOCK = ".lock"
# A process that was killed lets go of its locks at once, one on a node that died within some seconds.
PATIENCE = 60.0
# The lock of a URL is renewed so often, and counts for so long.
_RENEWED, _COUNTS = 15.0, 60.0
_REFUSED = (
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ELOOP, errno.EISDIR,
)  # fmt: skip


class Store(Protocol):
    """Where the results of a study lie. Names are relative, with slashes."""

    @property
    def where(self) -> str:
        """The path or URL, for people."""

    @property
    def places(self) -> dict[str, str]:
        """Where things lie on this machine, and what records call it."""

    def read(self, name: str) -> bytes | None:
        """A small file; None where it is not there."""

    def write(self, name: str, content: bytes) -> None:
        """A small file, replaced as a whole."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Size of every file below a folder, by name relative to it."""

    def remove(self, name: str) -> None:
        """A file or folder; nothing where it is not there."""

    def working(self, folder: str) -> contextlib.AbstractContextManager[Path]:
        """A place on this machine for the step of this folder alone, with what an earlier try has left."""

    def deliver(self, folder: str, place: Path, record: bytes, key: str) -> None:
        """The step in `place` is done: bring over what it wrote, then its record. `key` tells its outputs from others."""

    def bring(self, folder: str, part: str, key: str) -> Path:
        """A part of a finished step, on this machine. `key` tells apart what was made again with other contents."""

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the whole study. Raises `OutputError` that says who holds it."""

    def clean(self) -> None:
        """Remove what this machine keeps besides the results."""


def open_store(place: str | os.PathLike[str]) -> Store:
    """The store at a path or URL. Raises `OutputError` in words where there can be none."""
    text = os.fspath(place)
    if not text:
        raise UsageError("--out '': give a folder, or a URL.")
    if "://" in text:
        store = UrlStore(text.rstrip("/"))
        store.check()
        return store
    path = Path(os.path.expanduser(text)).absolute()
    if path.exists() and not path.is_dir():
        raise OutputError(f"--out {text} is a file; give a folder, or a URL.")
    return FolderStore(path)


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
        """A small file; None where none is there (a pipe is no file: nobody may ever write to it)."""
        path = self.path / name
        try:
            return path.read_bytes() if path.is_file() else None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        """A small file, written beside its place and renamed."""
        path = self.path / name
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._refuse_links(path.parent)
            fresh = path.with_name(f"{path.name}.new")
            fresh.unlink(missing_ok=True)  # what a kill left; or a link, through which nothing is written
            with open(fresh, "xb") as file:
                file.write(content)
            fresh.replace(path)

    def sizes(self, folder: str) -> dict[str, int]:
        """Size of every file below a folder, by name relative to it."""
        return dict(_sizes(self.path / folder, ""))

    def remove(self, name: str) -> None:
        """A file or folder; nothing where it is not there."""
        path = self.path / name
        with _told(path):
            self._refuse_links(path.parent)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def working(self, folder: str) -> Iterator[Path]:
        """The step's own folder."""
        place = self.path / STEPS / folder
        with _told(place):
            self._refuse_links(place)
            place.mkdir(parents=True, exist_ok=True)
        with _alone(place, place):
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
        with _told(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            opened = os.open(
                self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666
            )
            lock = open(opened, "a+", encoding="utf-8")  # noqa: SIM115 - closed below, after the block
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                holder = lock.read().strip() or "another run"
                raise OutputError(f"{self.path} is in use by {holder}. Wait for it, or give another --out.") from None
            lock.truncate(0)
            lock.write(_this_process())
            lock.flush()
            yield

    def clean(self) -> None:
        """Nothing is kept besides the results."""

    def _refuse_links(self, place: Path) -> None:
        """Raise `OutputError` where a link below the folder leads out of it: nothing else is written to or emptied."""
        if not place.resolve().is_relative_to(self.path.resolve()):
            raise OutputError(
                f"{place} is a link that leads out of {self.path}, where nothing is written. Remove the link, or give "
                "another --out."
            )


@dataclass(frozen=True)
class UrlStore:
    """Results behind a URL; each machine works in a scratch folder and keeps there what it has brought and made."""

    url: str

    @property
    def where(self) -> str:
        """The URL."""
        return self.url

    @property
    def places(self) -> dict[str, str]:
        """The URL, and the scratch folder."""
        scratch = {f"{self._scratch}/{folder}/": f"{STEPS}/" for folder in ("work", "brought")}
        return {f"{self.url}/": "", self.url: "the study's folder", **scratch}

    def check(self) -> None:
        """Raise `OutputError` where nothing that is installed knows such URLs."""
        try:
            self._system()
        except (ImportError, ValueError) as error:
            raise OutputError(
                f"--out {self.url}: {error}. Such URLs need a package of their own (s3:// s3fs, gs:// gcsfs, …); install "
                "it, or give a folder."
            ) from None

    def read(self, name: str) -> bytes | None:
        """A small file; None where it is not there."""
        try:
            content: bytes = self._system().cat_file(self._at(name))
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """A small file: under another name first, since not every system writes a file as a whole."""
        system, place = self._system(), self._at(name)
        system.makedirs(place.rpartition("/")[0], exist_ok=True)
        fresh = f"{place}.{secrets.token_hex(4)}.new"
        system.pipe_file(fresh, content)
        system.mv(fresh, place)

    def sizes(self, folder: str) -> dict[str, int]:
        """Size of every file below a folder, by name relative to it."""
        system, place = self._system(), self._at(folder)
        system.invalidate_cache()
        found: Mapping[str, Any] = system.find(place, detail=True)
        return {name[len(place) + 1 :]: int(entry["size"] or 0) for name, entry in found.items()}

    def remove(self, name: str) -> None:
        """A file or folder; nothing where it is not there."""
        with contextlib.suppress(FileNotFoundError):
            self._system().rm(self._at(name), recursive=True)
        parts = Path(name).parts
        if parts[0] == STEPS and len(parts) > 1:  # and what of it was brought here
            for brought in self._scratch.glob(f"brought/{parts[1]}-*"):
                shutil.rmtree(brought.joinpath(*parts[2:]), ignore_errors=True)

    @contextlib.contextmanager
    def working(self, folder: str) -> Iterator[Path]:
        """A scratch folder, which a killed try on this machine has left as it was."""
        place = self._scratch / "work" / folder
        with _told(place):
            place.mkdir(parents=True, exist_ok=True)
        with _alone(place, self._scratch / "locks" / folder):
            yield place

    def deliver(self, folder: str, place: Path, record: bytes, key: str) -> None:
        """Carry over every finished file, then the record; what was made stays here for the steps that need it."""
        system, there = self._system(), self._at(f"{STEPS}/{folder}")
        for file in finished_files(place):
            name = file.relative_to(place).as_posix()
            system.makedirs(f"{there}/{name}".rpartition("/")[0], exist_ok=True)
            system.put_file(str(file), f"{there}/{name}")
        self.write(f"{STEPS}/{folder}/{RECORD}", record)
        kept = self._brought(folder, key)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(kept, ignore_errors=True)
        place.rename(kept)

    def bring(self, folder: str, part: str, key: str) -> Path:
        """Fetched once on this machine, whoever asks first."""
        kept, lock = self._brought(folder, key), self._scratch / "locks" / f"{folder}.brought"
        whole = kept / part
        with _told(kept):
            kept.mkdir(parents=True, exist_ok=True)
        with _alone(whole, lock, patience=math.inf):  # however long it takes another step here to fetch it
            if not whole.exists():
                system, there = self._system(), self._at(f"{STEPS}/{folder}/{part}")
                coming = kept / f"{part.replace('/', '-')}.partial"
                shutil.rmtree(coming, ignore_errors=True)
                coming.mkdir()
                names = list(self.sizes(f"{STEPS}/{folder}/{part}")) if system.isdir(there) else [""]
                for name in names:
                    local = coming / "whole" / name if name else coming / "whole"
                    local.parent.mkdir(parents=True, exist_ok=True)
                    system.get_file(f"{there}/{name}".rstrip("/"), str(local))
                whole.parent.mkdir(parents=True, exist_ok=True)
                (coming / "whole").rename(whole)
                coming.rmdir()
        return whole

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """A file that says who runs and is renewed; after a kill it counts for a minute, on the same machine not at all."""
        held = _held(self.read(LOCK))
        if held is not None:
            raise OutputError(f"{self.url} is in use by {held}. Wait for it, or give another --out.")
        by, stop = _this_process(), threading.Event()

        def renew() -> None:
            while not stop.wait(_RENEWED):
                with contextlib.suppress(OSError):  # a network that is away for a moment
                    self.write(LOCK, json.dumps({"by": by, **_now()}).encode())

        self.write(LOCK, json.dumps({"by": by, **_now()}).encode())
        renewing = threading.Thread(target=renew, daemon=True)
        renewing.start()
        try:
            yield
        finally:
            stop.set()
            renewing.join()
            self.remove(LOCK)

    def clean(self) -> None:
        """Remove the scratch folder of this machine."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _system(self) -> Any:
        import fsspec

        return fsspec.core.url_to_fs(self.url)[0]

    def _at(self, name: str) -> str:
        import fsspec

        root: str = fsspec.core.url_to_fs(self.url)[1]
        return f"{root.rstrip('/')}/{name}"

    @property
    def _scratch(self) -> Path:
        """One folder of this user for each URL, below TMPDIR."""
        mark = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"tuneport-study-{os.getuid()}-{mark}"

    def _brought(self, folder: str, key: str) -> Path:
        return self._scratch / "brought" / f"{folder}-{key[:12]}"


@contextlib.contextmanager
def _alone(place: Path, lock: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold `lock` (a folder, or a file to be made); waits for one who is about to die, raises if he lives on."""
    if lock.is_dir():
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    else:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > until:
                    raise OutputError(f"{place} has been in use by another process for {patience:g} s.") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _told(place: Path) -> Iterator[None]:
    """Say in words what the operating system refuses."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED and not isinstance(error, NotADirectoryError | FileExistsError):
            raise
        raise OutputError(
            f"Cannot write {place}: {error.strerror}. Mend the cause and run the same command again; what is done stays."
        ) from None


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


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S %z')}"


def _now() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "at": time.time()}


def _held(content: bytes | None) -> str | None:
    """Who holds the lock of a URL; None where nobody does, or he is dead."""
    try:
        found = json.loads(content or b"")
        age = time.time() - float(found["at"])
        if found["host"] == socket.gethostname() and not _alive(int(found["pid"])):
            return None
    except (ValueError, TypeError, KeyError):
        return None
    return f"{found.get('by')} (last seen {age:.0f} s ago; it counts for {_COUNTS:.0f} s)" if age < _COUNTS else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
