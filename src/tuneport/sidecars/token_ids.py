"""Translate token ids by token string.

From the ids in a config of base, tuned or target to the ids of the same strings in the output's tokenizer. An id is
never copied between models whose tokenizers differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

from tuneport.errors import named
from tuneport.files.printable import quoted
from tuneport.sidecars.three_way import SIDES, Side
from tuneport.tokenizer.token_changes import TokenChanges
from tuneport.tokenizer.tokenizer import Tokenizer

_TOKEN_FIELD = re.compile(r"(^|_)token_(id|ids|index)$")
_TOKEN_LISTS = {
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
    "force_words_ids",
    "forced_decoder_ids",
    "sequence_bias",
}  # fmt: skip  (one list)

# A token is known by its string; where no string is known (identical tokenizers, -1, padded rows) by its id.
Name = str | int


class TokenNames:
    """The strings behind ids, of the three tokenizers and of the output's.

    ``tokenizers`` is None where they are byte-identical: then an id means the same everywhere.
    """

    def __init__(
        self,
        tokenizers: tuple[Tokenizer, Tokenizer, Tokenizer] | None,
        changes: TokenChanges,
        common: int | None = None,
        left_out: Collection[str] = (),
        without_row: Collection[str] = (),
    ) -> None:
        """Names for base, tuned and target, whose output differs from the target by ``changes``.

        ``common``: rows match by position, so ids below it mean the same in all three, whatever their strings; the
        tokenizers may then be known in part. ``left_out`` are tokens that a person's choice leaves out, ``without_row``
        those that the tuned model's tokenizer has and its matrix has no row for.
        """
        self.tokenizers, self.changes = tokenizers, changes
        self._common = 0 if common is None else common
        self.left_out = frozenset(left_out)
        self._without_row = frozenset(without_row)
        ids = {} if tokenizers is None or common is None else tokenizers[1].ids
        self._left_out_ids = {ids[token] for token in self.left_out if token in ids}
        self.renamed = dict(changes.renamed)
        self._old_names = {new: old for old, new in changes.renamed}
        self._added = {token.token: token.id for token in changes.added}
        self._gained = {token.id: token.token for token in changes.added}
        self._listed = {token.token for token in changes.added if token.entry}

    def name(self, side: Side, token_id: int) -> Name:
        """The string of ``token_id`` in one model's tokenizer, or the id itself where it has none."""
        if self.tokenizers is None or self._is_common(side, token_id):
            return token_id
        name = self.tokenizers[SIDES.index(side)].token(token_id)
        return token_id if name is None else name

    def _is_common(self, side: Side, token_id: int) -> bool:
        """Whether an id means the same in all three because rows match by position."""
        return token_id < self._common and not (side == "tuned" and token_id in self._left_out_ids)

    def output_id(self, side: Side, token_id: int) -> int | None:
        """The id, in the output, of the token that ``side`` calls ``token_id``; None where the output lacks it."""
        # The output's ids are the target's: renames are in place, additions come behind.
        if self.tokenizers is None or side == "target" or self._is_common(side, token_id) or token_id < 0:
            return token_id
        name = self.name(side, token_id)
        return None if isinstance(name, int) else self.id_of(name)

    def id_of(self, token: str) -> int | None:
        """The id of a token in the output; None where the output lacks it, or nothing was read."""
        if token in self._added:
            return self._added[token]
        if self.tokenizers is None or token in self.renamed:
            return None
        return self.tokenizers[2].ids.get(self._old_names.get(token, token))

    def output_token(self, token_id: int) -> str | None:
        """The string of an id of the output; None where nothing was read, or it has none."""
        name = self._gained.get(token_id) or (None if self.tokenizers is None else self.tokenizers[2].token(token_id))
        return name if name is None else self.renamed.get(name, name)

    @property
    def by_string(self) -> bool:
        """Whether tokens are matched by string, all of them being known."""
        return self.tokenizers is not None and not self._common

    def are_left_out(self, side: Side, value: Any) -> bool:
        """Whether all tokens of a field that the output lacks are left out because a person chose so."""
        ids = value if isinstance(value, list) else [value]
        missing = [id for id in ids if isinstance(id, int) and self.output_id(side, id) is None]
        return bool(self.left_out) and all(self.name(side, id) in self.left_out for id in missing)

    def has(self, token: str) -> bool:
        """Whether the output's tokenizer knows ``token``; identical tokenizers are taken at their word."""
        if self.tokenizers is None or token in self._added or token in self._old_names:
            return True
        if self._common:
            # Of a tokenizer that is known in part, a token that nobody lists, or that lies in the common rows, is there.
            tuned, target = self.tokenizers[1:]
            return token in target.ids or (not target.whole and tuned.ids.get(token, 0) < self._common)
        return self.id_of(token) is not None

    def way_to_keep(self, tokens: Collection[Name], decide: str) -> str:
        """Advice on end tokens that the output lacks: the choice that keeps them, if there is one, or ``decide``."""
        if self._without_row.intersection(map(str, tokens)):
            return f"The tuned model has no row for it, so it cannot be kept. Choose with {decide}."
        if not self.by_string or any(isinstance(token, int) for token in tokens):
            return f"Choose with {decide}."
        shared = any(self.is_token_of("base", str(token)) for token in tokens)
        return f"Keep it with {named('new_tokens', 'all' if shared else 'append')}, or choose with {decide}."

    def is_token_of(self, side: Side, token: str) -> bool:
        """Whether one model's tokenizer is known to have ``token``."""
        return self.tokenizers is not None and token in self.tokenizers[SIDES.index(side)].ids

    def lost(self) -> list[str]:
        """Added tokens of any of the three models that the output lacks."""
        if self.tokenizers is None:
            return []
        known = {token for tokenizer in self.tokenizers for token in tokenizer.added}
        return sorted(token for token in known if not self.has(token))

    def unknown_to(self, side: Side) -> list[str]:
        """Added tokens of the output that one model's tokenizer does not have at all."""
        if self.tokenizers is None or not self.tokenizers[SIDES.index(side)].whole:
            return []
        return sorted(token for token in self.added() if not self.is_token_of(side, token))

    def added(self) -> set[str]:
        """Added tokens of the output, as far as tokenizers were read."""
        if self.tokenizers is None:
            return set()
        return {self.renamed.get(token, token) for token in self.tokenizers[2].added} | self._listed

    def named(self, side: Side, field: str, value: Any) -> Any:
        """``value`` with ids replaced by strings, fit for comparing. A set of end tokens has no order."""
        names = map_ids(field, value, lambda token_id: self.name(side, token_id))
        if field == "eos_token_id" and names is not None:
            return sorted(set(map(str, names if isinstance(names, list) else [names])))
        return names

    def carried(self, side: Side, field: str, value: Any) -> tuple[Any, list[Name]]:
        """``value`` with the output's ids, and the tokens that the output lacks."""
        missing: list[Name] = []

        def carry(token_id: int) -> int:
            there = self.output_id(side, token_id)
            if there is None:
                missing.append(self.name(side, token_id))
            return -1 if there is None else there

        return map_ids(field, value, carry), missing


def in_words(name: Name) -> str:
    """A token, or an id that no string is known of, as a message says it."""
    return quoted(name) if isinstance(name, str) else f"id {name}, which has no string"


def is_token_field(name: str) -> bool:
    """Whether a field of config.json or generation_config.json holds token ids."""
    return name in _TOKEN_LISTS or _TOKEN_FIELD.search(name) is not None


def ids_of(field: str, value: Any) -> list[int]:
    """The ids that a token field names, each once, in order."""
    seen: dict[int, None] = {}

    def visit(token_id: int) -> int:
        seen[token_id] = None
        return token_id

    map_ids(field, value, visit)
    return list(seen)


def map_ids(field: str, value: Any, change: Callable[[int], Name]) -> Any:
    """``value`` of a token field with every id changed; other values (a position, a bias) stay."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return change(value)
    if not isinstance(value, list):
        return value
    if field == "forced_decoder_ids":  # pairs of position and id
        return [
            [*pair[:1], *(map_ids("", item, change) for item in pair[1:])] if isinstance(pair, list) else pair
            for pair in value
        ]  # fmt: skip  (one shape a line)
    if field == "sequence_bias":  # pairs of ids and bias
        return [
            [*(map_ids("", item, change) for item in pair[:1]), *pair[1:]] if isinstance(pair, list) else pair
            for pair in value
        ]  # fmt: skip  (one shape a line)
    return [map_ids("", item, change) for item in value]
