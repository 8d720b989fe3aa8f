"""Weights that a tied config makes one are changed once by an adapter, under the name that is stored."""

from __future__ import annotations

from tuneport.checkpoint.adapter import AdapterChange
from tuneport.checkpoint.weights import StoredTensor
from tuneport.pairing.adapters.adapted_ties import untied
from tuneport.pairing.vocabulary_names import Ties

EMBEDDING, HEAD = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
BIAS, HEADS_BIAS = "cls.predictions.bias", "cls.predictions.decoder.bias"
BERT = Ties(True, "bert", [EMBEDDING, BIAS])


def whole(name: str, *shape: int) -> AdapterChange:
    elements = 1
    for size in shape:
        elements *= size
    return AdapterChange(whole=StoredTensor(name, "F32", shape, "adapter_model.safetensors", 0, 4 * elements))


def test_head_and_embedding_saved_after_a_resize_are_one_and_the_heads_bias_is_the_stored_one() -> None:
    """What peft saves of a BERT that was resized: everything under the embedding and under the head."""
    changes = {
        EMBEDDING: whole(EMBEDDING, 6, 4),
        HEAD: whole(HEAD, 6, 4),
        HEADS_BIAS: whole(HEADS_BIAS, 6),
        "bert.pooler.weight": whole("pooler", 4, 4),
    }
    found, alike, faults = untied(changes, BERT, kept_tied=False)
    assert sorted(found) == [EMBEDDING, "bert.pooler.weight", BIAS] and not faults
    assert [(one.one.name, one.other.name) for one in alike] == [(EMBEDDING, HEAD)]


def test_a_head_that_was_trained_apart_is_refused() -> None:
    _, _, faults = untied({HEAD: whole(HEAD, 6, 4)}, BERT, kept_tied=False)
    assert len(faults) == 1 and "trains the head separately" in faults[0]


def test_of_a_decoder_without_its_encoder_the_embedding_stands_for_what_both_shared() -> None:
    embedding, head = "model.decoder.embed_tokens.weight", "lm_head.weight"
    changes = {head: whole(head, 6, 4), embedding: whole(embedding, 6, 4)}
    found, alike, faults = untied(changes, Ties(True, "bart", [embedding]), kept_tied=False)
    assert list(found) == [embedding] and not faults
    assert [(one.one.name, one.other.name) for one in alike] == [(embedding, head)]


def test_an_untied_model_keeps_all_changes() -> None:
    changes = {HEAD: whole(HEAD, 6, 4), EMBEDDING: whole(EMBEDDING, 6, 4)}
    assert untied(changes, Ties(False, "bert", [EMBEDDING, HEAD]), kept_tied=False) == (changes, [], [])
