"""Where a machine works on a study at a URL: a folder of the user's own, with a name that nobody else can guess.

It is below TMPDIR, where everyone may create folders. The name comes from the URL and from random bytes in the user's
cache, so every process of the user finds it again. A folder of that name that belongs to someone else, or that others
may write to, is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import tempfile
from pathlib import Path

from tuneport.errors import OutputError
from tuneport.files.opening import read_bytes

_KEY_BYTES = 32


def scratch_of(url: str) -> Path:
    """Where the scratch folder of a URL lies; it need not be there."""
    mark = hashlib.blake2b(url.encode(), key=_key(), digest_size=12).hexdigest()
    return Path(tempfile.gettempdir()) / f"tuneport-study-{os.getuid()}-{mark}"


def made(place: Path) -> Path:
    """The folder, made if it is not there. Raises `OutputError` where it is not the user's alone."""
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    status = place.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise OutputError(
            f"{place} can be used by others too, so tuneport does not use it. Remove it, or set TMPDIR to "
            "a folder of your own."
        )
    return place


def _key() -> bytes:
    """Random bytes of this user; none where there is no place to keep them, and then the name can be foreseen."""
    try:
        place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tuneport" / "scratch-key"
        if not place.exists():
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = place.with_name(f"{place.name}.{secrets.token_hex(8)}")
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
            with contextlib.suppress(FileExistsError):  # another process was first
                os.link(fresh, place)
            fresh.unlink()
        return read_bytes(place, most=_KEY_BYTES)
    except (OSError, RuntimeError):  # no home, or one that is read only; the folder's owner is still checked
        return b""
