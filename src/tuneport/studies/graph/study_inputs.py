"""What a study takes from outside: models and data that are there already, known by what they hold.

In comes a name as the file spells it, out comes where it lies, a spelling without this machine's paths, and a digest of its
content. Digests are kept by size and time of change in DIR/inputs.json, so that a model is read once. What lies on the Hub is
known by its id and revision as written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from tuneport.checkpoint.local_folder import open_folder
from tuneport.errors import StudyError, TuneportError
from tuneport.files.json_text import read_json
from tuneport.files.opening import opened

NAME = "inputs.json"
LAB = "lab:"


@dataclass(frozen=True)
class Outside:
    """A model, file or name that no step makes: as choices spell it, its digest, and where it lies (or its name)."""

    given: str
    digest: str | None
    place: str

    @property
    def choice(self) -> dict[str, str | None]:
        """What counts for the identity of a step that takes it."""
        return {"given": self.given, "digest": self.digest}


def folder_beside(folder: Path, spec: str) -> Path | None:
    """The folder that a study's file in `folder` means, if there is one. No name is an error."""
    return _there(folder, spec, Path.is_dir)


def file_beside(folder: Path, spec: str) -> Path | None:
    """The file that a study's file in `folder` means, if there is one. No name is an error."""
    return _there(folder, spec, Path.is_file)


def _there(folder: Path, spec: str, is_there: Callable[[Path], bool]) -> Path | None:
    path = folder.absolute() / os.path.expanduser(spec)
    try:
        return path if is_there(path) else None
    except (OSError, ValueError):  # too long, or no name of a file at all
        return None


class Inputs:
    """Finds and digests what `folder`, where the study's file lies, and the Hub hold."""

    def __init__(self, folder: Path, known: Mapping[str, Any] | None = None) -> None:
        """Begin with the digests that an earlier run `known`."""
        self._folder = folder
        self._known: dict[str, Any] = dict(known or {})
        self._met: dict[str, Any] = {}
        self._models: dict[str, Outside] = {}
        self._data: dict[str, Outside] = {}

    @classmethod
    def kept(cls, folder: Path, content: bytes | None) -> Inputs:
        """With the digests that inputs.json of an earlier run holds; a damaged list is made anew."""
        try:
            known = read_json(content or b"{}")
        except ValueError:
            known = {}
        return cls(folder, known if isinstance(known, dict) else {})

    def record(self) -> dict[str, Any]:
        """What inputs.json holds: by spelling, size and time of each file, and the digest of them all."""
        return self._met

    def model(self, spec: str) -> Outside:
        """A folder beside the file, or a Hub id. Raises `StudyError` for a folder that is no checkpoint."""
        if spec not in self._models:
            self._models[spec] = self._model(spec)
        return self._models[spec]

    def data(self, spec: str) -> Outside:
        """A file beside the study's, or a name (a data set on the Hub, a task of the harness, a chat template)."""
        if spec not in self._data:
            path = file_beside(self._folder, spec)
            place = None if path is None else (self._spelled(spec, path), self._digest([path]), str(path))
            self._data[spec] = Outside(spec, None, spec) if place is None else Outside(*place)
        return self._data[spec]

    def _model(self, spec: str) -> Outside:
        path = folder_beside(self._folder, spec)
        if path is None:
            return Outside(spec, None, spec)
        try:
            checkpoint = open_folder(path, "model")
            names = sorted({*checkpoint.files, *checkpoint.sidecars.names()} - {"README.md"})
        except TuneportError as error:
            raise StudyError(f"{spec}: {error}") from None
        return Outside(self._spelled(spec, path), self._digest([path / name for name in names], path), str(path))

    def _spelled(self, spec: str, path: Path) -> str:
        """As the file has it, unless that would tell where it lies on this machine."""
        return path.name if spec.startswith("~") or Path(spec).is_absolute() else spec

    def _digest(self, files: list[Path], folder: Path | None = None) -> str:
        """The digest of one file, or of those of a folder, by their names in it."""
        names = {file: file.name if folder is None else file.relative_to(folder).as_posix() for file in files}
        stamps = {}
        for file, name in names.items():
            status = file.stat()
            stamps[name] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        key = os.path.relpath(folder or files[0], self._folder)
        kept = self._met.get(key) or self._known.get(key)
        if isinstance(kept, dict) and kept.get("files") == stamps and isinstance(kept.get("digest"), str):
            self._met[key] = kept
            return str(kept["digest"])
        whole = blake3()
        for file, name in names.items():
            whole.update(f"{name}\0{_file_digest(file)}\0".encode())
        digest = f"blake3:{whole.hexdigest()}" if len(files) > 1 else f"blake3:{_file_digest(files[0])}"
        self._met[key] = {"files": stamps, "digest": digest}
        return digest


def _file_digest(file: Path) -> str:
    digest = blake3()
    with opened(file) as content:
        while piece := content.read(2**22):
            digest.update(piece)
    return digest.hexdigest()
