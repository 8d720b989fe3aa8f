"""What a section of a tokenizer.json means, independent of how a version of the library writes it.

A section is a normalizer, pre_tokenizer, post_processor, decoder, padding or truncation. Two that give every text the
same ids have the same meaning here. So a tokenizer that transformers 5 saved again equals the one that version 4 wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tuneport.errors import in_short
from tuneport.files.printable import printable_line

# Sections that may be a sequence of parts, and the member in which a sequence holds them.
SEQUENCES: Mapping[str, str] = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}
# What the tokenizers library (0.23) takes where a file does not say.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "ByteLevel": {"use_regex": True},
    "FixedLength": {"length": 5},
    "Metaspace": {"prepend_scheme": "always", "split": True},
    "Punctuation": {"behavior": "Isolated"},
    "padding": {"pad_to_multiple_of": None},
    "truncation": {"direction": "Right"},
}
# Offsets into the text are not ids, and these only move offsets; `str_rep` was never read.
_NO_IDS: Mapping[str, tuple[str, ...]] = {
    "ByteLevel": ("trim_offsets",),
    "Metaspace": ("str_rep", "add_prefix_space"),
    "RobertaProcessing": ("trim_offsets", "add_prefix_space"),
}
_PAIRS = ("sep", "cls")
_ONE_TEXT = [{"Sequence": {"id": "A", "type_id": 0}}]
_TWO_TEXTS = [*_ONE_TEXT, {"Sequence": {"id": "B", "type_id": 1}}]

# One token of a section, as (id, string); the string is empty where the section names the id alone.
Change = Callable[[int, str], tuple[Any, Any]]


def meaning(section: str, value: Any, name: Callable[[int, str], Any]) -> Any:
    """A section in a form that is equal where the meaning is; tokens appear as ``name(id, string)`` gives them."""
    if value is None:
        return None

    def named(id: int, string: str) -> tuple[Any, Any]:
        return (name(id, string),) * 2

    value = map_tokens(value, named)
    if section not in SEQUENCES:
        return {**_DEFAULTS.get(section, {}), **value} if isinstance(value, dict) else value
    parts = [_part(section, part) for part in _flat(value, SEQUENCES[section])]
    return [part for part in parts if part is not None] or None


def in_brief(section: str, value: Any) -> str:
    """A section for a message: its parts by kind, templates with their tokens, anything else cut short."""
    if section not in SEQUENCES or not isinstance(value, dict):
        return in_short(value)
    parts = " + ".join(_part_in_brief(part) for part in _flat(value, SEQUENCES[section]))
    return printable_line(parts) or "nothing"


def _part_in_brief(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "TemplateProcessing" and isinstance(part.get("single"), list):
        labels = [
            item.get("id")
            for piece in part["single"]
            if isinstance(piece, dict)
            for item in piece.values()
            if isinstance(item, dict)
        ]
        return f"{kind}({' '.join(map(str, labels))})"
    if not isinstance(kind, str):
        return in_short(part, 60)
    settings = {name: item for name, item in part.items() if name != "type"}
    return f"{kind} {in_short(settings, 60)}" if settings else kind


def map_tokens(value: Any, change: Change) -> Any:
    """A section whose tokens are changed, wherever one stands with its id: in templates, in pairs, for padding."""
    if isinstance(value, list):
        return [map_tokens(item, change) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    if kind in ("BertProcessing", "RobertaProcessing"):
        return {key: _change_pair(item, change) if key in _PAIRS else item for key, item in value.items()}
    if kind == "TemplateProcessing" and isinstance(value.get("special_tokens"), dict):
        tokens = {label: _change_entry(entry, change) for label, entry in value["special_tokens"].items()}
        return {**value, "special_tokens": tokens}
    if _is_id(value.get("pad_id")) and isinstance(value.get("pad_token"), str):
        id, string = change(value["pad_id"], value["pad_token"])
        return {**value, "pad_id": id, "pad_token": string}
    return {key: map_tokens(item, change) if isinstance(item, dict | list) else item for key, item in value.items()}


def _flat(value: Any, member: str) -> list[Any]:
    """The parts of a section in order; a sequence of sequences is one sequence."""
    if isinstance(value, dict) and value.get("type") == "Sequence" and isinstance(value.get(member), list):
        return [part for inner in value[member] for part in _flat(inner, member)]
    return [value]


def _part(section: str, part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if kind == "ByteLevel" and section == "post_processor":
        return None  # it moves offsets and adds no token
    if kind == "ByteLevel" and section in ("decoder", "normalizer"):
        return {"type": kind}  # none of its settings is read there
    if kind == "TemplateProcessing":
        return _template(part)
    if kind == "Metaspace" and "prepend_scheme" not in part and part.get("add_prefix_space") is False:
        part = {**part, "prepend_scheme": "never"}  # as version 0.13 wrote it
    if not isinstance(kind, str):
        return part
    kept = {key: item for key, item in part.items() if key not in _NO_IDS.get(kind, ())}
    return {**_DEFAULTS.get(kind, {}), **kept}


def _template(part: Mapping[str, Any]) -> Any:
    """A template with its labels spelled out, so that neither labels nor unused tokens count."""
    single, pair, tokens = part.get("single"), part.get("pair"), part.get("special_tokens")
    if not tokens and single == _ONE_TEXT and pair == _TWO_TEXTS:
        return None  # what transformers 5 writes where there was no post-processor
    return {"type": part["type"], "single": _spelled(single, tokens), "pair": _spelled(pair, tokens)}


def _spelled(pieces: Any, tokens: Any) -> Any:
    if not isinstance(pieces, list):
        return pieces
    return [_spelled_piece(piece, tokens if isinstance(tokens, dict) else {}) for piece in pieces]


def _spelled_piece(piece: Any, tokens: Mapping[str, Any]) -> Any:
    special = piece.get("SpecialToken") if isinstance(piece, dict) else None
    if not isinstance(special, dict) or not isinstance(special.get("id"), str):
        return piece
    entry = tokens.get(special["id"])
    ids = entry.get("ids") if isinstance(entry, dict) else None
    return piece if ids is None else {"tokens": ids, "type_id": special.get("type_id")}


def _change_entry(entry: Any, change: Change) -> Any:
    ids = entry.get("ids") if isinstance(entry, dict) else None
    if not isinstance(ids, list) or not all(map(_is_id, ids)):
        return entry
    strings = entry.get("tokens")
    if not isinstance(strings, list) or len(strings) != len(ids) or not all(isinstance(one, str) for one in strings):
        strings = [""] * len(ids)
    changed = [change(id, string) for id, string in zip(ids, strings, strict=True)]
    return {**entry, "ids": [id for id, _ in changed], "tokens": [string for _, string in changed]}


def _change_pair(pair: Any, change: Change) -> Any:
    if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and _is_id(pair[1])):
        return pair
    id, string = change(pair[1], pair[0])
    return [string, id]


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
