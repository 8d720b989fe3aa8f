"""The parts of a tokenizer.json beside its vocabulary: its sections, and the options of its model.

They are small values, parsed without the vocabulary and the merges beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuneport.errors import CheckpointError, in_short
from tuneport.files.printable import quoted
from tuneport.tokenizer.json_sections import SectionLayout, TokenizerText

MEMBERS = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding")
# Options of a model are in the flat table of sections as `model.dropout`.
OPTION = "model."
KIND = "model.type"
_PIECES = {"vocab", "merges"}
# What the tokenizers library (0.23) takes where a file does not say; an empty prefix or suffix is none.
_OPTION_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "BPE": {
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    },
    "Unigram": {"unk_id": None, "byte_fallback": False},
}
_DEEPEST = 64


@dataclass(frozen=True)
class Sections:
    """The sections of one tokenizer.json.

    ``values`` holds members by name and the model's options as ``model.NAME``; null is left out. ``entries`` are the
    added tokens as the file lists them. ``pieces`` is the digest of what says how pieces are made of text: the merges
    of a BPE model, the vocabulary with its scores of a Unigram model. ``layout`` is where all this lies in the file.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    entries: Sequence[Mapping[str, Any]] = ()
    pieces: str = ""
    layout: SectionLayout | None = None

    @property
    def kind(self) -> Any:
        """The model's kind (BPE, Unigram, …), or None where the file does not say."""
        return self.values.get(KIND)

    def value(self, name: str) -> Any:
        """A section or an option; where the file does not say, what the tokenizers library takes."""
        value = self.values.get(name)
        if not name.startswith(OPTION):
            return value
        option = name.removeprefix(OPTION)
        if value == "" and option in ("continuing_subword_prefix", "end_of_word_suffix"):
            value = None
        return default_options(self.kind).get(option) if value is None else value


# What the tokenizers library reads there, or null.
_OPTION_TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("unk_token", "continuing_subword_prefix", "end_of_word_suffix"), (str,)),
    **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), (bool,)),
    **dict.fromkeys(("unk_id", "max_input_chars_per_word"), (int,)),
    "dropout": (float, int),
}


def sections_of(text: TokenizerText, entries: Sequence[Mapping[str, Any]]) -> Sections:
    """The sections of a tokenizer.json whose added tokens have been read; the vocabulary is not parsed for them."""
    values = {name: text.member(name) for name in MEMBERS}
    values |= {OPTION + name: text.model_member(name) for name in text.model if name not in _PIECES}
    for name, value in values.items():
        _check_depth(value, f"{text.where}: {quoted(name)}")
        wanted = _OPTION_TYPES.get(name.removeprefix(OPTION)) if name.startswith(OPTION) else None
        if wanted is not None and value is not None and type(value) not in wanted:
            raise CheckpointError(
                f"{text.where}: {quoted(name)} is {in_short(value)}, which is not valid there. Download it again."
            )
    kind = _kind(values, text.model)
    kept = {name: value for name, value in values.items() if value is not None} | ({KIND: kind} if kind else {})
    return Sections(kept, entries, text.digest_of("vocab" if kind == "Unigram" else "merges"), text.layout)


def default_options(kind: Any) -> Mapping[str, Any]:
    """The options that a model of this kind has where its file does not say."""
    return _OPTION_DEFAULTS.get(kind, {}) if isinstance(kind, str) else {}


def _kind(values: Mapping[str, Any], model: Mapping[str, Any]) -> str | None:
    """The model's kind; files of before version 0.9 do not say it."""
    kind = values.get(KIND)
    if kind is not None:
        return kind if isinstance(kind, str) else in_short(kind)
    if "merges" in model:
        return "BPE"
    return "Unigram" if OPTION + "unk_id" in values else None


def _check_depth(value: Any, where: str, left: int = _DEEPEST) -> None:
    if isinstance(value, dict | list):
        if not left:
            raise CheckpointError(f"{where} is nested too deeply. Download it again.")
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, where, left - 1)
