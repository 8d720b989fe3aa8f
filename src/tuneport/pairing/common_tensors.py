"""What several checkpoints have in common: tensors of the same name, and rows of the same token.

For checkpoints to be compared, or joined by a line, value by value: each tensor of the last one gets its counterpart in
each of the others, and rows of embeddings are matched. Tensors without a counterpart in all are listed by name; models
of different kinds are refused in one message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.small_files import TOKENIZER_FILES
from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import PairingError, listing
from tuneport.files.printable import quoted
from tuneport.pairing.buffers import is_computed_buffer
from tuneport.pairing.model_kinds import MOST_MUST_PAIR, check_architectures
from tuneport.pairing.spelling import align
from tuneport.pairing.tensors import check_readable
from tuneport.pairing.vocabulary_matrices import Side, VocabularyTensors, columns_of, find_vocabulary_tensors, rows_of
from tuneport.pairing.vocabulary_names import Ties
from tuneport.tokenizer.tokenizer import Tokenizer, read_tokenizer, tokenizers_agree

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SharedTensor:
    """One tensor as each checkpoint has it, under the last one's name.

    ``rows`` has a column for each checkpoint and a line for each row they share; None where all rows meet by position.
    """

    name: str
    tensors: tuple[StoredTensor, ...]
    rows: Rows | None = None

    @property
    def elements(self) -> int:
        """Elements that have a partner everywhere."""
        last = self.tensors[-1]
        return last.elements if self.rows is None else len(self.rows) * columns_of(last)


@dataclass(frozen=True)
class Shared:
    """What several checkpoints share. ``exact`` are integers and booleans; ``alone`` has no partner somewhere.

    ``tokens`` counts what was matched by string: the tokens all have, and of each checkpoint those that another lacks;
    None where rows meet by position.
    """

    tensors: tuple[SharedTensor, ...]
    exact: tuple[SharedTensor, ...]
    alone: tuple[str, ...]
    tokens: tuple[int, tuple[int, ...]] | None


def share(checkpoints: Sequence[Checkpoint], ties: Sequence[Ties]) -> Shared:
    """The tensors and rows that all ``checkpoints`` have. ``ties`` say which names hold one weight in each.

    Raises `PairingError` if they are of different kinds, quantised, adapters, or share too little.
    """
    for checkpoint in checkpoints:
        if checkpoint.adapter is not None:
            raise PairingError(
                f"{checkpoint.role} {checkpoint.label} is a PEFT adapter, which has no weights of its own. Merge it with "
                "peft (merge_and_unload().save_pretrained(…)) and give the merged folder."
            )
        check_readable(checkpoint)
    check_architectures(*checkpoints)
    checkpoints = [*align(checkpoints[:-1], checkpoints[-1], may_rename=False).checkpoints, checkpoints[-1]]
    sides = [Side.of(checkpoint, own) for checkpoint, own in zip(checkpoints, ties, strict=True)]
    written = [{w: tensor for w, tensor in side.tensors.items() if not is_computed_buffer(tensor)} for side in sides]
    tokenizers = _tokenizers(checkpoints, sides)
    if tokenizers is not None:
        sides = [replace(side, tokens=tokenizer.size) for side, tokenizer in zip(sides, tokenizers, strict=True)]
    vocabulary = find_vocabulary_tensors(sides)
    if vocabulary.undecided:
        raise PairingError(f"{_names(checkpoints)} cannot be compared:{listing(list(vocabulary.undecided))}")
    shared_ids = None if tokenizers is None else _shared_ids(checkpoints, tokenizers)
    tensors: list[SharedTensor] = []
    exact: list[SharedTensor] = []
    alone: list[str] = []
    met: list[set[str]] = [set() for _ in checkpoints]
    for last in written[-1].values():
        name = last.name
        found = [own.get(tied.weight(name)) for own, tied in zip(written[:-1], ties, strict=False)]
        partners = (*(partner for partner in found if partner is not None), last)
        for own, partner in zip(met, (*found, last), strict=True):
            if partner is not None:
                own.add(partner.name)
        if len(partners) < len(checkpoints):
            alone.append(name)
            continue
        together = _together(name, partners, shared_ids if name in vocabulary.names else None, vocabulary, checkpoints)
        (exact if DTYPES[last.dtype].kind == "exact" else tensors).append(together)
    for seen, of_checkpoint in zip(met, written, strict=True):
        names = [tensor.name for tensor in of_checkpoint.values()]
        alone += [name for name in names if name not in seen and name not in alone]
    _check_most(checkpoints, tensors, written)
    tokens = None
    if tokenizers is not None and shared_ids is not None:
        tokens = len(shared_ids), tuple(len(each.ids) - len(shared_ids) for each in tokenizers)
    return Shared(tuple(tensors), tuple(exact), tuple(alone), tokens)


def _together(
    name: str,
    partners: tuple[StoredTensor, ...],
    shared_ids: Rows | None,
    vocabulary: VocabularyTensors,
    checkpoints: Sequence[Checkpoint],
) -> SharedTensor:
    if len({DTYPES[partner.dtype].kind for partner in partners}) > 1:
        raise PairingError(f"{quoted(name)} holds {_each(checkpoints, [partner.dtype for partner in partners])}.")
    shapes = {partner.shape for partner in partners}
    by_token = name in vocabulary.names and len({(len(p.shape), columns_of(p)) for p in partners}) == 1
    if len(shapes) > 1 and not by_token:
        told = ["×".join(map(str, partner.shape)) or "a scalar" for partner in partners]
        raise PairingError(f"{quoted(name)} is {_each(checkpoints, told)}; only rows of embeddings may differ.")
    if not by_token or (len(shapes) == 1 and shared_ids is None):
        return SharedTensor(name, partners)
    counts = [rows_of(partner) for partner in partners]
    if shared_ids is None:  # the same tokens by the same ids, padded to another number of rows
        return SharedTensor(name, partners, np.repeat(np.arange(min(counts))[:, None], len(partners), axis=1))
    return SharedTensor(name, partners, shared_ids[(shared_ids < counts).all(axis=1)])


def _tokenizers(checkpoints: Sequence[Checkpoint], sides: Sequence[Side]) -> list[Tokenizer] | None:
    """The vocabularies, where they have to be matched by token string; None where ids agree."""
    folders = [checkpoint.sidecars for checkpoint in checkpoints]
    if tokenizers_agree(folders):
        rows = find_vocabulary_tensors(sides).rows
        if any(count != rows[0] for count in rows) and not any(folders[0].has(name) for name in TOKENIZER_FILES):
            raise PairingError(
                f"{_names(checkpoints)}: their embeddings differ in rows, but none of them has a tokenizer that maps "
                f"rows to tokens. Put each model's tokenizer.json into its folder."
            )
        return None
    found = []
    for folder in folders:
        try:
            found.append(read_tokenizer(folder))
        except PairingError:
            raise PairingError(
                f"{_names(checkpoints)}: their tokenizers differ, and that of {folder.role} {folder.label} cannot be "
                "read, so rows cannot be matched by token string. Put its tokenizer.json there (AutoTokenizer's "
                "save_pretrained writes one)."
            ) from None
    return found


def _shared_ids(checkpoints: Sequence[Checkpoint], tokenizers: Sequence[Tokenizer]) -> Rows:
    last = tokenizers[-1]
    others = tokenizers[:-1]
    tokens = sorted((t for t in last.ids if all(t in each.ids for each in others)), key=last.ids.__getitem__)
    if 2 * len(tokens) < min(len(each.ids) for each in tokenizers):
        raise PairingError(
            f"{_names(checkpoints)}: only {len(tokens):,} token strings are in all their vocabularies "
            f"({', '.join(f'{len(each.ids):,}' for each in tokenizers)} tokens). They are different kinds of "
            f"tokenizers."
        )
    ids = np.array([[each.ids[token] for each in tokenizers] for token in tokens], np.int64)
    return ids.reshape(-1, len(tokenizers))


def _check_most(
    checkpoints: Sequence[Checkpoint], tensors: Sequence[SharedTensor], written: Sequence[dict[str, StoredTensor]]
) -> None:
    for place, (checkpoint, own) in enumerate(zip(checkpoints, written, strict=True)):
        total = max(sum(tensor.elements for tensor in own.values()), 1)
        paired = sum(together.tensors[place].elements for together in tensors)
        if paired < MOST_MUST_PAIR * total:
            raise PairingError(
                f"Only {paired / total:.0%} of the parameters of {checkpoint.role} {checkpoint.label} have a "
                f"counterpart in {_names([other for other in checkpoints if other is not checkpoint])}. They look "
                "like different models, or name their tensors differently; load each with AutoModelForCausalLM and "
                "save it again to make the names agree."
            )


def _each(checkpoints: Sequence[Checkpoint], what: Sequence[str]) -> str:
    return " and ".join(f"{text} in {c.role} {c.label}" for text, c in zip(what, checkpoints, strict=True))


def _names(checkpoints: Sequence[Checkpoint]) -> str:
    return ", ".join(f"{checkpoint.role} {checkpoint.label}" for checkpoint in checkpoints)
