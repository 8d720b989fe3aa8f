"""The small files beside the weights: config, tokenizer, template, licence.

In comes a folder, out come the contents of the files that tuneport knows by name, read with a bound and never
executed. A folder may be a checkpoint, a Hub snapshot in the cache, or the kept sidecars of a diff vector's parent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneport.errors import CheckpointError

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
MANNER_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
# What a tokenizer brings along: these files describe one tokenizer together, so none is taken from another folder.
TOKEN_FILES = frozenset({*TOKENIZER_FILES, *MANNER_FILES} - {"config.json", "generation_config.json"})
LICENCE_PREFIXES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY", "COPYING")

# The largest tokenizer.json on the Hub has about 35 MB; what is larger is no tokenizer.
MAX_SIDECAR_BYTES = 128 * 2**20


@dataclass(frozen=True)
class SidecarFolder:
    """One folder's sidecars. ``role`` is base, tuned or target; ``label`` is what a person calls the model.

    An adapter's folder holds few of them; ``behind`` it stands its base. The config is the base's, the tokenizer files and
    the template are the adapter's own if it has any of them (all of them then), the licence is its own alone.
    """

    role: str
    label: str
    path: Path
    behind: Path | None = None

    def names(self) -> list[str]:
        """Names of the sidecars that are here, sorted: known names, licences and ``*.py``, plain files only."""
        found = {
            entry.name
            for folder in (self.path, self.behind)
            if folder is not None and folder.is_dir()
            for entry in folder.iterdir()
            if is_sidecar(entry.name)
        }
        return sorted(name for name in found if self.has(name))

    def place(self, name: str) -> Path:
        """Where the sidecar ``name`` lies, if it is here."""
        if self.behind is None:
            return self.path / name
        if name in TOKEN_FILES:
            return (self.path if self.has_tokenizer_of_its_own else self.behind) / name
        if name == "generation_config.json":
            return (self.path if (self.path / name).is_file() else self.behind) / name
        return (self.behind if name in MANNER_FILES else self.path) / name

    @property
    def has_tokenizer_of_its_own(self) -> bool:
        """Whether tokenizer files lie in the folder itself, not only behind it."""
        return any((self.path / name).is_file() for name in TOKEN_FILES)

    def has(self, name: str) -> bool:
        """Whether the sidecar ``name`` is here."""
        return self.place(name).is_file()

    def read(self, name: str) -> bytes | None:
        """The contents of one sidecar, or None where there is none."""
        path = self.place(name)
        try:
            if path.stat().st_size > MAX_SIDECAR_BYTES:
                raise CheckpointError(f"{self.role} {self.label}: {name} has over {MAX_SIDECAR_BYTES} bytes.")
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise CheckpointError(f"{self.role} {self.label}: {name} cannot be read: {error.strerror}.") from None

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
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.role} {self.label}: {name} is not valid JSON ({error}).") from None
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.role} {self.label}: {name} holds no JSON object.")
        return value


def is_sidecar(name: str) -> bool:
    """Whether a file of this name may travel with weights (SEMANTICS: output files are an allow-list)."""
    if name in TOKENIZER_FILES or name in MANNER_FILES:
        return True
    return name.upper().startswith(LICENCE_PREFIXES) or (name.endswith(".py") and not name.startswith("."))
