"""tokenizer_config.json and special_tokens_map.json merged.

In come three folders' files, out go the target's with the special tokens and settings that the fine-tuning
changed. The promise: no special token is written that the output's tokenizer lacks, and nothing is copied that
belongs to a tokenizer's code (``tokenizer_class``) or to the place it came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tuneport.checkpoint.merge3 import Findings, Side, Three, Verdict, in_short, same, three_way
from tuneport.checkpoint.token_names import TokenNames
from tuneport.errors import CheckpointError

PREFIXES = ("tokenizer.", "tokenizer_config.")
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
_MORE_KEYS = ("extra_special_tokens", MORE)  # versions 5 and 4
_ROLE = re.compile(r"_token$")
_NO_LIMIT = 10**20  # transformers writes 10^30 for "no limit"


@dataclass(frozen=True)
class TokenizerFiles:
    """The two small files of one tokenizer; None where there is none."""

    config: Mapping[str, Any] | None
    special: Mapping[str, Any] | None
    where: str

    def roles(self) -> dict[str, str]:
        """Special tokens by role (``eos_token``), as strings."""
        found: dict[str, str] = {}
        for holder in self._holders():
            for key, value in holder.items():
                content = _content(value)
                if _ROLE.search(key) and content is not None:
                    found[key] = content
        return found

    def more(self) -> list[str] | None:
        """Special tokens without a role, in order; None where the files do not say."""
        found: list[str] | None = None
        for holder in self._holders():
            for key in _MORE_KEYS:
                value = holder.get(key)
                if isinstance(value, dict):
                    continue  # version 5 also names roles of its own here; they are one value
                if value is None:
                    continue
                contents = [_content(item) for item in value] if isinstance(value, list) else [None]
                if None in contents:
                    raise CheckpointError(
                        f"{self.where}: `{key}` is {in_short(value, 80)}; a list of tokens is expected."
                    )
                found = list(dict.fromkeys([*(found or []), *(item for item in contents if item is not None)]))
        return found

    def settings(self) -> dict[str, Any]:
        """Everything else of tokenizer_config.json that is merged by field."""
        return {key: value for key, value in (self.config or {}).items() if not self.is_special(key)}

    def is_special(self, key: str) -> bool:
        """Whether ``key`` is a special token, or nothing to merge."""
        value = (self.config or {}).get(key)
        if key in FIXED or key.startswith("_") or (key in _MORE_KEYS and not isinstance(value, dict)):
            return True
        return (
            _ROLE.search(key) is not None
            and not isinstance(value, bool)
            and (value is None or _content(value) is not None)
        )

    def _holders(self) -> list[Mapping[str, Any]]:
        config, special = self.config or {}, self.special or {}
        # The map counts only for files without `added_tokens_decoder`; there it wins.
        return [special, config] if "added_tokens_decoder" in config else [config, special]


def merge_tokenizer_settings(
    files: Three, sides: Mapping[str, str], names: TokenNames, findings: Findings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The output's tokenizer_config.json and special_tokens_map.json, each empty where there is nothing to say."""
    output = _Output(
        dict(files.target.config or {}), dict(files.target.special or {}), files.target.special is not None
    )
    output.rename(names.renamed)
    roles = Three(*(one.roles() for one in files))
    for role in _keys(roles):
        _merge_role(role, roles, files, sides.get(role), names, findings, output)
    _merge_more(files, next((sides[key] for key in _MORE_KEYS if key in sides), None), names, findings, output)
    settings = Three(*(one.settings() for one in files))
    for name in _keys(settings):
        _merge_setting(name, settings, sides.get(name), findings, output)
    return output.config, output.special


def choosable_special_tokens(files: Three) -> set[str]:
    """Every special token, by role, that ``--config tokenizer.NAME`` understands here."""
    return {role for one in files for role in one.roles()} | set(_MORE_KEYS)


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
                if _ROLE.search(key) or key in _MORE_KEYS:
                    holder[key] = _renamed(value, renamed)

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
            else:
                holder[role] = form if isinstance(form, dict) and holder is self.special else token


def _merge_role(
    role: str,
    roles: Three,
    files: Three,
    choice: str | None,
    names: TokenNames,
    findings: Findings,
    output: _Output,
) -> None:
    shown = Three(*(one.get(role) for one in roles))
    if shown.base == shown.tuned == shown.target:
        return
    if shown.tuned is None and choice is None:
        verdict = Verdict("target", "the tuned tokenizer does not say")
    else:
        verdict = three_way(shown, manner=True, choice=choice)
    token = shown.of(verdict.side)
    if verdict.side != "target" and token is not None and not names.has(token):
        _lost(role, token, verdict.side, findings, choice is None and token in names.left_out)
        verdict, token = Verdict("target", f"the output's tokenizer lacks {token!r}"), shown.target
    if verdict.side != "target":
        if token is None:
            output.config.pop(role, None)
            output.special.pop(role, None)
        elif token != output.config.get(role) or output.has_special:
            output.set_role(role, token, files.of(verdict.side))
    written = token if token is None else names.renamed.get(token, token)
    findings.decided(f"tokenizer_config.{role}", verdict.side, verdict.reason)
    findings.differ(f"tokenizer_config.{role}", shown, written)


def _merge_more(files: Three, choice: str | None, names: TokenNames, findings: Findings, output: _Output) -> None:
    """Special tokens without a role are merged one by one: what tuning added comes, what it took away goes."""
    shown = Three(*(one.more() for one in files))
    base, tuned, target = shown
    if tuned is None and choice is None:
        return
    if choice is not None:
        wanted, reason = list(shown.of(choice) or []), "asked for"
    else:
        gone = [token for token in base or [] if token not in (tuned or [])]
        new = [token for token in tuned or [] if token not in (base or [])]
        wanted = [token for token in target or [] if token not in gone]
        wanted += [token for token in new if token not in wanted]
        reason = f"tuning added {in_short(new)}" + (f" and took away {in_short(gone)}" if gone else "")
    wanted = list(dict.fromkeys(names.renamed.get(token, token) for token in wanted))
    lacking = [token for token in wanted if not names.has(token)]
    if lacking:
        findings.decided(f"tokenizer_config.{MORE}", "dropped", f"the output's tokenizer lacks {in_short(lacking)}")
    wanted = [token for token in wanted if token not in lacking]
    before = [names.renamed.get(token, token) for token in target or []]
    if wanted == before:
        return
    # Version 5 reads the name of version 4, but not the other way round: 4 fails on a list under the new name.
    key = next((key for key in _MORE_KEYS if key in output.config), MORE)
    if isinstance(output.config.get(key), dict):
        key = MORE if key != MORE else _MORE_KEYS[0]
    _write_more(output.config, key, wanted)
    if output.has_special:
        _write_more(output.special, next((key for key in _MORE_KEYS if key in output.special), MORE), wanted)
    findings.decided(f"tokenizer_config.{key}", choice or "tuned", reason)
    findings.differ(f"tokenizer_config.{key}", shown, wanted)


def _merge_setting(name: str, settings: Three, choice: str | None, findings: Findings, output: _Output) -> None:
    shown = Three(*(one.get(name) for one in settings))
    compared = Three(*(_limit(value) if name == "model_max_length" else value for value in shown))
    if same(compared.base, compared.tuned) and same(compared.tuned, compared.target):
        return
    if name not in settings.tuned and choice is None:
        # Version 5 leaves out what version 4 wrote: silence is not a change.
        return
    verdict = three_way(compared, manner=True, choice=choice)
    if verdict.side != "target":
        if name in settings.of(verdict.side):
            output.config[name] = shown.of(verdict.side)
        else:
            output.config.pop(name, None)
    findings.decided(f"tokenizer_config.{name}", verdict.side, verdict.reason)
    findings.differ(f"tokenizer_config.{name}", shown, shown.of(verdict.side))


def _lost(role: str, token: str, side: Side, findings: Findings, left_out: bool) -> None:
    lost = f"tokenizer_config.json `{role}`: the {side} model has {token!r}; the output's tokenizer has no such token"
    if role == "eos_token" and not left_out:
        findings.refusals.append(
            f"{lost}, and a model whose end token is lost generates without end. "
            f"Keep it with --new-tokens append, or decide with --config tokenizer.{role}=target."
        )
    else:
        findings.warnings.append(f"{lost}. It stays as the target has it.")


def _write_more(holder: dict[str, Any], key: str, wanted: list[str]) -> None:
    present = holder.get(key)
    forms = {_content(item): item for item in present} if isinstance(present, list) else {}
    for other in _MORE_KEYS:
        if other != key and isinstance(holder.get(other), list):
            del holder[other]
    holder[key] = [forms.get(token, token) for token in wanted]


def _renamed(value: Any, renamed: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return renamed.get(value, value)
    if isinstance(value, list):
        return [_renamed(item, renamed) for item in value]
    if isinstance(value, dict):
        return {key: _renamed(item, renamed) for key, item in value.items()}
    return value


def _content(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _limit(value: Any) -> Any:
    return None if isinstance(value, int | float) and value >= _NO_LIMIT else value


def _keys(three: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names in the target's order, then the tuned model's, then base's."""
    return list(dict.fromkeys(key for one in reversed(list(three)) for key in one))
