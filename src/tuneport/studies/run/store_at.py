"""Open the store behind a path or a URL, and check that its contents belong to the study."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from tuneport.errors import Fault, OutputError, UsageError, named
from tuneport.results.schema import RECORD, STEPS, STUDY
from tuneport.studies.run.folder_store import FolderStore
from tuneport.studies.run.store import WRITTEN, Store
from tuneport.studies.run.url_store import UrlStore


def open_store(place: str | os.PathLike[str]) -> Store:
    """The store at a path or URL. Raises `OutputError` if there can be none."""
    text = os.fspath(place)
    if not text:
        raise UsageError(Fault("out", text, "must be a folder, or a URL"))
    if "://" in text:
        store = UrlStore(text.rstrip("/"))
        store.check()
        return store
    path = Path(os.path.expanduser(text)).absolute()
    if path.exists() and not path.is_dir():
        raise OutputError(f"{named('out', text)} is a file; give a folder, or a URL.")
    return FolderStore(path)


def open_own(place: str | os.PathLike[str], name: str) -> Store:
    """The store of the study of this name. Raises `OutputError` if another study's results are there."""
    store = open_store(place)
    other = name_in(store)
    if other is None:
        _check_no_others(store)
    if other is not None and other != name:
        raise OutputError(
            f"{store.where} contains the study {other!r}, but this file declares {name!r}. Give another "
            f"{named('out')}; or, if it is the same study under another name, remove {STUDY} there."
        )
    return store


def _check_no_others(store: Store) -> None:
    """Raise `OutputError` where files that a study would write over are there, and nothing says that a study wrote them."""
    there = [name for name in (STUDY, *WRITTEN) if store.read(name) is not None]
    if there and not any(name.endswith(f"/{RECORD}") for name in store.sizes(STEPS)):
        raise OutputError(
            f"{store.where} contains {', '.join(there)} that no study wrote; they would be overwritten. Move them "
            f"away, or give another {named('out')}."
        )


def name_in(store: Store) -> Any:
    """What the file that lies there calls the study; None where none is there, or none that can be read."""
    try:
        return tomllib.loads((store.read(STUDY) or b"").decode())["study"]["name"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
