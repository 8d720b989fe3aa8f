"""Download a study from a URL while its page is made: only the small files that a page reads.

A path, or a URL that fsspec knows, becomes a local folder.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuneport.errors import ReportError
from tuneport.files.opening import MOST_RECORD_BYTES, read_object
from tuneport.results.schema import EXAMPLES, RECORD, RESULTS, STEPS, STUDY
from tuneport.results.torn_json import is_folder

_LOCAL = "file://"


def url_of(study: str | os.PathLike[str]) -> str | None:
    """The URL, where it is one that leads away from this machine's own folders."""
    text = os.fspath(study)
    return text.rstrip("/") if "://" in text and not text.startswith(_LOCAL) else None


@contextmanager
def at_hand(study: str | os.PathLike[str]) -> Iterator[Path]:
    """The study's folder, or what a page needs of it in a folder that lasts as long. Raises `ReportError`."""
    url = url_of(study)
    if url is None:
        yield Path(os.fspath(study).removeprefix(_LOCAL)).expanduser()
        return
    with tempfile.TemporaryDirectory(prefix="tuneport-report-") as folder:
        try:
            _bring(url, Path(folder))
        except ReportError:
            raise
        except Exception as error:  # every system has errors of its own, of which the words are all that is known
            words = (str(error).strip() or "no reason given").splitlines()[0].rstrip(".")
            raise ReportError(
                f"{url}: {words} ({type(error).__name__}). Fix the problem and run the command again, or copy the "
                f"study's folder here."
            ) from error
        yield Path(folder)


def _bring(url: str, folder: Path) -> None:
    system, root = _opened(url)
    for name in (RESULTS, STUDY, *_in_steps(system, f"{root}/{STEPS}")):
        try:
            content = read_object(system, f"{root}/{name}", MOST_RECORD_BYTES)
        except FileNotFoundError:
            continue  # what a study lacks, its page says
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def _opened(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ReportError(
            f"{url}: {error}. Such URLs need a package of their own (s3:// s3fs, gs:// gcsfs, …): install it, or copy the "
            "study's folder here."
        ) from None
    return system, str(root).rstrip("/")


def _in_steps(system: Any, steps: str) -> Iterator[str]:
    """Records and outcomes, by names relative to the study's folder; other names lead nowhere."""
    for place in sorted(system.find(steps)):
        folder, _, name = place.removeprefix(f"{steps}/").partition("/")
        if is_folder(folder) and name in (RECORD, EXAMPLES):
            yield f"{STEPS}/{folder}/{name}"
