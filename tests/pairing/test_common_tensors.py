"""What several checkpoints share: every tensor and row accounted for, and what cannot be compared refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from support import tiny_checkpoints as tiny

from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.errors import PairingError
from tuneport.pairing.common_tensors import Shared, share
from tuneport.pairing.tensors import ties_of

EMBEDDING = "model.embed_tokens.weight"


def shared_by(*paths: Path) -> Shared:
    checkpoints = [open_checkpoint(path, f"model {place}") for place, path in enumerate(paths)]
    return share(checkpoints, [ties_of(checkpoint) for checkpoint in checkpoints])


def test_every_tensor_of_equal_models_is_shared_by_position(tmp_path: Path) -> None:
    paths = [tiny.write_model(tmp_path / str(seed), tiny.llama(seed), shards=1 + seed) for seed in range(3)]
    found = shared_by(*paths)
    assert [tensor.name for tensor in found.tensors] == sorted(tiny.llama(0))
    assert all(tensor.rows is None and len(tensor.tensors) == 3 for tensor in found.tensors)
    assert (found.exact, found.alone, found.tokens) == ((), (), None)


def test_what_only_some_have_is_listed(tmp_path: Path) -> None:
    more, fewer = tiny.llama(0), tiny.llama(1)
    more["model.layers.0.extra.weight"] = torch.zeros(2)
    del fewer["model.layers.0.input_layernorm.weight"]
    found = shared_by(tiny.write_model(tmp_path / "a", more), tiny.write_model(tmp_path / "b", fewer))
    assert set(found.alone) == {"model.layers.0.extra.weight", "model.layers.0.input_layernorm.weight"}
    assert len(found.tensors) == len(fewer)


@settings(max_examples=25)
@given(some.permutations([*tiny.WORDS, "new", "other"]), some.permutations(tiny.WORDS))
def test_rows_meet_by_token_string(tmp_path: Path, one: list[str], other: list[str]) -> None:
    tensors = tiny.llama(0, rows=26), tiny.llama(1, rows=24)
    a = tiny.write_model(tmp_path / "a", tensors[0], words=one)
    b = tiny.write_model(tmp_path / "b", tensors[1], words=other)
    found = shared_by(a, b)
    (embedding,) = (tensor for tensor in found.tensors if tensor.name == EMBEDDING)
    assert embedding.rows is not None
    assert {(one[x], other[y]) for x, y in embedding.rows.tolist()} == {(word, word) for word in tiny.WORDS}
    assert found.tokens == (24, (2, 0))


def test_padded_rows_meet_nobody_where_tokens_agree(tmp_path: Path) -> None:
    a = tiny.write_model(tmp_path / "a", tiny.llama(0, rows=24))
    b = tiny.write_model(tmp_path / "b", tiny.llama(1, rows=32))
    found = shared_by(a, b)
    (embedding,) = (tensor for tensor in found.tensors if tensor.name == EMBEDDING)
    assert embedding.rows is not None
    assert embedding.rows.tolist() == [[row, row] for row in range(24)]
    assert embedding.elements == 24 * 8


def test_a_tied_head_counts_once_whoever_stores_it(tmp_path: Path) -> None:
    stored, single = tiny.llama(0), tiny.llama(1)
    stored["lm_head.weight"] = stored[EMBEDDING].clone()
    del single["lm_head.weight"]
    settings = tiny.config(tie_word_embeddings=True)
    paths = [
        tiny.write_model(tmp_path / str(place), tensors, settings=settings)
        for place, tensors in enumerate((stored, single))
    ]
    found = shared_by(*paths)
    assert [tensor.name for tensor in found.tensors] == sorted(single)


def test_shapes_that_differ_are_refused_with_both(tmp_path: Path) -> None:
    wider = tiny.llama(1)
    wider["model.norm.weight"] = torch.zeros(9)
    a, b = tiny.write_model(tmp_path / "a", tiny.llama(0)), tiny.write_model(tmp_path / "b", wider)
    with pytest.raises(PairingError, match=r"`model\.norm\.weight` is 8 in model 0 a and 9 in model 1 b"):
        shared_by(a, b)


def test_an_adapter_is_refused_with_what_to_do(tmp_path: Path) -> None:
    base = tiny.write_model(tmp_path / "a", tiny.llama(0))
    adapter = tiny.write_lora(tmp_path / "adapter", tiny.llama(0), 2)
    with pytest.raises(PairingError, match=r"adapter, which has no weights of its own. Merge it"):
        shared_by(base, adapter)


def test_vocabularies_of_different_kinds_are_refused(tmp_path: Path) -> None:
    a = tiny.write_model(tmp_path / "a", tiny.llama(0))
    b = tiny.write_model(tmp_path / "b", tiny.llama(1), words=[f"x{place}" for place in range(24)])
    with pytest.raises(PairingError, match="only 0 token strings"):
        shared_by(a, b)


def test_models_with_other_names_are_refused_as_a_whole(tmp_path: Path) -> None:
    other = {name.replace("model.", "decoder."): tensor for name, tensor in tiny.llama(1).items()}
    a, b = tiny.write_model(tmp_path / "a", tiny.llama(0)), tiny.write_model(tmp_path / "b", other)
    with pytest.raises(PairingError, match="of the parameters of model 0 a have a counterpart in model 1 b"):
        shared_by(a, b)
