"""Check the models, data, tasks and templates that a study file names: from the lab, beside the file, or elsewhere.

A name that does not exist is a fault. If it should be a model folder, its headers are read; nothing else is opened, and
the network is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from tuneport.checkpoint.local_folder import open_folder
from tuneport.checkpoint.open_model import HUB_ID
from tuneport.errors import KEYS, TuneportError, UsageError
from tuneport.examples.naming import ENDINGS, HUB_FORM, find_data, names_data
from tuneport.families import catalogue
from tuneport.studies.file import settings
from tuneport.studies.file.toml_lines import Path as Place
from tuneport.studies.file.toml_tables import Table, Tables
from tuneport.studies.graph.study_inputs import LAB, data_beside, file_beside, folder_beside


class Names(Tables):
    """Tables whose values name things."""

    def __init__(self, folder: Path, lines: Mapping[Place, int]) -> None:
        """``folder`` is where the file lies."""
        super().__init__(lines)
        self._beside = folder

    def model(self, table: Table, key: str, path: Place, required: bool = False) -> str | None:
        """A model: the lab's, a folder, or a Hub id."""
        spec = self.text(table, key, path, required=required)
        if spec is None:
            return None
        place = (*path, key)
        folder = None if spec.startswith(LAB) else self.folder(spec)
        if spec.startswith(LAB):
            self.of_lab(spec, place, "")
        elif folder is not None:
            self.attempt(place, lambda: open_folder(folder, "model"))
        elif _is_no_hub_id(spec):
            self.fault(place, f"{spec!r}: no such folder beside the file, and not a Hub id either (org/name@revision)")
        return spec

    def rows(self, spec: str, place: Place) -> None:
        """Training data: the lab's, a file, or a data set."""
        if spec.startswith(LAB):
            self.of_lab(spec, place, ".jsonl")
        elif self.data(spec) is None and not _names_data_set(spec):
            self.fault(
                place, f"{spec!r}: no such file beside the study file, and not a data set either ({HUB_FORM}[?…])"
            )

    def task(self, spec: str, place: Place, named: bool) -> None:
        """Questions: the lab's, a file, or (where `named`) a task of the harness by name."""
        if spec.startswith(LAB):
            self.of_lab(spec, place, ".jsonl")
        elif self.data(spec) is None and not _names_data_set(spec) and (not named or names_data(spec)):
            wanted = f"give a file ({', '.join(ENDINGS)}), a data set{' or the name of a task' if named else ''}"
            self.fault(place, f"{spec!r}: no such file beside the study file; {wanted}")

    def template(self, spec: str, place: Place) -> None:
        """A chat template: the lab's, a file, or one that comes along."""
        if spec.startswith(LAB):
            self.of_lab(spec, place, ".jinja")
        elif self.file(spec) is None and spec not in settings.template_names():
            self.fault(
                place,
                f"{spec!r}: no such file beside the study file, and not one of {', '.join(settings.template_names())}",
            )

    def template_or_model(self, spec: object, place: Place) -> None:
        """One that comes along, a file, or a model that has one."""
        if not isinstance(spec, str) or not spec:
            return
        if spec.startswith(LAB):
            self.of_lab(spec, place, ".jinja")
        elif spec in settings.template_names():
            return
        elif self.file(spec) is None and self.folder(spec) is None and _is_no_hub_id(spec, ".jinja"):
            self.fault(place, f"{spec!r}: no such file or folder beside the study file, and not a Hub id either")

    def of_lab(self, spec: str, place: Place, ending: str) -> None:
        """Something that the lab makes, and of the kind that is wanted here."""
        found: list[str] = []
        self.attempt(place, lambda: found.append(catalogue.find(spec)[1]))
        if found and Path(found[0]).suffix != ending:
            wanted = {"": "a model", ".jsonl": "a file of examples", ".jinja": "a chat template"}[ending]
            self.fault(place, f"{spec!r} is {found[0]} of the lab's family, not {wanted}")

    def folder(self, spec: str) -> Path | None:
        """The folder of this name beside the file, if there is one."""
        return folder_beside(self._beside, spec)

    def file(self, spec: str) -> Path | None:
        """The file of this name beside the study's, if there is one."""
        return file_beside(self._beside, spec)

    def data(self, spec: str) -> str | None:
        """What a run is given of data in a file beside the study's, with what is chosen of it; None where there is none."""
        return data_beside(self._beside, spec)

    def as_given(self, spec: str) -> str:
        """What a run is given of training data: where the file lies, the lab's by its name, or the name as it stands."""
        found: list[str] = [spec]
        if spec.startswith(LAB):
            with suppress(TuneportError):  # told where it is read
                found.append(catalogue.find(spec)[1])
        elif (file := self.data(spec)) is not None:
            found.append(file)
        return found[-1]

    def attempt(self, place: Place, check: Callable[[], object]) -> None:
        """Note what a check of the package's own says."""
        try:
            check()
        except UsageError as error:
            told = "; ".join(fault.beside(KEYS) for fault in error.faults) or error.message(KEYS).removesuffix(".")
            self.fault(place, told.replace("\n", "\n    "))
        except TuneportError as error:
            self.fault(place, error.message(KEYS).removesuffix(".").replace("\n", "\n    "))


def _names_data_set(spec: str) -> bool:
    """Whether a name is one of a data set on the Hub; nobody is asked."""
    try:
        return find_data([spec])[0].hub is not None
    except TuneportError:
        return False


def _is_no_hub_id(spec: str, *endings: str) -> bool:
    return spec.startswith((".", "/", "~")) or spec.endswith(endings) or HUB_ID.fullmatch(spec) is None
