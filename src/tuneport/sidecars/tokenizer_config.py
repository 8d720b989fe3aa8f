"""tokenizer_config.json and special_tokens_map.json merged.

In come three folders' files, out go the target's with the special tokens and settings that the fine-tuning
changed. The promise: no special token is written that the output's tokenizer lacks, and nothing is copied that
belongs to a tokenizer's code (``tokenizer_class``) or to the place it came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from tuneport.errors import in_short, named
from tuneport.files.printable import quoted
from tuneport.sidecars.three_way import MergeFindings, Side, Sided, Three, same, three_way
from tuneport.sidecars.token_ids import TokenNames
from tuneport.tokenizer.special_tokens import MORE, MORE_KEYS, ROLE, ROLE_KEYS, TokenizerFiles, content_of
from tuneport.tokenizer.token_changes import rename_tokens
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
_NO_LIMIT = 10**20  # transformers writes 10^30 for "no limit"


def merge_tokenizer_settings(
    files: Three,
    sides: Mapping[str, str],
    names: TokenNames,
    findings: MergeFindings,
    *,
    flagged: Mapping[str, Mapping[str, Any]] | None = None,
    post_processor: Side = "target",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The output's tokenizer_config.json and special_tokens_map.json, each empty where there is nothing to say.

    ``flagged`` are added tokens of the output whose flags are not the target's; those that are not special must not
    become so by being listed. ``post_processor`` is the side whose post-processor the output's tokenizer.json has.
    """
    flagged = flagged or {}
    plain = {token for token, entry in flagged.items() if not entry["special"]}
    output = _Output(
        dict(files.target.config or {}), dict(files.target.special or {}), files.target.special is not None
    )
    output.rename(names.renamed)
    roles = Three(*(one.roles() for one in files))
    for role in _keys(roles):
        _merge_role(role, roles, files, sides.get(role), names, findings, output)
    more = next((sides[key] for key in MORE_KEYS if key in sides), None)
    _merge_more(files, more, names, plain, findings, output)
    settings = Three(*(one.settings() for one in files))
    for name in _keys(settings):
        choice = sides.get(name)
        if choice is None and name in _POST_PROCESSOR and post_processor != "target":
            _follow_post_processor(name, settings, post_processor, findings, output)
        elif choice is None and _is_of_another_class(name, files):
            _leave_behind(name, settings, files, findings)
        else:
            _merge_setting(name, settings, files.tuned.code, choice, findings, output)
    return _in_step(output.config, flagged), _in_step(output.special, flagged)


def choosable_special_tokens(files: Three) -> set[str]:
    """Every special token, by role, that ``--config tokenizer.NAME`` understands here."""
    return {role for one in files for role in one.roles()} | set(MORE_KEYS)


def choosable_settings(files: Three) -> set[str]:
    """Every other name that ``--config tokenizer.NAME`` understands here."""
    return {name for one in files for name in one.settings()}


@dataclass
class _Output:
    config: dict[str, Any]
    special: dict[str, Any]
    has_special: bool

    def rename(self, renamed: Mapping[str, str]) -> None:
        """Give the target's renamed tokens their new names, wherever a special token stands."""
        for holder in (self.config, self.special):
            for key, value in holder.items():
                if ROLE.search(key) or key in MORE_KEYS or key in ROLE_KEYS:
                    holder[key] = rename_tokens(value, renamed)

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


def _merge_role(
    role: str,
    roles: Three,
    files: Three,
    choice: str | None,
    names: TokenNames,
    findings: MergeFindings,
    output: _Output,
) -> None:
    shown = Three(*(one.get(role) for one in roles))
    if shown.base == shown.tuned == shown.target:
        return
    if role not in roles.tuned and choice is None:
        verdict = Sided("target", "the tuned tokenizer does not say")
    elif choice is None and role not in roles.base and shown.tuned == named_by_class(files.tuned.saved_by).get(role):
        verdict = Sided("target", "the tuned model's tokenizer class has it by itself")
    else:
        verdict = three_way(shown, behaviour=True, choice=choice)
    token = shown.of(verdict.side)
    if verdict.side != "target" and token is not None and not names.has(token):
        _lost(role, token, verdict.side, findings, names, choice is None and token in names.left_out)
        verdict, token = Sided("target", f"the output's tokenizer lacks {token!r}"), shown.target
    if verdict.side != "target":
        if token is None:
            output.drop_role(role, said=role in roles.of(verdict.side))
        elif token != output.config.get(role) or output.has_special:
            output.set_role(role, token, files.of(verdict.side))
    written = token if token is None else names.renamed.get(token, token)
    if role == "eos_token":
        _tell_end(shown, verdict, written, choice, findings)
    findings.decided(f"tokenizer_config.{role}", verdict.side, verdict.reason)
    findings.differ(f"tokenizer_config.{role}", shown, written)


def _tell_end(shown: Three, verdict: Sided, written: str | None, choice: str | None, findings: MergeFindings) -> None:
    if verdict.contested:
        findings.contested_ends["tokenizer.eos_token"] = shown
    if written is None and choice is None:
        findings.warnings.append(
            f"tokenizer_config.json `eos_token`: the tuned model says that there is none (the target has "
            f"{shown.target!r}); a model without an end token generates without end. "
            f"Decide with {named('config', 'tokenizer.eos_token=tuned|target')}."
        )


def _merge_more(
    files: Three,
    choice: str | None,
    names: TokenNames,
    plain: Set[str],
    findings: MergeFindings,
    output: _Output,
) -> None:
    """Special tokens without a role are merged one by one: what tuning added comes, what it took away goes.

    A token that took another's slot is listed only if it is special itself.
    """
    shown = Three(*(one.more() for one in files))
    base, tuned, target = shown
    if choice is not None:
        wanted, reason = list(shown.of(choice) or []), "asked for"
    elif tuned is None:
        if plain.isdisjoint(names.renamed.get(token, token) for token in target or []):
            return
        wanted, reason = list(target or []), "a token that is listed must be special"
    else:
        gone = [token for token in base or [] if token not in (tuned or [])]
        new = [token for token in tuned or [] if token not in (base or [])]
        wanted = [token for token in target or [] if token not in gone]
        wanted += [token for token in new if token not in wanted]
        reason = f"tuning added {in_short(new)}" + (f" and took away {in_short(gone)}" if gone else "")
    wanted = list(dict.fromkeys(names.renamed.get(token, token) for token in wanted))
    if choice is None:
        wanted = [token for token in wanted if token not in plain]
    lacking = [token for token in wanted if not names.has(token)]
    if lacking:
        findings.decided(f"tokenizer_config.{MORE}", "dropped", f"the output's tokenizer lacks {in_short(lacking)}")
    wanted = [token for token in wanted if token not in lacking]
    before = [names.renamed.get(token, token) for token in target or []]
    if wanted == before:
        return
    # Version 5 reads the name of version 4, but not the other way round: 4 fails on a list under the new name.
    key = next((key for key in MORE_KEYS if key in output.config), MORE)
    if isinstance(output.config.get(key), dict):
        key = MORE if key != MORE else MORE_KEYS[0]
    _write_more(output.config, key, wanted)
    if output.has_special:
        _write_more(output.special, next((key for key in MORE_KEYS if key in output.special), MORE), wanted)
    findings.decided(f"tokenizer_config.{key}", choice or "tuned", reason)
    findings.differ(f"tokenizer_config.{key}", shown, wanted)


def _follow_post_processor(name: str, settings: Three, side: Side, findings: MergeFindings, output: _Output) -> None:
    """A post-processor comes with the settings that would replace it, or without any where it had none."""
    shown = Three(*(one.get(name) for one in settings))
    if name in settings.of(side):
        output.config[name] = shown.of(side)
    else:
        output.config.pop(name, None)
    if shown.of(side) != shown.target:
        findings.decided(f"tokenizer_config.{name}", side, f"the post-processor is the {side} model's")
        findings.differ(f"tokenizer_config.{name}", shown, shown.of(side))


def _is_of_another_class(name: str, files: Three) -> bool:
    """Whether the tuned model's setting is one that its own tokenizer class reads, and the target's does not."""
    codes = (files.tuned.code, files.target.code)
    return name not in _OF_EVERY_CLASS and None not in codes and codes[0] != codes[1]


def _leave_behind(name: str, settings: Three, files: Three, findings: MergeFindings) -> None:
    shown = Three(*(one.get(name) for one in settings))
    if name in settings.tuned and not same(shown.tuned, shown.base) and not same(shown.tuned, shown.target):
        reason = f"a setting of {files.tuned.code}, and the output is read by {files.target.code}"
        findings.decided(f"tokenizer_config.{name}", "target", reason)
        findings.differ(f"tokenizer_config.{name}", shown, shown.target)


def _says_the_default(name: str, value: Any, code: str | None) -> bool:
    defaults = default_settings(code)
    return name in defaults and same(value, defaults[name])


def _merge_setting(
    name: str, settings: Three, code: str | None, choice: str | None, findings: MergeFindings, output: _Output
) -> None:
    shown = Three(*(one.get(name) for one in settings))
    compared = Three(*(_limit(value) if name == "model_max_length" else value for value in shown))
    if same(compared.base, compared.tuned) and same(compared.tuned, compared.target):
        return
    if name not in settings.tuned and choice is None:
        # Version 5 leaves out what version 4 wrote: silence is not a change.
        return
    if name not in settings.base and choice is None and _says_the_default(name, shown.tuned, code):
        return  # nor is it one to write a default out
    verdict = three_way(compared, behaviour=True, choice=choice)
    if verdict.side != "target":
        if name in settings.of(verdict.side):
            output.config[name] = shown.of(verdict.side)
        else:
            output.config.pop(name, None)
    findings.decided(f"tokenizer_config.{name}", verdict.side, verdict.reason)
    findings.differ(f"tokenizer_config.{name}", shown, shown.of(verdict.side))


def _lost(role: str, token: str, side: Side, findings: MergeFindings, names: TokenNames, left_out: bool) -> None:
    lost = f"tokenizer_config.json {quoted(role)}: the {side} model has {token!r}; the output's tokenizer has no such token"
    if role == "eos_token" and not left_out:
        keep = f"Keep it with {named('new_tokens', 'append')}, or decide" if names.by_string else "Decide"
        findings.refusals.append(
            f"{lost}, and a model whose end token is lost generates without end. "
            f"{keep} with {named('config', f'tokenizer.{role}=target')}."
        )
    else:
        findings.warnings.append(f"{lost}. It stays as the target has it.")


def _in_step(holder: dict[str, Any], flagged: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A file whose special tokens, where they are spelled with flags, have those of the output's tokenizer."""

    def fit(value: Any) -> Any:
        if isinstance(value, list):
            return [fit(item) for item in value]
        entry = flagged.get(value["content"]) if isinstance(value, dict) and content_of(value) is not None else None
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
