"""Find the rows that rules for tokens are about, by the tokenizers and the chat template.

Returns a `RowScales`: the ids of each rule's tokens in the output. A token that the output lacks is a fault with the
nearest names. Rows of new tokens are the tuned model's as they stand, and no rule touches them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.errors import Fault, UsageError, named
from tuneport.files.printable import printable_line
from tuneport.pairing.row_rules import ALL, SETS, SPECIAL, TEMPLATE, RowRule
from tuneport.pairing.rows import Ids
from tuneport.pairing.vocabulary import VocabularyMatch
from tuneport.sidecars.chat_template import template_tokens
from tuneport.sidecars.three_way import Decision
from tuneport.tokenizer.tokenizer import Tokenizer, read_listed_tokens

_FEW = 8


@dataclass(frozen=True)
class RowsOfRule:
    """A rule with the ids of its tokens in the output (None: all rows), and its tokens by id as far as they were named."""

    rule: RowRule
    ids: Ids | None
    tokens: Mapping[int, str]


@dataclass(frozen=True)
class RowScales:
    """The scale of every row of a vocabulary matrix. ``names`` are the matrices, by all names they are stored under."""

    rules: tuple[RowsOfRule, ...]
    names: frozenset[str]

    def of(self, rows: int, own: float) -> NDArray[np.float64]:
        """The scale of each of so many rows of a tensor whose own scale is ``own``."""
        found = np.full(rows, own, np.float64)
        for each in self.rules:
            scale = own if each.rule.scale is None else each.rule.scale
            if each.ids is None:
                found[:] = scale
            else:
                found[each.ids[each.ids < rows]] = scale
        return found

    def decisions(self, reached: Sequence[str]) -> list[Decision]:
        """What each rule is about; ``reached`` are the tensors whose rows have scales of their own."""
        where = f"in {_few(reached)}"
        found = []
        for each in self.rules:
            count = "all rows" if each.ids is None else f"{len(each.ids)} token{'s' * (len(each.ids) != 1)}"
            listed = f": {_few([each.tokens[id] for id in each.ids.tolist()])}" if each.ids is not None else ""
            subject = f"rows.{_few(each.rule.tokens)}"
            found.append(Decision(subject, f"{count}{listed}", f"--row-rule {each.rule.shown}, {where}"))
        return found

    def warnings(self, added: NDArray[np.bool_]) -> list[str]:
        """Tokens that a rule names and that no difference is ``added`` to, by row of the output."""
        found = []
        for each in self.rules:
            if each.ids is None:
                continue
            without = [id for id in each.ids.tolist() if id >= len(added) or not added[id]]
            given = set(each.rule.tokens) - set(SETS)
            names = [each.tokens[id] for id in without if each.tokens[id] in given]
            if names or (not given and len(without) == len(each.ids)):
                told = f"for {_few(names)}" if names else "for any token"
                found.append(
                    f"{named('row_rules', each.rule.shown)} has no effect {told}: a row of a new token is the tuned "
                    f"model's as it stands, and one that base or tuned lack is the target's."
                )
        return found


def find_row_scales(
    rules: Sequence[RowRule],
    matches: Sequence[VocabularyMatch],
    tuned: Sequence[SidecarFolder],
    target: SidecarFolder,
    names: Iterable[str],
) -> RowScales | None:
    """The rows that the rules are about, of the vocabulary matrices ``names``; None without rules.

    There is a match and a tuned model's folder for each diff vector. Raises `UsageError` for tokens that the output lacks.
    """
    if not rules:
        return None
    output = _Output(matches, tuned, target)
    if not output.tokenizer.ids:
        told = "needs a tokenizer that tuneport can read, and the target has none"
        raise UsageError(Fault("row_rules", rules[0].shown, told, "Put the model's tokenizer.json into its folder"))
    names = frozenset(names)
    if not names:
        raise UsageError(Fault("row_rules", rules[0].shown, "has no effect: no tensor has one row per token"))
    found = tuple(output.rows(rule) for rule in rules)
    if output.faults:
        raise UsageError(output.faults)
    return RowScales(found, names)


class _Output:
    """The output's tokenizer: the target's, with the tokens that diff vectors rename or add."""

    def __init__(
        self, matches: Sequence[VocabularyMatch], tuned: Sequence[SidecarFolder], target: SidecarFolder
    ) -> None:
        self._matches, self._tuned = matches, tuned
        known = next((match.tokenizers for match in matches if match.tokenizers is not None), None)
        self.tokenizer = read_listed_tokens(target) if known is None else known[2]
        self._changed = {token.token: token.id for match in matches for token in match.added}
        for rename in (rename for match in matches for rename in match.renamed):
            self._changed |= {rename.new: rename.target_id, rename.old: rename.target_id}
        self.faults: list[Fault] = []

    def rows(self, rule: RowRule) -> RowsOfRule:
        """The ids of a rule's tokens; what is wrong with it is noted in ``faults``."""
        if ALL in rule.tokens:
            return RowsOfRule(rule, None, {})
        tokens: dict[int, str] = {}
        for token in rule.tokens:
            if token in SETS:
                members = self._special() if token == SPECIAL else self._of_template(rule)
                tokens |= {id: name for name in members if (id := self._id(name)) is not None}
            elif (id := self._id(token)) is not None:
                tokens[id] = token
            else:
                self.faults.append(Fault("row_rules", rule.shown, *self._unknown(token)))
        return RowsOfRule(rule, np.array(sorted(tokens), np.int64), tokens)

    def _id(self, token: str) -> int | None:
        return self._changed.get(token, self.tokenizer.ids.get(token))

    def _special(self) -> list[str]:
        old = {rename.old for match in self._matches for rename in match.renamed}
        new = [token for match in self._matches for token in match.changes.entries.items()]
        entries = [*((name, entry) for name, entry in self.tokenizer.added.items() if name not in old), *new]
        added = ((token.token, token.entry) for match in self._matches for token in match.added)
        return [name for name, entry in (*entries, *added) if entry.get("special")]

    def _of_template(self, rule: RowRule) -> list[str]:
        found: dict[str, None] = {}
        has_template = False
        for match, folder in zip(self._matches, self._tuned, strict=True):
            own: Tokenizer = self.tokenizer if match.tokenizers is None else match.tokenizers[1]
            written = template_tokens(folder, own.added)
            has_template |= written is not None
            found |= dict.fromkeys(written or ())
        if not has_template:
            told = f"names {TEMPLATE}, but the tuned model has no chat template"
            self.faults.append(Fault("row_rules", rule.shown, told, "Name the tokens instead"))
        return list(found)

    def _unknown(self, token: str) -> tuple[str, str]:
        """What is wrong with a name, and what to do."""
        if token.startswith("@"):
            return f"there is no set {printable_line(token)}", f"Sets are {', '.join(SETS)}"
        others = [each for match in self._matches for each in match.tokenizers or ()]
        if any(token in each.ids for each in others):
            return f"the output has no token {token!r}, so there is no row to scale", ""
        near = [mark + token for mark in ("Ġ", "▁") if mark + token in self.tokenizer.ids]
        near += get_close_matches(token, [*self._changed, *self.tokenizer.ids], 3)
        hint = f"Did you mean {' or '.join(repr(each) for each in dict.fromkeys(near))}?" if near else ""
        return f"no tokenizer has a token {token!r}", hint or "Give a token as the tokenizer writes it, such as 'Ġthe'"


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(map(printable_line, names[:_FEW]))
    return shown if len(names) <= _FEW else f"{shown}, … ({len(names)} in all)"
