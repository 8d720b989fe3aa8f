"""What a study takes from outside: existing models and data, identified by their contents.

Each name in the file gets a place, a spelling without this machine's paths, and a digest of its content. Digests are
kept by size and time of change in DIR/inputs.json, so a model is read once. Models and data on the Hub are identified
by id and revision as written.
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
from tuneport.examples.data_rows import RowReading, rows_digest
from tuneport.examples.naming import ENDINGS, apart, ending, file_of, find_data
from tuneport.examples.questions import digest_of_task, read_tasks
from tuneport.files.json_text import read_json
from tuneport.files.opening import opened
from tuneport.studies.graph.graph import EXAMPLES

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


def data_beside(folder: Path, spec: str) -> str | None:
    """A file of data that a study's file in `folder` means, if there is one, with what is chosen of it behind the ``?``."""
    for name, choice in ((spec, ""), apart(spec)):
        path = file_beside(folder, name)
        if path is not None:
            return f"{path}{choice}"
    return None


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
        self._data: dict[tuple[str, bool], Outside] = {}

    @classmethod
    def kept(cls, folder: Path, content: bytes | None) -> Inputs:
        """With the digests that inputs.json of an earlier run holds; a damaged list is written again."""
        try:
            known = read_json(content or b"{}")
        except ValueError:
            known = {}
        return cls(folder, known if isinstance(known, dict) else {})

    def record(self) -> dict[str, Any]:
        """What inputs.json holds: by spelling, size and time of each file, and the digest of them all."""
        return self._met

    def model(self, spec: str) -> Outside:
        """A folder beside the file, or a Hub id. Raises `StudyError` for a folder that is not a checkpoint."""
        if spec not in self._models:
            self._models[spec] = self._model(spec)
        return self._models[spec]

    def data(self, spec: str, questions: bool = False) -> Outside:
        """A file of examples beside the study's, or a name (a data set on the Hub, a task of the harness, a chat template).

        Examples are known by what they say: the same ones in another file, or another format, are the same input.
        """
        if (spec, questions) not in self._data:
            place = data_beside(self._folder, spec)
            if place is None:
                self._data[spec, questions] = Outside(spec, None, spec)
            else:
                path = file_of(place)
                is_data = ending(path) in ENDINGS
                digest = self._digest_of_examples(place, questions) if is_data else self._digest([path])
                self._data[spec, questions] = Outside(self._spelled(spec, path), digest, place)
        return self._data[spec, questions]

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
        choice = apart(spec)[1] if path.name != Path(spec).name else ""
        return f"{path.name}{choice}" if spec.startswith("~") or Path(spec).is_absolute() else spec

    def _digest(self, files: list[Path], folder: Path | None = None) -> str:
        """The digest of one file, or of those of a folder, by their names in it."""
        names = {file: file.name if folder is None else file.relative_to(folder).as_posix() for file in files}
        key = os.path.relpath(folder or files[0], self._folder)

        def digest() -> str:
            whole = blake3()
            for file, name in names.items():
                whole.update(f"{name}\0{_file_digest(file)}\0".encode())
            return f"blake3:{whole.hexdigest()}" if len(files) > 1 else f"blake3:{_file_digest(files[0])}"

        return self._kept(key, names, digest)

    def _digest_of_examples(self, place: str, questions: bool) -> str:
        """The digest of what a file holds: tasks of questions, or rows to train on. Raises `StudyError`."""
        (data,) = find_data([place])
        assert data.path is not None, "it is beside the study file"

        def digest() -> str:
            try:
                if questions:
                    told = "".join(map(digest_of_task, read_tasks([place])))
                    return EXAMPLES + blake3(told.encode()).hexdigest()
                return EXAMPLES + rows_digest(row for _, row in RowReading(data).rows()).partition(":")[2]
            except TuneportError as error:
                raise StudyError(str(error)) from None

        key = os.path.relpath(data.path, self._folder) + apart(place)[1]
        return self._kept(f"{key} (questions)" if questions else key, {data.path: data.path.name}, digest)

    def _kept(self, key: str, names: Mapping[Path, str], digest: Callable[[], str]) -> str:
        """A digest that an earlier run has, or one that is computed now."""
        stamps = {}
        for file, name in names.items():
            status = file.stat()
            stamps[name] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        kept = self._met.get(key) or self._known.get(key)
        if not (isinstance(kept, dict) and kept.get("files") == stamps and isinstance(kept.get("digest"), str)):
            kept = {"files": stamps, "digest": digest()}
        self._met[key] = kept
        return str(kept["digest"])


def _file_digest(file: Path) -> str:
    digest = blake3()
    with opened(file) as content:
        while piece := content.read(2**22):
            digest.update(piece)
    return digest.hexdigest()
