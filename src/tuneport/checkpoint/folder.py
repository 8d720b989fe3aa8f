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
LICENCE_PREFIXES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY", "COPYING")

# The largest tokenizer.json on the Hub has about 35 MB; what is larger is no tokenizer.
MAX_SIDECAR_BYTES = 128 * 2**20


@dataclass(frozen=True)
class SidecarFolder:
    """One folder's sidecars. ``role`` is base, tuned or target; ``label`` is what a person calls the model."""

    role: str
    label: str
    path: Path

    def names(self) -> list[str]:
        """Names of the sidecars that are here, sorted: known names, licences and ``*.py``, plain files only."""
        if not self.path.is_dir():
            return []
        return sorted(entry.name for entry in self.path.iterdir() if is_sidecar(entry.name) and entry.is_file())

    def has(self, name: str) -> bool:
        """Whether the sidecar ``name`` is here."""
        return (self.path / name).is_file()

    def read(self, name: str) -> bytes | None:
        """The contents of one sidecar, or None where there is none."""
        path = self.path / name
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
