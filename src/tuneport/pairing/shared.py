"""What several checkpoints have in common: tensors of the same name, and rows of the same token.

In come checkpoints whose weights are to be compared, or joined by a line, number by number; out comes, for every tensor
of the last one, its partner in each of the others, and which rows of embeddings belong together. The promise: what has
no partner everywhere is listed by name, and models of different kinds are refused in one message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.folder import TOKENIZER_FILES
from tuneport.checkpoint.matrices import is_vocabulary
from tuneport.checkpoint.tokenizer import Tokenizer, read_tokenizer, tokenizers_agree
from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import PairingError
from tuneport.pairing.tensors import (
    MOST_MUST_PAIR,
    check_architectures,
    check_readable,
    find_tensor,
    written_tensors,
)

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
        return last.elements if self.rows is None else len(self.rows) * (last.elements // max(last.shape[0], 1))


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


def share(checkpoints: Sequence[Checkpoint], ties: Sequence[bool]) -> Shared:
    """The tensors and rows that all ``checkpoints`` have. ``ties``: whether head and embedding are one, in each.

    Raises `PairingError` where they are of different kinds, quantised, adapters, or share too little.
    """
    for checkpoint in checkpoints:
        if checkpoint.adapter is not None:
            raise PairingError(
                f"{checkpoint.role} {checkpoint.label} is a PEFT adapter, which has no weights of its own. Merge it with "
                "peft (merge_and_unload().save_pretrained(…)) and give the merged folder."
            )
        check_readable(checkpoint)
    check_architectures(*checkpoints)
    written = [written_tensors(checkpoint, tied) for checkpoint, tied in zip(checkpoints, ties, strict=True)]
    tokenizers = _tokenizers(checkpoints)
    shared_ids = None if tokenizers is None else _shared_ids(checkpoints, tokenizers)
    tensors: list[SharedTensor] = []
    exact: list[SharedTensor] = []
    alone: list[str] = []
    met: list[set[str]] = [set() for _ in checkpoints]
    for name, last in written[-1].items():
        found = [find_tensor(own, tied, name) for own, tied in zip(written[:-1], ties, strict=False)]
        partners = (*(partner for partner in found if partner is not None), last)
        for own, partner in zip(met, (*found, last), strict=True):
            if partner is not None:
                own.add(partner.name)
        if len(partners) < len(checkpoints):
            alone.append(name)
            continue
        together = _together(name, partners, shared_ids, checkpoints)
        (exact if DTYPES[last.dtype].kind == "exact" else tensors).append(together)
    for own, of_checkpoint in zip(met, written, strict=True):
        alone += [name for name in of_checkpoint if name not in own and name not in alone]
    _check_most(checkpoints, tensors, written)
    tokens = None
    if tokenizers is not None and shared_ids is not None:
        tokens = len(shared_ids), tuple(len(each.ids) - len(shared_ids) for each in tokenizers)
    return Shared(tuple(tensors), tuple(exact), tuple(alone), tokens)


def _together(
    name: str, partners: tuple[StoredTensor, ...], shared_ids: Rows | None, checkpoints: Sequence[Checkpoint]
) -> SharedTensor:
    if len({DTYPES[partner.dtype].kind for partner in partners}) > 1:
        raise PairingError(f"`{name}` holds {_each(checkpoints, [partner.dtype for partner in partners])}.")
    shapes = {partner.shape for partner in partners}
    rows_may_differ = is_vocabulary(name) and all(shape for shape in shapes) and len({s[1:] for s in shapes}) == 1
    if len(shapes) > 1 and not rows_may_differ:
        told = ["×".join(map(str, partner.shape)) or "a scalar" for partner in partners]
        raise PairingError(f"`{name}` is {_each(checkpoints, told)}; only rows of embeddings may differ.")
    if not rows_may_differ or (len(shapes) == 1 and shared_ids is None):
        return SharedTensor(name, partners)
    counts = [partner.shape[0] for partner in partners]
    if shared_ids is None:  # the same tokens by the same ids, padded to another number of rows
        return SharedTensor(name, partners, np.repeat(np.arange(min(counts))[:, None], len(partners), axis=1))
    return SharedTensor(name, partners, shared_ids[(shared_ids < counts).all(axis=1)])


def _tokenizers(checkpoints: Sequence[Checkpoint]) -> list[Tokenizer] | None:
    """The vocabularies, where they have to be matched by token string; None where ids agree."""
    folders = [checkpoint.sidecars for checkpoint in checkpoints]
    if tokenizers_agree(folders):
        rows = [{t.shape[:1] for name, t in c.tensors.items() if is_vocabulary(name)} for c in checkpoints]
        if any(found != rows[0] for found in rows) and not any(folders[0].has(name) for name in TOKENIZER_FILES):
            raise PairingError(
                f"{_names(checkpoints)}: their embeddings differ in rows, and none of them has a tokenizer that says "
                "which row is which token. Put each model's tokenizer.json into its folder."
            )
        return None
    found = []
    for folder in folders:
        try:
            found.append(read_tokenizer(folder))
        except PairingError:
            raise PairingError(
                f"{_names(checkpoints)}: their tokenizers differ, and that of {folder.role} {folder.label} cannot be read: "
                "rows are matched by token string. Put its tokenizer.json there (AutoTokenizer's save_pretrained writes "
                "one)."
            ) from None
    return found


def _shared_ids(checkpoints: Sequence[Checkpoint], tokenizers: Sequence[Tokenizer]) -> Rows:
    last = tokenizers[-1]
    others = tokenizers[:-1]
    tokens = sorted((t for t in last.ids if all(t in each.ids for each in others)), key=last.ids.__getitem__)
    if 2 * len(tokens) < min(len(each.ids) for each in tokenizers):
        raise PairingError(
            f"{_names(checkpoints)}: only {len(tokens):,} token strings are in all their vocabularies "
            f"({', '.join(f'{len(each.ids):,}' for each in tokenizers)} tokens). They are of different kinds."
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
                f"Only {paired / total:.0%} of the parameters of {checkpoint.role} {checkpoint.label} have a partner in "
                f"{_names([other for other in checkpoints if other is not checkpoint])}. They look like different models, "
                "or name their tensors differently; load each with AutoModelForCausalLM and save it again to make the "
                "names agree."
            )


def _each(checkpoints: Sequence[Checkpoint], what: Sequence[str]) -> str:
    return " and ".join(f"{text} in {c.role} {c.label}" for text, c in zip(what, checkpoints, strict=True))


def _names(checkpoints: Sequence[Checkpoint]) -> str:
    return ", ".join(f"{checkpoint.role} {checkpoint.label}" for checkpoint in checkpoints)
