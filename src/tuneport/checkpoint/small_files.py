"""Read the small files beside the weights: config, tokenizer, template, licence.

Only files that tuneport knows by name are read, up to a size limit, and none is executed. The folder may be a
checkpoint, a Hub snapshot in the cache, or the files that a diff vector keeps of a parent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from tuneport.errors import CheckpointError
from tuneport.files.json_text import check_text, read_json
from tuneport.files.opening import MOST_SIDECAR_BYTES, check_file, opened, read_bytes, read_in_words
from tuneport.files.printable import printable_line

MORE_TEMPLATES = "additional_chat_templates"
JOURNAL = "journal.jsonl"  # of a folder that is still written
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "qwen.tiktoken",
)
BEHAVIOUR_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
# Beside a vocabulary these say more of it; alone they are none.
_BESIDE_A_VOCABULARY = ("merges.txt", "added_tokens.json")
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
_SETTINGS, _SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
# How images, sound and video become what a multimodal model reads.
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
# How sentence-transformers makes an embedding of what a model says; each module has a folder of its own.
MODULES, EMBEDDING_CONFIG, TRANSFORMER_CONFIG = (
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
)
MODULE_FOLDER = re.compile(r"\d{1,2}_[A-Za-z]\w{0,60}")
LICENCE_PREFIXES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY", "COPYING")

# The largest of these are settings that list every added token, and adapters' settings with a pattern for each of a hundred thousand modules.
_MAX_OTHER_BYTES = 32 * 2**20


@dataclass(frozen=True)
class SidecarFolder:
    """One folder's sidecars. ``role`` is base, tuned or target; ``label`` is what a person calls the model.

    A sidecar is a plain file inside ``path`` (or ``within``, where the folder is a part of another), in ``behind``, or in
    the Hub's cache: whatever asks for another kind of file, or for one that a link leads to elsewhere, raises `CheckpointError`.

    An adapter's folder has few of them; ``behind`` is its base. The config is the base's, the licence only the
    adapter's own; of the rest (the vocabulary's files together, the settings, the template, the generation config) each
    is the adapter's where its folder has it, and else the base's. ``made`` are files that are on no disk, by name.
    """

    role: str
    label: str
    path: Path
    behind: Path | None = None
    made: Mapping[str, bytes] = field(default_factory=dict)
    within: Path | None = None

    def names(self) -> list[str]:
        """Names of the sidecars that are here, sorted: known names, licences and ``*.py``, plain files only.

        Of folders inside, those of modules are looked into, and no link is followed.
        """
        found = set()
        for folder in (self.path, self.behind):
            for entry in folder.iterdir() if folder is not None and folder.is_dir() else ():
                module = MODULE_FOLDER.fullmatch(entry.name) and not entry.is_symlink()
                found.add(module_config(entry.name) if module else entry.name)
        names = sorted(name for name in found | self.made.keys() if is_sidecar(name) and self.has(name))
        check_names(names, f"{self.role} {self.label}")
        return names

    def place(self, name: str) -> Path:
        """Where the sidecar ``name`` lies, if it is here and lies anywhere."""
        return self._where(name)[0]

    def content(self, name: str) -> bytes | Path:
        """The sidecar ``name``, which is here: its place, or its contents where it lies nowhere."""
        return self.made[name] if name in self.made else self.place(name)

    @property
    def has_own_vocabulary(self) -> bool:
        """Whether the folder itself has a vocabulary, not only the base behind it."""
        return any(self._holds(name) for name in TOKENIZER_FILES if name not in _BESIDE_A_VOCABULARY)

    @property
    def has_own_template(self) -> bool:
        """Whether the folder itself has a chat template."""
        return any(map(self._holds, _TEMPLATE_FILES)) or (
            self._holds(_SETTINGS) and bool((self.json(_SETTINGS) or {}).get("chat_template"))
        )

    def _holds(self, name: str) -> bool:
        return self._is_there(self.path / name, self.within or self.path)

    def _is_own(self, name: str) -> bool:
        """Whether a sidecar of an adapter is its own, and not its base's: files that say one thing are not mixed."""
        if name in TOKENIZER_FILES:
            return self.has_own_vocabulary
        if name in _TEMPLATE_FILES:
            return self.has_own_template or (self.has_own_vocabulary and self._holds(_SETTINGS))
        if name == _SPECIAL:
            return self._holds(name) or self._holds(_SETTINGS)
        if name in (_SETTINGS, "generation_config.json") or _is_companion(name):
            return self._holds(name)
        return name not in BEHAVIOUR_FILES

    def has(self, name: str) -> bool:
        """Whether the sidecar ``name`` is here."""
        return name in self.made or self._is_there(*self._where(name))

    def _where(self, name: str) -> tuple[Path, Path]:
        """The path of a sidecar, if there is one, and the folder that it must stay in."""
        if self.behind is None or self._is_own(name):
            return self.path / name, self.within or self.path
        return self.behind / name, self.behind

    def _is_there(self, path: Path, root: Path) -> bool:
        with self._told(path.name):
            return check_file(path, root)

    def _told(self, name: str) -> AbstractContextManager[None]:
        return read_in_words(f"{self.role} {self.label}: {name}")

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """The sidecar ``name``, which is here, open for reading in pieces."""
        if name in self.made:
            yield BytesIO(self.made[name])
            return
        with self._told(name), opened(*self._where(name), most_bytes(name)) as file:
            yield file

    def read(self, name: str) -> bytes | None:
        """The contents of one sidecar, or None where there is none."""
        if name in self.made:
            return self.made[name]
        place, root = self._where(name)
        if not self._is_there(place, root):
            return None
        with self._told(name):
            return read_bytes(place, root, most_bytes(name))

    def text(self, name: str) -> str | None:
        """One sidecar as UTF-8 text, or None where there is none."""
        content = self.read(name)
        try:
            return None if content is None else content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.role} {self.label}: {name} is not UTF-8 text ({error}).") from None

    def json(self, name: str) -> dict[str, Any] | None:
        """One sidecar as a JSON object, or None where there is none."""
        text = self.text(name)
        if text is None:
            return None
        try:
            value = read_json(text)
        except ValueError as error:
            raise CheckpointError(f"{self.role} {self.label}: {name} is not valid JSON ({error}).") from None
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.role} {self.label}: {name} must be a JSON object.")
        if name == "config.json":
            _check_kinds(value, f"{self.role} {self.label}: {name}")
        return value


def _check_kinds(config: Mapping[str, Any], where: str, prefix: str = "") -> None:
    """Raise where a ``model_type``, by which tables are asked, is not a string; those of sub-configs too."""
    kind = config.get("model_type")
    if kind is not None and not isinstance(kind, str):
        raise CheckpointError(f"{where}: `{prefix}model_type` must be a string. Download it again, or correct it.")
    for name, inner in config.items():
        if isinstance(inner, dict):
            _check_kinds(inner, where, f"{prefix}{name}.")


def check_names(names: Iterable[str], where: str) -> None:
    """Raise `CheckpointError` where a file that would be read or copied has a name that no manifest can hold."""
    for name in names:
        try:
            check_text(name)
        except ValueError:
            raise CheckpointError(
                f"{where}: the name of the file {printable_line(name)} is not UTF-8. Rename it."
            ) from None


def most_bytes(name: str) -> int:
    """How large a sidecar of this name may be."""
    return MOST_SIDECAR_BYTES if name in TOKENIZER_FILES else _MAX_OTHER_BYTES


def module_config(folder: str) -> str:
    """The name of the config of a module of sentence-transformers."""
    return f"{folder}/config.json"


def is_sidecar(name: str) -> bool:
    """Whether a file of this name may be copied with weights (SEMANTICS: output files are an allow-list)."""
    if name in TOKENIZER_FILES or name in BEHAVIOUR_FILES or _is_companion(name):
        return True
    if "/" in name:
        return False
    return name.upper().startswith(LICENCE_PREFIXES) or (name.endswith(".py") and not name.startswith("."))


def _is_companion(name: str) -> bool:
    """Whether a file says how a model is fed, or what is made of what it says."""
    if name in PROCESSOR_FILES or name in (MODULES, EMBEDDING_CONFIG, TRANSFORMER_CONFIG):
        return True
    folder, separator, _ = name.partition("/")
    return bool(separator) and name == module_config(folder) and MODULE_FOLDER.fullmatch(folder) is not None
