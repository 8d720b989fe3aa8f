"""Merge tokenizer_config.json and special_tokens_map.json.

The output has the target's files with the special tokens and settings that the fine-tuning changed. Every special token
in them exists in the output's tokenizer, and nothing is copied that belongs to a tokenizer's code (``tokenizer_class``)
or to its place on a disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from tuneport.errors import in_short, named
from tuneport.files.printable import quoted
from tuneport.sidecars.three_way import MergeFindings, Side, Sided, Three, same, three_way
from tuneport.sidecars.token_ids import TokenNames
from tuneport.tokenizer.special_tokens import MORE, MORE_KEYS, ROLE, ROLE_KEYS, TokenizerFiles, content_of
from tuneport.tokenizer.token_changes import rename_everywhere
from tuneport.tokenizer.tokenizer_classes import default_settings, named_by_class

PREFIXES = ("tokenizer.", "tokenizer_config.")
# Settings that every tokenizer class of transformers reads; any other is of one class (`legacy`, `sp_model_kwargs`).
_OF_EVERY_CLASS = {
    "model_max_length",
    "padding_side",
    "truncation_side",
    "model_input_names",
    "clean_up_tokenization_spaces",
    "split_special_tokens",
    "pad_token_type_id",
    "pad_to_multiple_of",
    "max_length",
    "stride",
    "truncation_strategy",
    "add_bos_token",
    "add_eos_token",
}
# Versions of transformers that read these make a post-processor of them, which takes the place of tokenizer.json's.
_POST_PROCESSOR = ("add_bos_token", "add_eos_token")
_NO_DEFAULT = object()
_NO_LIMIT = 10**20  # transformers writes 10^30 for "no limit"


def choosable_special_tokens(files: Three) -> set[str]:
    """Every special token, by role, that ``--config tokenizer.NAME`` understands here."""
    return {role for one in files for role in one.roles()} | set(MORE_KEYS)


def choosable_settings(files: Three) -> set[str]:
    """Every other name that ``--config tokenizer.NAME`` understands here."""
    return {name for one in files for name in one.settings()}


@dataclass
class TokenizerConfigMerge:
    """The merge of both files, which become ``config`` and ``special``; ``files`` are those of the three models.

    ``sides`` are choices by name. ``flagged`` are added tokens of the output whose flags are not the target's; those that are
    not special must not become so by being listed. ``post_processor`` is the side whose post-processor the output's
    tokenizer.json has.
    """

    files: Three
    sides: Mapping[str, str]
    names: TokenNames
    findings: MergeFindings
    flagged: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    post_processor: Side = "target"

    def __post_init__(self) -> None:
        self.config = dict(self.files.target.config or {})
        self.special = dict(self.files.target.special or {})
        self.has_special = self.files.target.special is not None
        self.plain = {token for token, entry in self.flagged.items() if not entry["special"]}

    def merged(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The output's tokenizer_config.json and special_tokens_map.json, each empty where there is nothing to say."""
        self.rename()
        roles = self.files.each(TokenizerFiles.roles)
        for role in _keys(roles):
            self.role(role, roles)
        self.more()
        settings = self.files.each(TokenizerFiles.settings)
        for name in _keys(settings):
            self.setting(name, settings)
        return self.in_step(self.config), self.in_step(self.special)

    def rename(self) -> None:
        """Give the target's renamed tokens their new names, wherever a special token stands."""
        for holder in (self.config, self.special):
            for key, value in holder.items():
                if ROLE.search(key) or key in MORE_KEYS or key in ROLE_KEYS:
                    holder[key] = rename_everywhere(value, self.names.renamed, labels=False)

    def renamed(self, tokens: Iterable[str] | None) -> list[str]:
        """Tokens under the output's names."""
        return [self.names.renamed.get(token, token) for token in tokens or ()]

    def role(self, role: str, roles: Three) -> None:
        """Merge one special token, and tell what that means for the end of answers."""
        names, choice = self.names, self.sides.get(role)
        shown = roles.each(lambda one: one.get(role))
        if shown.base == shown.tuned == shown.target:
            return
        by_class = named_by_class(self.files.tuned.saved_by).get(role)
        if role not in roles.tuned and choice is None:
            verdict = Sided("target", "the tuned tokenizer does not set it")
        elif choice is None and role not in roles.base and shown.tuned == by_class:
            verdict = Sided("target", "it is the default of the tuned model's tokenizer class")
        else:
            verdict = three_way(shown, behaviour=True, choice=choice)
        token = shown.of(verdict.side)
        if verdict.side != "target" and token is not None and not names.has(token):
            self.tell_lost(role, token, verdict.side, choice is None and token in names.left_out)
            verdict, token = Sided("target", f"the output's tokenizer lacks {token!r}"), shown.target
        if verdict.side != "target":
            if token is None:
                self.drop_role(role, said=role in roles.of(verdict.side))
            elif token != self.config.get(role) or self.has_special:
                self.set_role(role, token, self.files.of(verdict.side))
        written = token if token is None else names.renamed.get(token, token)
        if role == "eos_token" and verdict.contested:
            self.findings.contested_ends["tokenizer.eos_token"] = shown
        if role == "eos_token" and written is None and choice is None:
            self.findings.warnings.append(
                f"tokenizer_config.json `eos_token`: the tuned model has none (the target has {shown.target!r}), and "
                f"a model without an end token never stops. Choose with "
                f"{named('config', 'tokenizer.eos_token=tuned|target')}."
            )
        self.findings.settled(f"tokenizer_config.{role}", verdict, shown, written)

    def tell_lost(self, role: str, token: str, side: Side, left_out: bool) -> None:
        """A special token that the output's tokenizer does not have."""
        lost = f"tokenizer_config.json {quoted(role)}: the {side} model has {token!r}, but the output's tokenizer lacks this token"
        if role == "eos_token" and not left_out:
            self.findings.refusals.append(
                f"{lost}, and without its end token the model never stops. "
                f"{self.names.way_to_keep([token], named('config', f'tokenizer.{role}=target'))}"
            )
        else:
            self.findings.warnings.append(f"{lost}. The output keeps the target's value.")

    def set_role(self, role: str, token: str, source: TokenizerFiles) -> None:
        """Write a special token in the target's form: an object stays an object, a string a string."""
        holders = [
            (self.config, source.config or {}, True),
            (self.special, source.special or {}, self.has_special),
        ]
        for holder, theirs, wanted in holders:
            if not wanted:
                continue
            form = theirs.get(role)
            if isinstance(holder.get(role), dict):
                holder[role] = form if isinstance(form, dict) else {**holder[role], "content": token}
                continue
            place = next((key for key in ROLE_KEYS if _names_role(holder.get(key), role)), None)
            if place is not None:
                holder[place] = {**holder[place], role: token}
            if place is None or role in holder:
                holder[role] = form if isinstance(form, dict) and holder is self.special else token

    def drop_role(self, role: str, *, said: bool) -> None:
        """Take a role away; ``said`` writes out that there is no such token, as a class may have one by itself."""
        for holder in (self.config, self.special):
            holder.pop(role, None)
            for key in ROLE_KEYS:
                if _names_role(holder.get(key), role):
                    holder[key] = {name: token for name, token in holder[key].items() if name != role}
        if said:
            self.config[role] = None

    def more(self) -> None:
        """Special tokens without a role are merged one by one: what tuning added comes, what it took away goes.

        A token that took another's slot is listed only if it is special itself.
        """
        choice = next((self.sides[key] for key in MORE_KEYS if key in self.sides), None)
        shown = self.files.each(TokenizerFiles.more)
        base, tuned, target = shown
        if choice is not None:
            wanted, reason = list(shown.of(choice) or []), "asked for"
        elif tuned is None:
            if self.plain.isdisjoint(self.renamed(target)):
                return
            wanted, reason = list(target or []), "a listed token must be special"
        else:
            gone = [token for token in base or [] if token not in (tuned or [])]
            new = [token for token in tuned or [] if token not in (base or [])]
            wanted = [token for token in target or [] if token not in gone]
            wanted += [token for token in new if token not in wanted]
            reason = f"tuning added {in_short(new)}" + (f" and removed {in_short(gone)}" if gone else "")
        wanted = [token for token in dict.fromkeys(self.renamed(wanted)) if choice or token not in self.plain]
        lacking = [token for token in wanted if not self.names.has(token)]
        if lacking:
            told = f"the output's tokenizer lacks {in_short(lacking)}"
            self.findings.decided(f"tokenizer_config.{MORE}", "dropped", told)
        wanted = [token for token in wanted if token not in lacking]
        if wanted == self.renamed(target):
            return
        # Version 5 reads the name of version 4, but not the other way round: 4 fails on a list under the new name.
        key = next((key for key in MORE_KEYS if key in self.config), MORE)
        if isinstance(self.config.get(key), dict):
            key = MORE if key != MORE else MORE_KEYS[0]
        _write_more(self.config, key, wanted)
        if self.has_special:
            _write_more(self.special, next((key for key in MORE_KEYS if key in self.special), MORE), wanted)
        self.findings.settled(f"tokenizer_config.{key}", Sided(cast(Side, choice or "tuned"), reason), shown, wanted)

    def setting(self, name: str, settings: Three) -> None:
        """Merge one setting that is not a special token."""
        shown = settings.each(lambda one: one.get(name))
        follows = name in _POST_PROCESSOR and self.post_processor != "target" and name not in self.sides
        if follows:  # a post-processor comes with the settings that would replace it, or without any where it had none
            side = self.post_processor
            verdict: Sided | None = Sided(side, f"the post-processor is the {side} model's")
        else:
            verdict = self.verdict(name, shown, settings)
        if verdict is None:
            return
        if verdict.side != "target" and name in settings.of(verdict.side):
            self.config[name] = shown.of(verdict.side)
        elif verdict.side != "target":
            self.config.pop(name, None)
        if not follows or shown.of(verdict.side) != shown.target:
            self.findings.settled(f"tokenizer_config.{name}", verdict, shown, shown.of(verdict.side))

    def verdict(self, name: str, shown: Three, settings: Three) -> Sided | None:
        """Whose setting the output has; None where nothing is to be told of it."""
        choice, own, others = self.sides.get(name), self.files.tuned.code, self.files.target.code
        if choice is None and name not in _OF_EVERY_CLASS and None not in (own, others) and own != others:
            # The tuned model's setting is one that its own tokenizer class reads, and the target's does not.
            if name not in settings.tuned or same(shown.tuned, shown.base) or same(shown.tuned, shown.target):
                return None
            return Sided("target", f"a setting of {own}, but the output uses {others}")
        compared = shown.each(_limit) if name == "model_max_length" else shown
        # Version 5 leaves out what version 4 wrote: silence is not a change. Nor is it one to write a default out.
        default = default_settings(own).get(name, _NO_DEFAULT)
        silent = name not in settings.tuned or (name not in settings.base and same(shown.tuned, default))
        if compared.alike or (choice is None and silent):
            return None
        return three_way(compared, behaviour=True, choice=choice)

    def in_step(self, holder: dict[str, Any]) -> dict[str, Any]:
        """A file whose special tokens, where they are spelled with flags, have those of the output's tokenizer."""

        def fit(value: Any) -> Any:
            if isinstance(value, list):
                return [fit(item) for item in value]
            known = isinstance(value, dict) and content_of(value) is not None
            entry = self.flagged.get(value["content"]) if known else None
            return value if entry is None else {key: entry.get(key, item) for key, item in value.items()}

        named = {key: fit(value) for key, value in holder.items() if ROLE.search(key) or key in MORE_KEYS}
        return {**holder, **named}


def _write_more(holder: dict[str, Any], key: str, wanted: list[str]) -> None:
    present = holder.get(key)
    forms = {content_of(item): item for item in present} if isinstance(present, list) else {}
    for other in MORE_KEYS:
        if other != key and isinstance(holder.get(other), list):
            del holder[other]
    holder[key] = [forms.get(token, token) for token in wanted]


def _names_role(value: Any, role: str) -> bool:
    return isinstance(value, dict) and role in value


def _limit(value: Any) -> Any:
    return None if isinstance(value, int | float) and value >= _NO_LIMIT else value


def _keys(three: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names in the target's order, then the tuned model's, then base's."""
    return list(dict.fromkeys(key for one in reversed(list(three)) for key in one))
