"""Merge the tokenizers of three models: the flags of tokens, the sections of tokenizer.json, and what cannot be
transferred.

The output gets what the fine-tuning changed beside the vocabulary, and keeps what the new version changed. Nothing is
parsed if the tuned model's tokenizer.json is byte for byte the base's or the target's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tuneport.sidecars.three_way import MergeFindings, Side, Three
from tuneport.sidecars.token_ids import TokenNames
from tuneport.sidecars.tokenizer_json.piece_changes import tell_piece_changes
from tuneport.sidecars.tokenizer_json.section_merge import MergedSections, choosable_sections, merge_sections
from tuneport.sidecars.tokenizer_json.token_flags import FLAGS, effective_entries, merge_flags
from tuneport.tokenizer.token_changes import TokenChanges
from tuneport.tokenizer.tokenizer import Tokenizer, file_digest, read_sections
from tuneport.tokenizer.tokenizer_classes import built_by_class, named_by_class, template_of_version_4

TOKENIZER = "tokenizer.json"
# What `--config` calls a section: `tokenizer.normalizer`. (`tokenizer_config.` means the other file alone.)
PREFIX = ("tokenizer.",)


@dataclass(frozen=True)
class MergedTokenizer:
    """What the output's tokenizer has that is not the target's.

    ``changes`` are those of the vocabulary with every token whose flags change, ``sections`` those of tokenizer.json by
    name, ``flagged`` these tokens with their flags, ``post_processor`` whose the output has.
    """

    changes: TokenChanges
    sections: Mapping[str, Any] = field(default_factory=dict)
    flagged: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    post_processor: Side = "target"

    @property
    def plain(self) -> set[str]:
        """Tokens that must not become special by being listed."""
        return {token for token, entry in self.flagged.items() if not entry["special"]}


def read_all_sections(
    folders: Three, tokenizers: tuple[Tokenizer, Tokenizer, Tokenizer] | None, *, asked: bool
) -> Three | None:
    """The sections of three tokenizer.json; None where nothing can differ that matters, unless somebody ``asked``."""
    if tokenizers is not None:
        return Three(*(tokenizer.sections for tokenizer in tokenizers))
    base, tuned, target = (file_digest(folder, TOKENIZER) if folder.has(TOKENIZER) else None for folder in folders)
    if tuned is None or base == tuned == target or (tuned in (base, target) and not asked):
        return None
    return Three(*map(read_sections, folders))


def choosable(folders: Three) -> set[str]:
    """Every name beside those of tokenizer_config.json that ``--config tokenizer.NAME`` understands here."""
    sections = Three(*map(read_sections, folders))
    return set() if sections.target is None else {FLAGS, *choosable_sections(sections)}


def merge_tokenizer(
    folders: Three, files: Three, sides: Mapping[str, str], names: TokenNames, findings: MergeFindings
) -> MergedTokenizer:
    """Merge what three tokenizers say beside their vocabularies; ``files`` are their `TokenizerFiles`."""
    sections = read_all_sections(folders, names.tokenizers, asked=bool(sides))
    listed = [() if one is None else one.entries for one in sections or (None, None, None)]
    by_class = set(named_by_class(files.tuned.saved_by).values())
    entries = Three(
        effective_entries(listed[0], files.base, by_class),
        effective_entries(listed[1], files.tuned),
        effective_entries(listed[2], files.target),
    )
    if sections is None:
        # The same tokens are in all three tokenizer.json; a file that does not list them again changes none.
        entries = _where_listed(entries)
    flags = merge_flags(entries, sides.get(FLAGS), names, findings)
    merged = MergedSections()
    if sections is not None:
        rebuilt = built_by_class(files.tuned.saved_by, files.base.config or {})
        template = _template_of_version_4(files) if names.by_string else None
        merged = merge_sections(sections, sides, names, findings, rebuilt, template)
        tell_piece_changes(folders, sections, names, findings)
    spelled = {token: {**entry, "id": _id_of(token, names, entries)} for token, entry in flags.items()}
    changes = replace(names.changes, entries={**names.changes.entries, **spelled})
    return MergedTokenizer(changes, merged.changed, spelled, merged.post_processor)


def _template_of_version_4(files: Three) -> Any:
    if files.tuned.saved_by is not None:
        return None
    roles = files.base.roles()
    return template_of_version_4(
        files.tuned.code, files.base.config or {}, roles.get("bos_token"), roles.get("eos_token")
    )


def _where_listed(entries: Three) -> Three:
    base, tuned, target = entries
    everywhere = base.keys() & tuned.keys() & target.keys()
    return Three(*({token: entry for token, entry in side.items() if token in everywhere} for side in entries))


def _id_of(token: str, names: TokenNames, entries: Three) -> int:
    id = names.id_of(token)
    return entries.target[token]["id"] if id is None else id
