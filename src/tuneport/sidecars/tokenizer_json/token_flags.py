"""Merge the flags of added tokens (special, normalized, lstrip, rstrip, single_word) three ways, token by token.

A token is special if any file of its model says so: tokenizer.json, tokenizer_config.json, or a list or role that names
it. A token keeps the flags of the side it came from, whatever its slot was called before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from tuneport.errors import in_short, named
from tuneport.sidecars.three_way import SIDES, MergeFindings, Three, three_way
from tuneport.sidecars.token_ids import TokenNames
from tuneport.tokenizer.special_tokens import TokenizerFiles
from tuneport.tokenizer.token_changes import ENTRY_DEFAULTS

FLAGS = "added_tokens"
Entries = Mapping[str, Mapping[str, Any]]


def effective_entries(
    listed: Sequence[Mapping[str, Any]], files: TokenizerFiles, by_class: Set[str] = frozenset()
) -> dict[str, dict[str, Any]]:
    """Added tokens by string with the flags that AutoTokenizer gives them.

    ``listed`` are those of tokenizer.json; ``added_tokens_decoder`` overrules them, and what is named is special,
    by the files or ``by_class``.
    """
    found = {entry["content"]: {**ENTRY_DEFAULTS, **entry} for entry in listed}
    for id, entry in files.decoder().items():
        known = {"id": id, **ENTRY_DEFAULTS, **found.get(entry["content"], {})}
        found[entry["content"]] = {**known, **entry}
    for token in ({token for _, token in files.names()} | by_class) & found.keys():
        found[token]["special"] = True
    return found


def merge_flags(
    entries: Three, choice: str | None, names: TokenNames, findings: MergeFindings
) -> dict[str, dict[str, Any]]:
    """Added tokens of the output, by string, whose flags are not those that the target gives them.

    ``entries`` are the `effective_entries` of the three; ``choice`` is the side of all flags, if somebody chose.
    """
    old_names = {new: old for old, new in names.changes.renamed}
    gained = {token.token for token in names.changes.added}
    renamed = {new: dict(entries.tuned[new]) for new in old_names if new in entries.tuned}
    merged: dict[str, dict[str, Any]] = {}
    conflicts: list[str] = []
    for token in dict.fromkeys([*entries.tuned, *(entries.base if choice == "base" else ())]):
        if token in old_names or token in gained or not names.has(token):
            continue
        if token not in entries.target and not names.by_string:
            continue  # its id in the target is not known
        flags = Three(*(_flags(side.get(token)) for side in entries))
        if flags.base == flags.tuned == flags.target:
            continue
        taken, contested = _merge_token(flags, choice)
        if contested:
            conflicts.append(f"{token!r}: {_in_words(flags)}")
        elif taken is not None and taken != flags.target:
            merged[token] = {"content": token, **taken}
    if conflicts:
        findings.refusals.append(
            f"tokenizer.json `added_tokens`: the fine-tuning and the new version changed the flags of the same token "
            f"differently: {'; '.join(conflicts[:5])}{' …' if len(conflicts) > 5 else ''}. "
            f"Choose with {named('config', f'tokenizer.{FLAGS}=base|tuned|target')}."
        )
    if merged:
        side = choice or "tuned"
        findings.decided(f"tokenizer.{FLAGS}", side, f"flags of {in_short(list(merged))}")
        for token, entry in merged.items():
            shown = Three(*(_flags(side.get(token)) for side in entries))
            findings.differ(f"tokenizer.{FLAGS}[{token}]", shown, _flags(entry))
    _tell_plain(entries, names, old_names, findings)
    return merged | renamed


def _merge_token(flags: Three, choice: str | None) -> tuple[Mapping[str, Any] | None, bool]:
    """The flags of one token in the output, and whether only a person can say."""
    if choice is not None:
        return flags.of(choice), False
    if None not in flags:  # each flag is yes or no, so of three sides two always agree
        verdicts = {name: three_way(Three(*(side[name] for side in flags)), behaviour=True) for name in flags.target}
        return {name: flags.of(verdict.side)[name] for name, verdict in verdicts.items()}, False
    if flags.tuned is None:
        return flags.target, False
    verdict = three_way(flags, behaviour=True)
    return flags.of(verdict.side), verdict.contested


def _tell_plain(entries: Three, names: TokenNames, old_names: Mapping[str, str], findings: MergeFindings) -> None:
    """Tokens that the tuned tokenizer still has, no longer as added ones."""
    plain = [
        token
        for token in entries.base
        if token not in entries.tuned and token in entries.target and names.is_token_of("tuned", token)
    ]
    if plain:
        findings.warnings.append(
            f"The tuned tokenizer no longer lists {in_short(plain[:8])} as added tokens"
            f"{f' ({len(plain)} in all)' if len(plain) > 8 else ''}; the output's tokenizer still does."
        )


def _flags(entry: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if entry is None else {name: bool(entry.get(name, default)) for name, default in ENTRY_DEFAULTS.items()}


def _in_words(flags: Three) -> str:
    def told(one: Mapping[str, Any] | None) -> str:
        if one is None:
            return "not an added token"
        return ", ".join(name for name, value in one.items() if value) or "no flag"

    return "; ".join(f"{side} {told(one)}" for side, one in zip(SIDES, flags, strict=True))
