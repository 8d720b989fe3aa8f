"""Tokens that a model has and has never read, told by their rows.

In come a checkpoint and tokens, out come those whose rows are the marks of it. In pretraining the row of a token that never
comes is moved by one thing only, by being the answer to nothing: in the output matrix all such rows go the same way, until
they are one row but for their random starts. In an embedding of its own they stay at their start, or shrink to nothing.
Where a model has been trained too briefly, or otherwise, none of this can be seen, and nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.reading import TensorReader, reading
from tuneport.checkpoint.weights import StoredTensor
from tuneport.pairing.vocabulary_names import EMBEDDING, is_head_weight

# Two other rows within a tenth of the row's own distance from the mean row. On models where it is known, unread rows stand
# at 0.08 and nearer, words that stand in for one another everywhere at 0.12, others from 0.2 on (docs/design.md).
ONE_ROW = 0.1
# Of the usual length; rows of reserved tokens are reported to be (nearly) zero in the bases of Llama 3.
NOTHING = 0.01
_PIECE = 2**24  # bytes read at once


def unread(start: Checkpoint, tokens: Mapping[str, int], trained: Sequence[str] = ()) -> dict[str, str]:
    """Those of ``tokens`` (with their ids) that the model has never read, each with the tensor that tells.

    Modules in ``trained`` are not looked at: the fine-tuning will teach them all their rows.
    """
    if not tokens:
        return {}
    spared = {module.rpartition(".")[2] for module in trained}
    looked_at = {n: t for n, t in start.tensors.items() if n.removesuffix(".weight").rpartition(".")[2] not in spared}
    embeddings = [tensor for name, tensor in looked_at.items() if EMBEDDING.search(name)]
    heads = [tensor for name, tensor in looked_at.items() if is_head_weight(name)]
    tied = bool(start.config.get("tie_word_embeddings")) or not any(map(is_head_weight, start.tensors))
    found: dict[str, str] = {}
    with reading(start) as reader:
        for tensor in embeddings[:1]:
            found |= dict.fromkeys(_shrunken(reader, tensor, tokens), tensor.name)
        for tensor in embeddings[:1] if tied else heads[:1]:
            found |= dict.fromkeys(_alike(reader, tensor, tokens), tensor.name)
    return {token: found[token] for token in tokens if token in found}


def _shrunken(reader: TensorReader, tensor: StoredTensor, tokens: Mapping[str, int]) -> list[str]:
    """Tokens whose rows are all but zero, where others' are not."""
    import torch

    norms = torch.cat([piece.norm(dim=1) for piece in _pieces(reader, tensor)])
    return [token for token, id in tokens.items() if id < len(norms) and norms[id] < NOTHING * norms.median()]


def _alike(reader: TensorReader, tensor: StoredTensor, tokens: Mapping[str, int]) -> list[str]:
    """Tokens whose rows are nearly the same as two others, as far as rows of this matrix go."""
    import torch

    there = {token: id for token, id in tokens.items() if id < tensor.shape[0]}
    if not there or tensor.shape[0] < 4:
        return []
    asked = torch.cat([_rows(reader, tensor, id, 1) for id in there.values()])
    mean, distances = torch.zeros(tensor.shape[1], dtype=torch.float64), []
    for piece in _pieces(reader, tensor):
        mean += piece.sum(dim=0, dtype=torch.float64)
        distances.append(torch.cdist(asked, piece, compute_mode="donot_use_mm_for_euclid_dist"))
    from_mean = (asked - (mean / tensor.shape[0]).float()).norm(dim=1)
    second = torch.cat(distances, dim=1).topk(3, dim=1, largest=False).values[:, 2]  # the first is the row itself
    return [token for place, token in enumerate(there) if second[place] < ONE_ROW * from_mean[place]]


def _pieces(reader: TensorReader, tensor: StoredTensor) -> Iterator[Any]:
    """The matrix in float32, some rows at a time."""
    rows, width = tensor.shape
    step = max(1, _PIECE // (4 * width))
    for first in range(0, rows, step):
        yield _rows(reader, tensor, first, min(step, rows - first))


def _rows(reader: TensorReader, tensor: StoredTensor, first: int, count: int) -> Any:
    import torch

    dtype, width = DTYPES[tensor.dtype], tensor.shape[1]
    content = bytearray(count * width * dtype.itemsize)
    reader.read_into(tensor, first * width * dtype.itemsize, memoryview(content))
    return torch.frombuffer(content, dtype=getattr(torch, dtype.torch)).view(count, width).float()
