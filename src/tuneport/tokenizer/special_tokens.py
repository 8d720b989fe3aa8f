"""tokenizer_config.json and special_tokens_map.json of one model: the special tokens and settings that they name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tuneport.errors import CheckpointError, in_short
from tuneport.files.printable import quoted
from tuneport.tokenizer.tokenizer import decoder_entries

# What says which code reads the files, or where they lay; and what has a merge of its own.
FIXED = {
    "tokenizer_class",
    "auto_map",
    "backend",
    "is_local",
    "local_files_only",
    "transformers_version",
    "name_or_path",
    "tokenizer_file",
    "vocab_file",
    "merges_file",
    "special_tokens_map_file",
    "processor_class",
    "added_tokens_decoder",
    "chat_template",
    "init_inputs",
    "slow_tokenizer_class",
}  # fmt: skip  (one list)
MORE = "additional_special_tokens"
MORE_KEYS = ("extra_special_tokens", MORE)  # versions 5 and 4
# Roles of a model's own (`image_token`) may be in an object of roles: version 4 and 5 wrote the first, 5 the second.
ROLE_KEYS = ("extra_special_tokens", "model_specific_special_tokens")
ROLE = re.compile(r"^(?!add_).*_token$")
_GENERAL_CLASSES = ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend")  # one class under three names


@dataclass(frozen=True)
class TokenizerFiles:
    """The two small files of one tokenizer; None where there is none."""

    config: Mapping[str, Any] | None
    special: Mapping[str, Any] | None
    where: str

    def roles(self) -> dict[str, str | None]:
        """Special tokens by role (``eos_token``), as strings; None where a file says that there is none."""
        found: dict[str, str | None] = {}
        for holder in self._holders():
            for key, value in _roles_in(holder):
                content = content_of(value)
                if content is not None or (value is None and found.get(key) is None):
                    found[key] = content
        return found

    def names(self) -> list[tuple[str, str]]:
        """Every token that has a role or is listed as special, with what ``--config tokenizer.NAME`` calls its place."""
        listed = next((key for key in MORE_KEYS for one in self._holders() if one.get(key)), MORE)
        roles = [(role, token) for role, token in self.roles().items() if token is not None]
        return roles + [(listed, token) for token in self.more() or ()]

    def decoder(self) -> dict[str, dict[str, Any]]:
        """``added_tokens_decoder`` of tokenizer_config.json, by token."""
        return {entry["content"]: entry for entry in decoder_entries(self.config or {}, self.where)}

    @property
    def code(self) -> str | None:
        """The class that reads these files, under one name of versions 4 and 5; None where nothing says it."""
        name = (self.config or {}).get("tokenizer_class")
        name = name.removesuffix("Fast") if isinstance(name, str) else None
        return _GENERAL_CLASSES[0] if name in _GENERAL_CLASSES else name

    @property
    def saved_by(self) -> str | None:
        """The class of transformers 5 that saved these files; it writes sections and special tokens of its own."""
        return self.code if "backend" in (self.config or {}) else None

    def more(self) -> list[str] | None:
        """Special tokens without a role, in order; None where the files do not say."""
        found: list[str] | None = None
        for holder in self._holders():
            for key in MORE_KEYS:
                value = holder.get(key)
                if value is None or isinstance(value, dict):
                    continue  # an object names roles
                contents = [content_of(item) for item in value] if isinstance(value, list) else [None]
                if None in contents:
                    raise CheckpointError(
                        f"{self.where}: {quoted(key)} is {in_short(value, 80)}; it must be a list of tokens."
                    )
                found = list(dict.fromkeys([*(found or []), *(item for item in contents if item is not None)]))
        return found

    def settings(self) -> dict[str, Any]:
        """Everything else of tokenizer_config.json that is merged by field."""
        return {key: value for key, value in (self.config or {}).items() if not self.is_special(key)}

    def is_special(self, key: str) -> bool:
        """Whether ``key`` is a special token, or nothing to merge."""
        value = (self.config or {}).get(key)
        if key in FIXED or key.startswith("_") or key in MORE_KEYS or key in ROLE_KEYS:
            return True
        return (
            ROLE.search(key) is not None
            and not isinstance(value, bool)
            and (value is None or content_of(value) is not None)
        )

    def _holders(self) -> list[Mapping[str, Any]]:
        config, special = self.config or {}, self.special or {}
        # The map counts only for files without `added_tokens_decoder`; there it wins.
        return [special, config] if "added_tokens_decoder" in config else [config, special]


def content_of(value: Any) -> str | None:
    """The string of a special token, which is written by itself or with its flags."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _roles_in(holder: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Roles and their tokens: by themselves, and in the objects that hold a model's own."""
    for key in ROLE_KEYS:
        if isinstance(holder.get(key), dict):
            yield from holder[key].items()
    for key, value in holder.items():
        if ROLE.search(key):
            yield key, value
