"""Read tokenizers as tables: which string has which id, as in AutoTokenizer.

From a folder with tokenizer.json, or vocab.json and merges.txt, or vocab.txt, with the additions of added_tokens.json
and tokenizer_config.json. The ids are those of the tokenizers library, only the vocabulary is parsed, and a malformed
file gives one clear error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

from blake3 import blake3

from tuneport.checkpoint.small_files import TOKENIZER_FILES, SidecarFolder
from tuneport.errors import CheckpointError, PairingError, named
from tuneport.files.opening import content_digest
from tuneport.libraries import install_line
from tuneport.tokenizer.json_sections import TokenizerText, first_members, locate_sections, parse_json
from tuneport.tokenizer.parsed_sections import Sections, sections_of
from tuneport.tokenizer.sentencepiece_model import pieces
from tuneport.tokenizer.token_changes import ENTRY_DEFAULTS

# transformers adds the tokens it finds under these names, in this order, when the vocabulary lacks them.
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_EXTRA = ("extra_special_tokens", "additional_special_tokens")
_LARGEST_ID = 2**31 - 1


@dataclass(frozen=True)
class Tokenizer:
    """One tokenizer's vocabulary.

    ``ids`` by token string, added tokens included; ``added`` holds these with their entries, and ``beyond`` names
    those of them that stand outside the model's own vocabulary. Not ``whole``: there are others that could not be read.
    ``sections`` is what tokenizer.json says beside its vocabulary; None where there is no such file.
    """

    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]
    beyond: frozenset[str] = frozenset()
    whole: bool = True
    sections: Sections | None = field(default=None, repr=False, compare=False)

    @cached_property
    def size(self) -> int:
        """The highest id and one: the next id that is free."""
        return max(self.ids.values(), default=-1) + 1

    @cached_property
    def _tokens(self) -> dict[int, str]:
        return {id: token for token, id in self.ids.items()}

    def token(self, id: int) -> str | None:
        """The string of an id, or None where the tokenizer has none for it."""
        return self._tokens.get(id)


@dataclass(frozen=True)
class Parsed:
    """What was parsed of several tokenizer.json, by digest: what two of them share is parsed once."""

    files: dict[str, tuple[dict[str, int], Sections]] = field(default_factory=dict)
    vocabularies: dict[str, dict[str, int]] = field(default_factory=dict)


def read_tokenizer(folder: SidecarFolder, parsed: Parsed | None = None) -> Tokenizer:
    """The vocabulary of a folder's tokenizer, read without torch; ``parsed`` is what was read of others before.

    `PairingError` for kinds that cannot be read so, `CheckpointError` for malformed files.
    """
    where = f"{folder.role} {folder.label}"
    sections: Sections | None = None
    if folder.has("tokenizer.json"):
        ids, sections = _read_json(folder, parsed or Parsed())
        entries = list(sections.entries)
    elif is_readable(folder):
        ids = read_plain_vocabulary(folder)
        entries = []
    else:
        found = ", ".join(name for name in TOKENIZER_FILES if folder.has(name))
        raise PairingError(
            f"{where} has {f'only {found}' if found else 'no tokenizer files'}: token strings can only be read from "
            "tokenizer.json, from vocab.json with merges.txt, or from vocab.txt. Put the model's tokenizer.json "
            "there (`AutoTokenizer.from_pretrained(DIR).save_pretrained(NEW)` writes one; to read a tokenizer.model, "
            f"first {install_line('models')}) to match rows with {named('vocabulary', 'strings')}; or, if you know "
            f"that the three vocabularies agree row by row, pass {named('vocabulary', 'positions')}."
        )
    _check_ids(ids, f"{where}: the vocabulary")
    pieces = len(ids)
    added = assign_added(ids, entries, entries_elsewhere(folder))
    if len(ids) > pieces:
        _check_ids(ids, f"{where}: the vocabulary with its added tokens")
    return Tokenizer(ids, added, frozenset(islice(ids, pieces, None)), sections=sections)


def added_tokens_by_id(folder: SidecarFolder) -> dict[int, str]:
    """The added tokens that a folder's files list, by id; the vocabulary is not looked at."""
    entries = [*_first_entries(folder), *entries_elsewhere(folder)]
    return {entry["id"]: entry["content"] for entry in entries if "id" in entry}


def read_sections(folder: SidecarFolder) -> Sections | None:
    """What the folder's tokenizer.json says beside its vocabulary, which is not parsed; None where there is none."""
    text = tokenizer_text(folder)
    return None if text is None else sections_of(text, read_added_entries(text))


def _read_json(folder: SidecarFolder, parsed: Parsed) -> tuple[dict[str, int], Sections]:
    """The vocabulary of a tokenizer.json (a dict of one's own) and its sections."""
    file = file_digest(folder, "tokenizer.json")
    if file not in parsed.files:
        text = tokenizer_text(folder)
        assert text is not None
        sections = sections_of(text, read_added_entries(text))
        vocabulary = text.digest_of("vocab")
        if vocabulary not in parsed.vocabularies:
            parsed.vocabularies[vocabulary] = read_vocabulary(text)
        parsed.files[file] = parsed.vocabularies[vocabulary], sections
    ids, sections = parsed.files[file]
    return dict(ids), sections


def read_listed_tokens(folder: SidecarFolder) -> Tokenizer:
    """What can be known of a tokenizer of any kind: its vocabulary, the pieces of a tokenizer.model, or the tokens listed elsewhere.

    For rows that match by position, where nothing depends on it but the names in messages and settings: what is broken or
    cannot be read is left out.
    """
    try:
        return read_tokenizer(folder)
    except (CheckpointError, PairingError):
        pass  # of another kind, or broken; the lists beside it may still tell
    try:
        entries = entries_elsewhere(folder)
    except CheckpointError:
        return Tokenizer({}, {}, whole=False)
    found = pieces(folder.read("tokenizer.model") or b"")
    ids = {piece: id for id, piece in reversed(list(enumerate(found or [])))}
    count = len(ids)
    # Classes without a tokenizer.json take the ids that are listed; a token that is only named gets the next free one.
    named = entries if found is not None else [entry for entry in entries if "id" in entry]
    following = max([count, *(entry["id"] + 1 for entry in named if "id" in entry)])
    for entry in named:
        if entry["content"] not in ids:
            ids[entry["content"]] = entry.get("id", following)
            following += "id" not in entry
    added = {entry["content"]: {**ENTRY_DEFAULTS, **entry, "id": ids[entry["content"]]} for entry in named}
    return Tokenizer(ids, added, frozenset(islice(ids, count, None)), whole=found is not None)


def tokenizer_fingerprint(folder: SidecarFolder) -> dict[str, str]:
    """BLAKE3 of each file that decides token ids, by name; equal fingerprints give every token the same id.

    Beside a tokenizer.json the older formats decide nothing and are left out, and tokenizer_config.json counts
    only where it names tokens that tokenizer.json does not add (a chat template changes no id).
    """
    fingerprint = _file_digests(folder)
    elsewhere = entries_elsewhere(folder) if fingerprint else []
    if elsewhere and folder.has("tokenizer.json"):
        known = _added_contents(folder)
        elsewhere = [entry for entry in elsewhere if entry["content"] not in known]
    if elsewhere:
        fingerprint["tokenizer_config.json"] = blake3(_said(elsewhere)).hexdigest()
    return fingerprint


def tokenizers_agree(folders: Sequence[SidecarFolder]) -> bool:
    """Whether all folders have the same fingerprint; nothing is parsed where the files alone show it."""
    files = [_file_digests(folder) for folder in folders]
    if any(digests != files[0] for digests in files):
        return False
    elsewhere = [_said(entries_elsewhere(folder)) for folder in folders] if files[0] else []
    if all(said == elsewhere[0] for said in elsewhere):
        return True
    prints = [tokenizer_fingerprint(folder) for folder in folders]
    return all(fingerprint == prints[0] for fingerprint in prints)


def is_readable(folder: SidecarFolder) -> bool:
    """Whether token strings can be read from this folder without torch or sentencepiece."""
    if folder.has("tokenizer.json") or (folder.has("vocab.json") and folder.has("merges.txt")):
        return True
    found = {name for name in TOKENIZER_FILES if folder.has(name)}
    return "vocab.txt" in found and found <= {"vocab.txt", "added_tokens.json"}


def tokenizer_text(folder: SidecarFolder, sections: Sections | None = None) -> TokenizerText | None:
    """The folder's tokenizer.json with its sections located, or None where there is none; ``sections`` if known."""
    data = folder.read("tokenizer.json")
    if data is None:
        return None
    layout = None if sections is None else sections.layout
    return locate_sections(data, f"{folder.role} {folder.label}: tokenizer.json", layout)


def read_vocabulary(text: TokenizerText) -> dict[str, int]:
    """Ids by string in a tokenizer.json's model: an object (BPE, WordPiece, WordLevel) or a list (Unigram)."""
    vocab = text.model_member("vocab")
    if isinstance(vocab, dict):
        return vocab
    if not isinstance(vocab, list) or not all(_is_scored_piece(pair) for pair in vocab):
        raise CheckpointError(f"{text.where}: the vocabulary must be an object or a list of [piece, score].")
    return {pair[0]: index for index, pair in enumerate(vocab)}


def read_added_entries(text: TokenizerText) -> list[dict[str, Any]]:
    """The added tokens of a tokenizer.json, in its order."""
    entries = text.member("added_tokens")
    return check_entries([] if entries is None else entries, f"{text.where}: added_tokens")


def check_entries(entries: Any, where: str) -> list[dict[str, Any]]:
    """A list of added tokens that has the form it must have."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CheckpointError(f"{where} is not a list of tokens with their properties. Download it again.")
    for entry in entries:
        if not isinstance(entry.get("content"), str):
            raise CheckpointError(f"{where} has a token without content. Download it again.")
    _check_ids({entry["content"]: entry.get("id") for entry in entries}, where)
    return entries


def assign_added(ids: dict[str, int], *batches: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Give added tokens their ids, into ``ids``, and return their entries by string.

    The rule is the tokenizers library's (0.23), which does not look at the ids that are written beside the tokens:
    a string of the vocabulary keeps its id there, any other gets the next one after the vocabulary's count, or
    after the highest that an earlier batch gave. Entries without an id only name a token, and change nothing about
    one that is there.
    """
    size = len(ids)
    added: dict[str, dict[str, Any]] = {}
    for batch in batches:
        following = max(size, *(ids[token] + 1 for token in added)) if added else size
        for entry in batch:
            content = entry["content"]
            if not content or ("id" not in entry and content in added):
                continue
            if content not in ids:
                ids[content] = following
                following += 1
            added[content] = {**ENTRY_DEFAULTS, **added.get(content, {}), **entry, "id": ids[content]}
    return added


def read_plain_vocabulary(folder: SidecarFolder) -> dict[str, int]:
    """Ids by string as vocab.json, else vocab.txt has them."""
    where = f"{folder.role} {folder.label}"
    if folder.has("vocab.json"):
        vocab = parse_json(folder.read("vocab.json") or b"", f"{where}: vocab.json")
        if not isinstance(vocab, dict):
            raise CheckpointError(f"{where}: vocab.json must be a JSON object. Download it again.")
        return vocab
    lines = (folder.text("vocab.txt") or "").removesuffix("\n").split("\n")
    return {line.rstrip("\r"): index for index, line in enumerate(lines)}


def entries_elsewhere(folder: SidecarFolder) -> list[dict[str, Any]]:
    """Tokens that added_tokens.json and tokenizer_config.json add, in the order in which AutoTokenizer does."""
    where = f"{folder.role} {folder.label}"
    config = folder.json("tokenizer_config.json") or {}
    entries: list[dict[str, Any]] = []
    if "added_tokens_decoder" in config:
        entries = decoder_entries(config, where)
    else:
        config = {**config, **(folder.json("special_tokens_map.json") or {})}
        special = {entry["content"] for entry in _named_entries(config)}
        for content, id in (folder.json("added_tokens.json") or {}).items():
            kind = {"special": content in special, "normalized": content not in special}
            entries.append({"id": id, "content": content, **kind})
        check_entries(entries, f"{where}: added_tokens.json")
    entries.sort(key=lambda entry: int(entry["id"]))
    return entries + list(_named_entries(config))


def decoder_entries(config: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The ``added_tokens_decoder`` of a tokenizer_config.json, as a list of tokens with their ids."""
    decoder = config.get("added_tokens_decoder", {})
    listed = f"{where}: added_tokens_decoder in tokenizer_config.json"
    if not isinstance(decoder, dict) or not all(isinstance(entry, dict) for entry in decoder.values()):
        raise CheckpointError(f"{listed} must be an object of tokens with their properties. Download it again.")
    if not all(id.isascii() and id.isdigit() and len(id) < 12 for id in decoder):
        raise CheckpointError(f"{listed} has a key that is not an id. Download it again.")
    return check_entries([{**entry, "id": int(id)} for id, entry in decoder.items()], listed)


def _named_entries(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    others = [name for name in config if name.endswith("_token") and name not in _NAMED]
    values = [config.get(name) for name in (*_NAMED, *others)]
    extra = next((config[name] for name in _EXTRA if config.get(name)), None)
    if isinstance(extra, dict):
        values += extra.values()
    elif isinstance(extra, list):
        values += extra
    for value in values:
        if isinstance(value, dict) and isinstance(value.get("content"), str):
            known = {name: value[name] for name in ENTRY_DEFAULTS if name in value}
            yield {**known, "content": value["content"], "special": True}
        elif isinstance(value, str):
            yield {"content": value, "special": True}


def _is_scored_piece(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and type(pair[1]) in (int, float)


def _file_digests(folder: SidecarFolder) -> dict[str, str]:
    names = ("tokenizer.json",) if folder.has("tokenizer.json") else TOKENIZER_FILES
    return {name: file_digest(folder, name) for name in names if folder.has(name)}


def _said(entries: Iterable[Mapping[str, Any]]) -> bytes:
    return "\0".join(f"{entry.get('id')} {entry['content']}" for entry in entries).encode("utf-8", errors="replace")


def _added_contents(folder: SidecarFolder) -> set[str]:
    try:
        return {entry["content"] for entry in _first_entries(folder)}
    except CheckpointError:
        return set()  # whoever reads this tokenizer will say so; identical ones are never read


def _first_entries(folder: SidecarFolder) -> list[dict[str, Any]]:
    """The added tokens of a tokenizer.json, which stand before its vocabulary as a rule."""
    where = f"{folder.role} {folder.label}: tokenizer.json"
    data = folder.read("tokenizer.json")
    members = {} if data is None else first_members(data, where, "added_tokens")
    return check_entries(members.get("added_tokens") or [], f"{where}: added_tokens")


def file_digest(folder: SidecarFolder, name: str) -> str:
    """BLAKE3 of one sidecar that is here."""
    with folder.opened(name) as file:
        return content_digest(file)


def _check_ids(ids: Mapping[str, Any], where: str) -> None:
    """Refuse invalid ids, and an id that two strings share."""
    values = ids.values()
    if not set(map(type, values)) <= {int} or min(values, default=0) < 0 or max(values, default=0) > _LARGEST_ID:
        wrong = (item for item in ids.items() if type(item[1]) is not int or not 0 <= item[1] <= _LARGEST_ID)
        token, id = next(wrong)
        raise CheckpointError(
            f"{where} gives {token!r} the id {str(id)[:40]}, which is not a valid id. Download it again."
        )
    if len(set(values)) == len(values):
        return
    first: dict[int, str] = {}
    for token, id in ids.items():
        if id in first:
            raise CheckpointError(
                f"{where} gives the id {id} to both {first[id]!r} and {token!r}, so their rows cannot be "
                f"distinguished. Correct the file, or pass {named('vocabulary', 'positions')}."
            )
        first[id] = token
