"""A path or a URL becomes the store behind it."""

from __future__ import annotations

import os
from pathlib import Path

from tuneport.errors import OutputError, UsageError
from tuneport.study.folder_store import FolderStore
from tuneport.study.store import Store
from tuneport.study.url_store import UrlStore


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
