"""How the output's tokenizer differs from the target's, and what this changes in the small files that name tokens.

A tokenizer_config.json or a special token, as JSON values, gets its renamed and added tokens. An id that the target
gave to a token is never given to another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ENTRY_DEFAULTS: Mapping[str, Any] = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": False,
}


@dataclass(frozen=True)
class AddedToken:
    """A token of the tuned model that the output gains.

    ``id`` is its id in the output, ``entry`` its properties as the tuned tokenizer has them; empty for a piece of
    the tuned model's vocabulary proper, which no list of added tokens names.
    """

    token: str
    id: int
    entry: Mapping[str, Any]


@dataclass(frozen=True)
class TokenChanges:
    """How the output's tokenizer differs from the target's.

    ``renamed`` holds (old string, new string), in place with the same id. ``entries`` holds, by string and with
    their ids in the output, the tokens that every list of added tokens must spell out: renamed ones as the tuned
    model has them, and, where tokens are added, all that come before them.
    """

    renamed: tuple[tuple[str, str], ...] = ()
    added: tuple[AddedToken, ...] = ()
    entries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is any difference."""
        return bool(self.renamed or self.added or self.entries)

    @property
    def renamed_entries(self) -> dict[str, str]:
        """New names by old ones, of added tokens: sections of a tokenizer.json may name these."""
        return {old: new for old, new in self.renamed if new in self.entries}


def edit_added_tokens_decoder(config: dict[str, Any], changes: TokenChanges) -> dict[str, Any]:
    """A tokenizer_config.json whose ``added_tokens_decoder``, if it has one, fits the output's tokenizer."""
    decoder = config.get("added_tokens_decoder")
    if not changes or not isinstance(decoder, dict):
        return config
    entries = [{**entry, "id": int(id)} for id, entry in decoder.items()]
    edited = {
        str(entry["id"]): {name: value for name, value in entry.items() if name != "id"}
        for entry in edit_entries(entries, changes)
    }
    return {**config, "added_tokens_decoder": edited}


def edit_entries(entries: list[dict[str, Any]], changes: TokenChanges) -> list[dict[str, Any]]:
    """A list of added tokens, each ``{"id", "content", "special", …}``, as the output has it."""
    names = dict(changes.renamed)
    edited: dict[str, dict[str, Any]] = {}
    for entry in entries:
        content = names.get(entry["content"], entry["content"])
        edited[content] = {**entry, "content": content}
    for content, given in changes.entries.items():
        edited[content] = {**edited.get(content, {"id": given["id"]}), **_properties(content, given)}
    for token in changes.added:
        if token.entry:
            edited[token.token] = {"id": token.id, **_properties(token.token, token.entry)}
    return list(edited.values())


def rename_everywhere(value: Any, names: Mapping[str, str], labels: bool = True) -> Any:
    """A special token, a list or mapping of them, or a section of a tokenizer.json, by their names in the output.

    ``names`` has new strings by old ones. With ``labels`` keys are renamed too, as those of templates, and kinds of parts stay.
    """
    if not names:
        return value
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, list):
        return [rename_everywhere(item, names, labels) for item in value]
    if isinstance(value, dict):
        kept = "type" if labels else None
        items = ((key, item if key == kept else rename_everywhere(item, names, labels)) for key, item in value.items())
        return {names.get(key, key) if labels else key: item for key, item in items}
    return value


def _properties(content: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"content": content, **{name: entry.get(name, default) for name, default in ENTRY_DEFAULTS.items()}}
