"""Find the tensors that have one row per token, by their number of rows.

A vocabulary matrix (embedding, head, a head's bias, per-layer embeddings) has as many rows as the vocabulary has
entries, in each of the compared models: as counted by config.json or the tokenizer, or by another matrix with a known
name. If another size of the model is the same number, names decide for the kinds of models that transformers has
(`tuneport.pairing.vocabulary_names`, `class_tensors`). For other tensors and kinds nobody can know, and the run stops
with the option that decides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import named
from tuneport.files.printable import expression_of, quoted
from tuneport.pairing.buffers import is_computed_buffer
from tuneport.pairing.class_tensors import is_of_class
from tuneport.pairing.spelling_rules import rules_of
from tuneport.pairing.vocabulary_names import EMBEDDING, Ties, is_head_weight, is_known_kind, is_named_vocabulary
from tuneport.sidecars.config_kinds import kind_of
from tuneport.sidecars.token_ids import is_token_field

How = Literal["strings", "positions"]
# Up to this factor above or below the tokenizer's count, a size that nothing explains may be the vocabulary's: padded to a
# multiple of 64 or 128, or short of tokens without a row.
_NEARLY = 2
_NUMBER = re.compile(r"\d+")
_IN_A_LAYER = re.compile(r"\.\d+\.")
# What people call an embedding or a head, also where a layer has one (Medusa's heads, DeepSeek's prediction layers).
_LIKE_POSITIONS = re.compile(
    r"(^|[._])(wpe|pos|position|positions|position_embeddings?|embed_positions)([._]|$)", re.IGNORECASE
)
_LIKE_A_VOCABULARY = re.compile(r"(^|[._])(embed|unembed|(lm_?)?head|vocab|logit|predict)", re.IGNORECASE)


# The advice after the reason, with the options that decide; a `\0` separates reason and advice.
_EITHER = (
    f"\0, so it is not clear whether each row belongs to a token. The tokenizers differ, so it matters. Pass "
    f"{named('vocabulary', '{expression}=positions')} if its rows are not tokens, or "
    f"{named('vocabulary', '{expression}=strings')} to match its rows by token."
)
_COLUMNS = (
    f"\0, but only rows can be matched by token. The tokenizers differ, so it matters. Pass "
    f"{named('vocabulary', '{expression}=positions')} if its columns are not tokens; if they are, also pass "
    f"{named('rules', '{expression}=0')}, which keeps the target's tensor."
)
_NO_ROWS = f"\0, so its rows cannot be matched by token. Pass {named('vocabulary', '{expression}=positions')}, or remove your choice for it."


@dataclass(frozen=True)
class VocabularyTensors:
    """The tensors with one row per token, by all names they are stored under, and the rows of the main one in each model.

    ``undecided`` says, a line each, of which tensors it cannot be known. ``rows`` are 0 for a model without such a matrix.
    """

    names: frozenset[str]
    rows: tuple[int, ...]
    undecided: tuple[str, ...] = ()


@dataclass(frozen=True)
class Side:
    """One of the models: its tensors by weight (`written_tensors`), and what counts its vocabulary.

    ``tokens`` is the size of its tokenizer; None where the tokenizers are equal, and were not read.
    """

    tensors: Mapping[str, StoredTensor]
    config: Mapping[str, Any]
    tokens: int | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint, ties: Ties, tokens: int | None = None) -> Side:
        """The side of a checkpoint."""
        return cls(written_tensors(checkpoint, ties), checkpoint.config, tokens)


def written_tensors(checkpoint: Checkpoint, ties: Ties) -> Mapping[str, StoredTensor]:
    """The tensors that count, by weight: one that is stored under several tied names is the same one several times."""
    if not ties.tied:
        return checkpoint.tensors
    counts: dict[str, str] = {}  # of the weights that have several names, the stored name that counts
    weights: dict[str, str | None] = {}  # of these names, the first by its weight
    for name in checkpoint.tensors:
        if not ties.is_shared(name):
            continue
        weight = ties.weight(name)
        weights[name] = None if weight in counts else weight
        if weight not in counts or ties.is_source(name):
            counts[weight] = name
    return _WrittenTensors(checkpoint.tensors, counts, weights)


class _WrittenTensors(Mapping[str, StoredTensor]):
    """Tensors by weight, where some names hold one weight: a weight stands where the first of its names stood."""

    def __init__(
        self, tensors: Mapping[str, StoredTensor], counts: Mapping[str, str], weights: Mapping[str, str | None]
    ) -> None:
        self._tensors, self._counts, self._weights = tensors, counts, weights

    def __len__(self) -> int:
        return len(self._tensors) - len(self._weights) + len(self._counts)

    def __iter__(self) -> Iterator[str]:
        found = (self._weights.get(name, name) for name in self._tensors)
        return (weight for weight in found if weight is not None)

    def __getitem__(self, weight: str) -> StoredTensor:
        if weight in self._counts:
            return self._tensors[self._counts[weight]]
        if weight in self._weights:
            raise KeyError(weight)
        return self._tensors[weight]


def vocabulary_axis(shape: Sequence[int]) -> int:
    """The dimension that counts tokens: the first one, or the second of a bias that is stored as 1×V (BART's)."""
    return 1 if len(shape) == 2 and shape[0] == 1 else 0


def rows_of(tensor: StoredTensor) -> int:
    """Rows of a vocabulary matrix; 1 for a scalar."""
    return tensor.shape[vocabulary_axis(tensor.shape)] if tensor.shape else 1


def columns_of(tensor: StoredTensor) -> int:
    """Elements in one row of a vocabulary matrix."""
    return math.prod(tensor.shape[vocabulary_axis(tensor.shape) + 1 :])


def with_rows(shape: tuple[int, ...], rows: int) -> tuple[int, ...]:
    """The shape of a vocabulary matrix with another number of rows."""
    axis = vocabulary_axis(shape)
    return (*shape[:axis], rows, *shape[axis + 1 :])


def find_vocabulary_tensors(
    sides: Sequence[Side], decided: Callable[[str], How | None] = lambda name: None
) -> VocabularyTensors:
    """The vocabulary matrices that the models have in common (SEMANTICS: Tokens).

    ``decided`` is what a person said of a tensor with ``--vocabulary REGEX=strings|positions``.
    """
    survey = _Survey(sides)
    names: set[str] = set()
    undecided: dict[tuple[str, str], list[str]] = {}
    for weight in dict.fromkeys(weight for side in sides for weight in side.tensors):
        stored = [side.tensors.get(weight) for side in sides]
        called = next(tensor.name for tensor in reversed(stored) if tensor is not None)
        how = decided(called)
        doubt = survey.doubt(weight) if how is None else survey.objection(weight) if how == "strings" else None
        if doubt is not None:
            undecided.setdefault((_NUMBER.sub("N", called), doubt), []).append(called)
        elif how == "strings" or (how is None and survey.is_vocabulary(weight)):
            names.update(tensor.name for tensor in stored if tensor is not None)
    return VocabularyTensors(
        frozenset(names),
        tuple(_main_rows(side, names) for side in sides),
        tuple(_told(doubt, alike) for (_, doubt), alike in undecided.items()),
    )


def vocabulary_sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Every size of a vocabulary that a config names, by dotted field, those of its sub-configs included."""
    return {field: value for field, value in _numbers(config) if "vocab_size" in field.rpartition(".")[2]}


class _Survey:
    """What the sizes of all sides say about one tensor."""

    def __init__(self, sides: Sequence[Side]) -> None:
        self._sides = sides
        self._kinds = {kind for side in sides for kind in _kinds(side.config)}
        self._known = all(self._is_known(side) for side in sides)
        self._by_string = all(side.tokens is not None for side in sides)
        self._sizes = [self._sizes_of(side) for side in sides]
        self._fields = {
            value: field
            for side in sides
            for field, value in _numbers(side.config)
            if "vocab" not in field and not is_token_field(field.rpartition(".")[2])
        }
        self._widths = {
            size: tensor.name
            for side in sides
            for tensor in side.tensors.values()
            for size in tensor.shape[vocabulary_axis(tensor.shape) + 1 :]
        }

    def is_vocabulary(self, weight: str) -> bool:
        """Whether the tensor has one row per token in every model that has it."""
        stored = self._stored(weight)
        if not _are_floats(stored):
            return False
        if self._is_named(stored):
            return all(self._sizes[place].may_count(rows_of(tensor)) for place, tensor in stored)
        if not self._fits(stored) or self._coincidence(stored) is not None:
            return False
        grows = len({rows_of(tensor) for _, tensor in stored}) > 1  # as nothing but a vocabulary does, listed or not
        return grows or not self._is_of_class(stored)

    def doubt(self, weight: str) -> str | None:
        """Why it cannot be known whether the tensor has one row per token, where that matters; with the way out.

        Of a kind that transformers has, all vocabulary matrices are known by name, so of the class's other tensors nothing is asked.
        """
        stored = self._stored(weight)
        if not self._by_string or not _are_floats(stored) or self._is_named(stored):
            return None
        coincidence, counted = self._coincidence(stored), [self._has(place, tensor) for place, tensor in stored]
        if all(counted) and coincidence is None:
            return None  # it is one; or, of the class, none
        if not all(counted) and not self._is_nearly(stored) and not self._has_columns(stored):
            return None
        if is_computed_buffer(stored[0][1]) or self._is_of_class(stored):
            return None
        if all(counted):
            return f"has as many rows as the vocabulary, but {coincidence}{_EITHER}"
        if self._is_nearly(stored):
            if coincidence is None:
                return f"has nearly as many rows as the tokenizer has tokens, and nothing says why{_EITHER}"
            # For a known kind, a tensor that its class does not have is not a usual tensor of a layer.
            if self._known and (any(counted) or self._other_reason(stored) is None):
                return f"has nearly as many rows as the tokenizer has tokens, but {coincidence}{_EITHER}"
        return f"has as many columns as the vocabulary{_COLUMNS}" if self._has_columns(stored) else None

    def objection(self, weight: str) -> str | None:
        """Why the rows of a tensor cannot be matched by token, though a person said so; with the way out."""
        stored = self._stored(weight)
        if not self._by_string:
            return None
        if _are_floats(stored) and all(self._sizes[place].may_count(rows_of(tensor)) for place, tensor in stored):
            return None
        return f"does not have a row for each token{_NO_ROWS}"

    def _stored(self, weight: str) -> list[tuple[int, StoredTensor]]:
        found = [(place, side.tensors.get(weight)) for place, side in enumerate(self._sides)]
        return [(place, tensor) for place, tensor in found if tensor is not None]

    def _is_known(self, side: Side) -> bool:
        """Whether the names of all vocabulary matrices are known: transformers has the kind, and its names are those."""
        kind = kind_of(side.config)
        named = any(is_named_vocabulary(tensor.name, self._kinds) for tensor in side.tensors.values())
        return kind is not None and is_known_kind(kind) and named

    def _is_named(self, stored: Iterable[tuple[int, StoredTensor]]) -> bool:
        return any(is_named_vocabulary(tensor.name, self._kinds) for _, tensor in stored)

    def _is_of_class(self, stored: Sequence[tuple[int, StoredTensor]]) -> bool:
        """Whether the class of a kind that is known has the tensor, under its name here or in another of its spellings."""
        if not self._known:
            return False
        name = stored[0][1].name
        spellings = (
            rules.names([name]) for rules in (rules_of(side.config) for side in self._sides) if rules is not None
        )
        names = {name, *(other[name] for each in spellings for other in each)}
        return any(is_of_class(each, self._kinds) for each in names)

    def _fits(self, stored: Iterable[tuple[int, StoredTensor]]) -> bool:
        return all(self._has(place, tensor) for place, tensor in stored)

    def _has(self, place: int, tensor: StoredTensor) -> bool:
        return self._sizes[place].has(rows_of(tensor))

    def _is_nearly(self, stored: Iterable[tuple[int, StoredTensor]]) -> bool:
        return all(
            (tokens := self._sides[place].tokens) is not None
            and (self._sizes[place].has(rows_of(tensor)) or tokens <= _NEARLY * rows_of(tensor) <= _NEARLY**2 * tokens)
            for place, tensor in stored
        )

    def _has_columns(self, stored: Sequence[tuple[int, StoredTensor]]) -> bool:
        """Whether a later dimension counts the vocabulary, as in a head that is stored the other way round."""
        first = stored[0][1]
        if not self._known and _is_of_a_layer(first.name):
            return False
        return any(
            (self._known or size not in self._fields)
            and all(
                len(tensor.shape) == len(first.shape)
                and self._sizes[place].has(tensor.shape[axis])
                and rows_of(tensor) != size
                for place, tensor in stored
            )
            for axis, size in enumerate(first.shape)
            if axis > vocabulary_axis(first.shape)
        )

    def _coincidence(self, stored: Sequence[tuple[int, StoredTensor]]) -> str | None:
        """What else may be the reason that the tensor has so many rows, in words; None where it can only be the vocabulary."""
        if len({rows_of(tensor) for _, tensor in stored}) > 1:
            return None  # no other size of a model follows its vocabulary from version to version
        reason = self._other_reason(stored)
        return reason or ("it belongs to a layer" if _is_of_a_layer(stored[0][1].name) else None)

    def _other_reason(self, stored: Sequence[tuple[int, StoredTensor]]) -> str | None:
        """Another size of the model that is the same number, or a name that says what the rows are for, in words."""
        name, rows = stored[0][1].name, rows_of(stored[0][1])
        if rows in self._fields:
            return f"{quoted(self._fields[rows])} of config.json is the same number"
        if self._widths.get(rows, name) != name:
            return f"{quoted(self._widths[rows])} has as many columns"
        return "its name suggests positions" if _LIKE_POSITIONS.search(name) else None

    def _sizes_of(self, side: Side) -> _Sizes:
        named = {
            rows_of(tensor)
            for tensor in side.tensors.values()
            if len(tensor.shape) == 2 and is_named_vocabulary(tensor.name, self._kinds)
        }
        counted = {*vocabulary_sizes(side.config).values(), *named} - {0, 1}
        # A codebook of a vision or audio tower is another vocabulary, and much smaller than the text's.
        least = (side.tokens if side.tokens is not None else max(counted, default=0)) / 2
        counted |= {side.tokens} if side.tokens is not None else set()
        return _Sizes(frozenset(size for size in counted if size >= least), least)


@dataclass(frozen=True)
class _Sizes:
    """How many entries the vocabulary of one model has, by each of those that count it."""

    counted: frozenset[int]
    least: float

    def has(self, rows: int) -> bool:
        return rows in self.counted

    def may_count(self, rows: int) -> bool:
        """Whether a matrix whose name says that it counts tokens can have so many rows."""
        return rows >= self.least


def _are_floats(stored: Iterable[tuple[int, StoredTensor]]) -> bool:
    return all(DTYPES[tensor.dtype].kind == "float" and tensor.shape for _, tensor in stored)


def _is_of_a_layer(name: str) -> bool:
    """Whether a name has the number of a layer, and nothing in it that an embedding or a head is called."""
    return _IN_A_LAYER.search(name) is not None and not _LIKE_A_VOCABULARY.search(name)


def _main_rows(side: Side, names: set[str]) -> int:
    """Rows of the embedding, else of the largest matrix with one row per token."""
    found = [tensor for tensor in side.tensors.values() if tensor.name in names and tensor.shape]
    found.sort(key=lambda t: (not EMBEDDING.search(t.name), is_head_weight(t.name), -t.elements))
    return rows_of(found[0]) if found else 0


def _numbers(config: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, int]]:
    """Whole numbers of a config by dotted field; of a list each of them."""
    for field, value in config.items():
        if isinstance(value, Mapping) and depth < 8:
            yield from _numbers(value, f"{prefix}{field}.", depth + 1)
        for number in value if isinstance(value, list) else (value,):
            if isinstance(number, int) and not isinstance(number, bool):
                yield f"{prefix}{field}", number


def _kinds(config: Mapping[str, Any]) -> Iterator[str]:
    for part in (config, *(value for value in config.values() if isinstance(value, Mapping))):
        kind = kind_of(part)
        if kind is not None:
            yield kind


def _told(doubt: str, alike: Sequence[str]) -> str:
    reason, advice = doubt.split("\0")
    more = f" (and {len(alike) - 1} like it)" if len(alike) > 1 else ""
    parts = _NUMBER.split(alike[0]) if len(alike) > 1 else alike[:1]
    expression = r"\d+".join(map(expression_of, parts))
    return f"{quoted(alike[0])}{more} {reason}{advice.format(expression=f'^{expression}$')}"
