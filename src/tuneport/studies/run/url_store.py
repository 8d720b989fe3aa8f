"""Keep results at a URL that fsspec knows: steps work in a scratch folder, which is uploaded when complete.

The record is uploaded last. Any failure of the transfer becomes an error with a message.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneport.errors import ForeignFileError, OutputError, named
from tuneport.files.holding import held, this_process
from tuneport.files.json_text import read_json
from tuneport.files.opening import MOST_RECORD_BYTES, check_file, check_inside, read_bytes, read_object
from tuneport.files.writing import told
from tuneport.results.schema import RECORD, STEPS
from tuneport.studies.run.scratch import made, scratch_of
from tuneport.studies.run.step_records import finished_files
from tuneport.studies.run.store import LOCK, OF_A_STEP, PATIENCE

# The lock of a URL is renewed so often, and counts for so long.
_RENEWED, _COUNTS = 15.0, 60.0


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
        """Raise `OutputError` where nothing that is installed knows such URLs, or nobody may ask there."""
        with self._asking():
            try:
                self._system()
            except (ImportError, ValueError) as error:
                raise OutputError(
                    f"{self.url}: {error}. Such URLs need a package of their own (s3:// s3fs, gs:// gcsfs, …); "
                    "install it, or give a folder."
                ) from None
        self.read(LOCK)

    def read(self, name: str) -> bytes | None:
        """A small file; None where it is not there."""
        with self._asking():
            system, place = self._system(), self._at(name)
            try:
                if _is_local(system):
                    return read_bytes(place, Path(self._at("")), MOST_RECORD_BYTES)
                return read_object(system, place, MOST_RECORD_BYTES)
            except (FileNotFoundError, ForeignFileError):
                return None

    def write(self, name: str, content: bytes) -> None:
        """A small file: under another name first, since not every system writes a file as a whole."""
        with self._asking():
            system, place = self._system(), self._at(name)
            self._refuse_links(system, place.rpartition("/")[0])
            system.makedirs(place.rpartition("/")[0], exist_ok=True)
            fresh = f"{place}.{secrets.token_hex(4)}.new"
            system.pipe_file(fresh, content)
            system.mv(fresh, place)

    def sizes(self, folder: str) -> dict[str, int]:
        """Size of every file below a folder, by name relative to it."""
        with self._asking():
            system, place = self._system(), self._at(folder)
            system.invalidate_cache()
            found: Mapping[str, Any] = system.find(place, detail=True)
        for name in found:
            if not name.startswith(f"{place}/") or {"", ".", ".."} & set(name[len(place) + 1 :].split("/")):
                raise OutputError(
                    f"{self.url}: the key {name!r} is outside {folder}, so tuneport does not read it. Remove it there."
                )
        return {name[len(place) + 1 :]: int(entry["size"] or 0) for name, entry in found.items()}

    def remove(self, name: str) -> None:
        """A file or folder; nothing where it is not there."""
        with self._asking(), contextlib.suppress(FileNotFoundError):
            system, place = self._system(), self._at(name)
            self._refuse_links(system, place.rpartition("/")[0])
            system.rm(place, recursive=True)
        parts = Path(name).parts
        if parts[0] == STEPS and len(parts) > 1 and os.path.lexists(self._scratch):  # and what of it was brought here
            for brought in made(self._scratch).glob(f"brought/{parts[1]}-*"):
                shutil.rmtree(brought.joinpath(*parts[2:]), ignore_errors=True)

    @contextlib.contextmanager
    def working(self, folder: str) -> Iterator[Path]:
        """A scratch folder, which a killed try on this machine has left as it was."""
        place = self._scratch / "work" / folder
        with told(place):
            made(self._scratch)
            place.mkdir(parents=True, exist_ok=True)
        with held(self._scratch / "locks" / folder, OF_A_STEP, what=place, as_file=True, patience=PATIENCE):
            yield place

    def deliver(self, folder: str, place: Path, record: bytes, key: str) -> None:
        """Upload every finished file, then the record; the files stay here too for the steps that need them."""
        with self._asking():
            system, there = self._system(), self._at(f"{STEPS}/{folder}")
            for file in finished_files(place):
                name = file.relative_to(place).as_posix()
                system.makedirs(f"{there}/{name}".rpartition("/")[0], exist_ok=True)
                self._refuse_links(system, f"{there}/{name}")
                system.put_file(str(file), f"{there}/{name}")
        self.write(f"{STEPS}/{folder}/{RECORD}", record)
        kept = self._brought(folder, key)
        made(self._scratch)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(kept, ignore_errors=True)
        place.rename(kept)

    def bring(self, folder: str, part: str, key: str) -> Path:
        """Fetched once on this machine, whoever asks first."""
        kept, lock = self._brought(folder, key), self._scratch / "locks" / f"{folder}.brought"
        whole = kept / part
        with told(kept):
            made(self._scratch)
            kept.mkdir(parents=True, exist_ok=True)
        with held(
            lock, OF_A_STEP, what=whole, as_file=True, patience=math.inf
        ):  # however long it takes another step here to fetch it
            if not whole.exists():
                coming = kept / f"{part.replace('/', '-')}.partial"
                shutil.rmtree(coming, ignore_errors=True)
                coming.mkdir()
                with self._asking():
                    self._fetch(f"{STEPS}/{folder}/{part}", coming / "whole")
                whole.parent.mkdir(parents=True, exist_ok=True)
                (coming / "whole").rename(whole)
                coming.rmdir()
        return whole

    def _fetch(self, name: str, whole: Path) -> None:
        system, there = self._system(), self._at(name)
        for inner in list(self.sizes(name)) if system.isdir(there) else [""]:
            local, source = whole / inner if inner else whole, f"{there}/{inner}".rstrip("/")
            check_inside(local, whole)
            if _is_local(system):  # where there may be pipes, and links that lead away
                check_file(source, Path(self._at("")))
            local.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(source, str(local))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """A file that says who runs and is renewed; after a kill it counts for a minute, on the same machine not at all."""
        holder = _holder(self.read(LOCK))
        if holder is not None:
            raise OutputError(f"{self.url} is in use by {holder}. Wait for it, or give another {named('out')}.")
        by, stop = this_process(), threading.Event()

        def renew() -> None:
            while not stop.wait(_RENEWED):
                with contextlib.suppress(OutputError):  # a network that is away for a moment
                    self.write(LOCK, json.dumps({"by": by, **_now()}).encode())

        self.write(LOCK, json.dumps({"by": by, **_now()}).encode())
        renewing = threading.Thread(target=renew, daemon=True)
        renewing.start()
        try:
            yield
        finally:
            stop.set()
            renewing.join()
            with contextlib.suppress(OutputError):  # after a minute it counts no more
                self.remove(LOCK)

    def holder(self) -> str | None:
        """Who renewed the lock within the last minute."""
        return _holder(self.read(LOCK))

    def clean(self) -> None:
        """Remove the scratch folder of this machine."""
        if os.path.lexists(self._scratch):
            made(self._scratch)
        shutil.rmtree(self._scratch, ignore_errors=True)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn errors of the remote system or the network into messages."""
        try:
            yield
        except (OutputError, ForeignFileError):
            raise
        except Exception as error:  # every system has errors of its own, of which the words are all that is known
            words = (str(error).strip() or "no reason given").splitlines()[0].rstrip(".")
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
            where = f"{self._scratch} or {self.url}" if full else self.url
            raise OutputError(
                f"{where}: {words} ({type(error).__name__}). Fix the problem and run the command again; finished work "
                f"is kept."
            ) from error

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
        return scratch_of(self.url)

    def _refuse_links(self, system: Any, place: str) -> None:
        """Raise `OutputError` where a link leads out of a study's folder that is behind a URL of this machine."""
        if _is_local(system):
            check_inside(place, Path(self._at("")))

    def _brought(self, folder: str, key: str) -> Path:
        return self._scratch / "brought" / f"{folder}-{key[:12]}"


def _is_local(system: Any) -> bool:
    """Whether a URL is one of this machine's own folders."""
    return "file" in ((system.protocol,) if isinstance(system.protocol, str) else system.protocol)


def _now() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "at": time.time()}


def _holder(content: bytes | None) -> str | None:
    """Who holds the lock of a URL; None where nobody does, or he is dead."""
    try:
        found = read_json(content or b"")
        age = time.time() - float(found["at"])
        if found["host"] == socket.gethostname() and not _alive(int(found["pid"])):
            return None
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    return f"{found.get('by')} (last seen {age:.0f} s ago; valid for {_COUNTS:.0f} s)" if age < _COUNTS else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
