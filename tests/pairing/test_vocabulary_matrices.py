"""A vocabulary matrix is known by its rows in all of the models; where rows cannot tell, a name that is known, or a stop."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import FLAGS
from tuneport.pairing.buffers import is_computed_buffer
from tuneport.pairing.class_tensors import is_of_class
from tuneport.pairing.vocabulary_matrices import (
    Side,
    VocabularyTensors,
    columns_of,
    find_vocabulary_tensors,
    rows_of,
    vocabulary_sizes,
    with_rows,
)
from tuneport.pairing.vocabulary_names import Ties, is_named_vocabulary

H, V = 32, 312


def tensor(name: str, *shape: int, dtype: str = "BF16") -> StoredTensor:
    return StoredTensor(name, dtype, shape, "model.safetensors", 0, 2 * math.prod(shape))


def side(*tensors: StoredTensor, tokens: int | None = V, **config: Any) -> Side:
    settings = {"model_type": "a-new-kind", "hidden_size": H, "intermediate_size": 48, "vocab_size": V, **config}
    return Side({each.name: each for each in tensors}, settings, tokens)


def found(*tensors: StoredTensor, tokens: int | None = V, **config: Any) -> VocabularyTensors:
    return find_vocabulary_tensors([side(*tensors, tokens=tokens, **config)] * 3)


@pytest.mark.parametrize(
    "known",
    [
        tensor("backbone.embeddings.weight", V, H),
        tensor("transformer.tokens_embed.weight", V, H),
        tensor("shared.weight", V, H),
        tensor("model.embed_tokens_per_layer.weight", V, 2 * 8),
        tensor("cls.predictions.bias", V),
        tensor("final_logits_bias", 1, V),
        tensor("model.E", V, H),
        tensor("model.layers.61.shared_head.head.weight", V, H),
        tensor("medusa_head.0.1.weight", V, H),
    ],
    ids=lambda each: each.name,
)
def test_a_tensor_with_a_row_for_each_entry_is_found_whatever_its_name(known: StoredTensor) -> None:
    other = [tensor("model.layers.0.mlp.up_proj.weight", 48, H), tensor("norm.weight", H)]
    assert found(known, *other) == VocabularyTensors(frozenset({known.name}), (V, V, V))


def test_padded_rows_are_known_by_config_or_by_another_matrix_and_a_tokenizer_of_fewer_tokens() -> None:
    embedding, bias = tensor("model.table", 320, H), tensor("model.bias", 320)
    assert found(embedding, bias, vocab_size=320).names == {embedding.name, bias.name}
    # config.json counts what the tokenizer has, the weights are padded: the embedding's known name tells the others
    named = tensor("model.embed_tokens.weight", 320, H)
    assert found(named, bias).names == {named.name, bias.name}
    # nothing known: a stop that names it
    lonely = found(embedding)
    assert not lonely.names and "nearly as many rows as the tokenizer has tokens" in lonely.undecided[0]


@pytest.mark.parametrize("rows", [V - 1, V + 1, 512, 2 * V])
def test_rows_that_nothing_explains_stop_as_far_as_a_vocabulary_may_be_padded_or_lack_rows(rows: int) -> None:
    (line,) = found(tensor("model.table", rows, H)).undecided
    assert "`model.table` has nearly as many rows as the tokenizer has tokens" in line
    assert not found(tensor("model.table", 2 * V + 1, H)).undecided


def test_one_model_with_a_full_vocabulary_does_not_hide_that_the_others_are_padded() -> None:
    table = tensor("model.table", 320, H)
    sides = [side(table, tokens=tokens, vocab_size=None) for tokens in (V, V, 320)]
    assert len(find_vocabulary_tensors(sides).undecided) == 1


def test_each_model_counts_by_its_own_sizes() -> None:
    names = ("model.table", "model.layers.0.mlp.up_proj.weight")
    sides = [
        side(tensor(names[0], rows, H), tensor(names[1], 48, H), tokens=rows, vocab_size=rows)
        for rows in (V, V + 2, V + 1)
    ]
    assert find_vocabulary_tensors(sides) == VocabularyTensors(frozenset({names[0]}), (V, V + 2, V + 1))


def test_rows_that_follow_the_vocabulary_from_version_to_version_are_no_coincidence() -> None:
    name = "model.layers.0.table.weight"  # as many rows as a field of the base's config
    sides = [side(tensor(name, rows, H), tokens=rows, vocab_size=rows, intermediate_size=V) for rows in (V, V + 2, V)]
    assert find_vocabulary_tensors(sides).names == {name}


@pytest.mark.parametrize(
    ("others", "config", "said"),
    [
        ([], {"intermediate_size": V}, "`intermediate_size` of config.json is the same number"),
        ([tensor("model.down.weight", H, V)], {}, "`model.down.weight` has as many columns"),
    ],
)
def test_a_coincidence_stops_where_the_kind_is_not_known_and_names_the_flag(
    others: list[StoredTensor], config: dict[str, Any], said: str
) -> None:
    doubtful = tensor("model.up.weight", V, H)
    undecided = found(doubtful, *others, **config).undecided
    assert len([line for line in undecided if "`model.up.weight`" in line]) == 1
    line = next(line for line in undecided if "`model.up.weight`" in line)
    assert (
        said in line
        and r"--vocabulary '^model\.up\.weight$=positions'" in FLAGS.message(line)
        and "=strings'" in FLAGS.message(line)
    )


def test_the_layers_of_one_kind_are_asked_about_once_and_the_expression_decides_all() -> None:
    layers = [tensor(f"model.blocks.{layer}.up.weight", V, H) for layer in range(3)]
    (line,) = found(*layers).undecided
    assert "`model.blocks.0.up.weight` (and 2 like it)" in line and "it belongs to a layer" in line
    expression = FLAGS.message(line).split("--vocabulary '")[1].split("=positions'")[0]
    import re

    decided = find_vocabulary_tensors(
        [side(*layers)] * 3, lambda name: "positions" if re.search(expression, name) else None
    )
    assert decided == VocabularyTensors(frozenset(), (0, 0, 0))
    by_token = find_vocabulary_tensors([side(*layers)] * 3, lambda name: "strings")
    assert by_token.names == {layer.name for layer in layers}


def test_names_decide_a_coincidence_for_kinds_that_are_known() -> None:
    tensors = [
        tensor("model.embed_tokens.weight", V, H),
        tensor("model.layers.0.mlp.up_proj.weight", V, H),
        tensor("model.layers.0.mlp.down_proj.weight", H, V),
    ]
    assert found(*tensors, model_type="llama", intermediate_size=V) == VocabularyTensors(
        frozenset({"model.embed_tokens.weight"}), (V, V, V)
    )


EMBEDDING = tensor("model.embed_tokens.weight", V, H)


@pytest.mark.parametrize(
    ("foreign", "config"),
    [
        (tensor("model.layers.0.engram.table.weight", V, 4), {}),
        (tensor("model.layers.0.engram.bias", V), {}),
        (tensor("model.layers.0.mlp.engram", 1, V), {}),
        (tensor("model.engram.weight", V, 4), {"intermediate_size": V}),
        (tensor("model.engram.weight", V, 4), {"n_slots": V}),
        (tensor("model.pos.weight", V, 4), {}),
        (tensor("model.layers.0.engram.weight", 320, 4), {}),  # padded, as no other matrix is
        (tensor("model.engram.weight", 320, 4), {}),
        (tensor("model.layers.0.engram.weight", 8, V), {}),  # turned, as a Conv1D stores it
        (tensor("model.engram.weight", H, V), {"intermediate_size": V}),
        (tensor("medusa_head.0.1.weight", V, H), {"intermediate_size": V}),
    ],
    ids=lambda each: each.name if isinstance(each, StoredTensor) else str(each),
)
def test_a_tensor_that_the_class_of_a_known_kind_does_not_have_stops_where_it_may_count_tokens(
    foreign: StoredTensor, config: dict[str, Any]
) -> None:
    """Whatever it is called: the class's own tensors are known by name, and of this one nobody can know."""
    for front in ("", "_orig_mod.", "base_model.model."):
        own = [replace(each, name=front + each.name) for each in (EMBEDDING, foreign)]
        (line,) = found(*own, model_type="llama", **config).undecided
        assert f"`{front}{foreign.name}`" in line and "=positions'" in FLAGS.message(line)
    assert not found(EMBEDDING, foreign, model_type="llama", tokens=None, **config).undecided  # equal tokenizers


def test_a_foreign_table_that_only_some_of_the_models_have_or_that_is_a_vocabulary_of_only_some_stops() -> None:
    table = tensor("model.layers.0.engram.weight", V, 4)
    for rows, has in (((V, V, V + 8), (1, 1, 1)), ((V, V, V), (1, 1, 0)), ((V, V + 1, V), (0, 1, 0))):
        sides = [
            side(tensor(EMBEDDING.name, own, H), *[table] * held, tokens=own, vocab_size=own, model_type="llama")
            for own, held in zip(rows, has, strict=True)
        ]
        (line,) = find_vocabulary_tensors(sides).undecided
        assert "engram" in line


@pytest.mark.parametrize(
    ("kind", "own", "config"),
    [
        ("llama", tensor("model.layers.0.mlp.up_proj.weight", V, H), {"intermediate_size": V}),
        ("llama", tensor("module.model.layers.0.mlp.up_proj.weight", V, H), {"intermediate_size": V}),
        ("llama", tensor("model.layers.0.mlp.up_proj.bias", V), {"intermediate_size": V, "mlp_bias": True}),
        ("llama", tensor("model.layers.0.mlp.down_proj.weight", H, V), {"intermediate_size": V}),
        ("llama", tensor("model.norm.weight", V), {"hidden_size": V}),
        ("llama", tensor("model.layers.0.self_attn.rotary_emb.inv_freq", V), {}),
        ("gpt2", tensor("h.0.mlp.c_fc.weight", H, V), {"n_inner": V}),  # without the prefix of the base model
        ("gpt2", tensor("transformer.wpe.weight", V, H), {"n_positions": V}),
        ("qwen3_moe", tensor("model.layers.0.mlp.experts.3.up_proj.weight", V, H), {"moe_intermediate_size": V}),
        ("mixtral", tensor("model.layers.0.block_sparse_moe.experts.3.w1.weight", V, H), {"intermediate_size": V}),
        (
            "llava",
            tensor("language_model.model.layers.0.mlp.up_proj.weight", V, H),
            {"text_config": {"model_type": "llama"}},
        ),
        (
            "llava",
            tensor("model.language_model.layers.0.self_attn.q_proj.bias", V),
            {"text_config": {"model_type": "qwen2"}},
        ),
        ("llava", tensor("vision_tower.vision_model.embeddings.position_embedding.weight", V, 4), {}),
        ("t5", tensor("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", V, H), {"d_ff": V}),
        ("opt", tensor("model.decoder.embed_positions.weight", V, H), {"max_position_embeddings": V - 2}),
        ("bert", tensor("bert.embeddings.position_embeddings.weight", V, H), {"max_position_embeddings": V}),
    ],
    ids=lambda each: each.name if isinstance(each, StoredTensor) else str(each),
)  # fmt: skip  (a case a line)
def test_a_coincidence_in_a_tensor_of_the_class_itself_is_none_of_anybodys_business(
    kind: str, own: StoredTensor, config: dict[str, Any]
) -> None:
    embedding = tensor("shared.weight" if kind == "t5" else EMBEDDING.name, V, H)
    assert found(embedding, own, model_type=kind, **config) == VocabularyTensors(frozenset({embedding.name}), (V, V, V))


def test_a_foreign_tensor_that_counts_nothing_of_the_vocabulary_is_not_asked_about() -> None:
    others = [
        tensor("v_head.summary.weight", 1, H),
        tensor("v_head.summary.bias", 1),
        tensor("score.weight", 5, H),
        tensor("model.layers.0.adapter.down.weight", 8, H),
        tensor("model.layers.1.eh_proj.weight", H, 2 * H),
        tensor("model.pos.weight", 512, 4),  # nearly as many, and its name says of what
    ]
    assert not found(EMBEDDING, *others, model_type="llama").undecided


def test_names_decide_for_a_kind_under_a_name_of_before() -> None:
    tensors = [tensor("transformer.word_embeddings.weight", V, H), tensor("transformer.h.0.mlp.up.weight", V, H)]
    assert found(*tensors, model_type="RefinedWeb", ffn_hidden_size=V).names == {tensors[0].name}


def test_names_of_positions_are_none_of_a_vocabulary() -> None:
    """OPT's table has two rows more than ``max_position_embeddings`` says."""
    tensors = [tensor("model.decoder.embed_tokens.weight", V, H), tensor("model.decoder.embed_positions.weight", V, H)]
    known = found(*tensors, model_type="opt", max_position_embeddings=V - 2)
    assert known == VocabularyTensors(frozenset({tensors[0].name}), (V, V, V))
    (line,) = found(tensors[0], tensor("pos.table", V, H)).undecided
    assert "`pos.table`" in line and "its name suggests positions" in line


def test_a_kind_is_not_known_by_a_model_that_has_none_of_its_names() -> None:
    (line,) = found(tensor("tok.table", V, H), model_type="llama", intermediate_size=V).undecided
    assert "`tok.table`" in line and "`intermediate_size`" in line


def test_a_head_that_is_stored_the_other_way_round_stops() -> None:
    (line,) = found(tensor("model.embed_tokens.weight", V, H), tensor("model.unembedding", H, V)).undecided
    assert "`model.unembedding`" in line and "has as many columns as the vocabulary" in line
    assert r"--vocabulary '^model\.unembedding$=positions'" in FLAGS.message(line) and "=strings" not in line


def test_a_table_of_all_layers_with_the_vocabulary_in_its_midst_stops() -> None:
    (line,) = found(tensor("model.embed_tokens.weight", V, H), tensor("model.tables", 3, V, 8)).undecided
    assert "`model.tables`" in line and "has as many columns as the vocabulary" in line


@pytest.mark.parametrize("shape", [(H, V), (3, V, 8), (H,)])
def test_a_tensor_without_a_row_for_each_token_is_not_matched_by_token_by_any_choice(shape: tuple[int, ...]) -> None:
    table, other = tensor("model.embed_tokens.weight", V, H), tensor("model.other", *shape)
    decided = find_vocabulary_tensors([side(table, other)] * 3, lambda name: "strings" if "other" in name else None)
    (line,) = decided.undecided
    assert "`model.other` does not have a row for each token" in line and "=positions'" in FLAGS.message(line)
    assert decided.names == {table.name}


def test_a_head_that_the_class_of_a_known_kind_does_not_have_stops_where_another_size_is_the_same() -> None:
    tensors = [
        tensor("model.embed_tokens.weight", V, H),
        tensor("model.layers.0.mlp.up_proj.weight", V, H),
        tensor("model.layers.0.mlp.down_proj.weight", H, V),
        tensor("medusa_head.0.1.weight", V, H),
    ]
    (line,) = found(*tensors, model_type="llama", intermediate_size=V).undecided
    assert "`medusa_head.0.1.weight`" in line and "`intermediate_size` of config.json is the same number" in line


def test_the_small_vocabulary_of_a_vision_tower_is_none_of_the_texts() -> None:
    text, vision = tensor("embed_tokens.weight", V, H), tensor("embed_vision.embedding.weight", 64, H)
    config = {"vision_config": {"vocab_size": 64}}
    assert found(text, vision, **config).names == {text.name}
    assert found(text, vision, tokens=None, **config).names == {text.name}


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("instructblip", "qformer.embeddings.word_embeddings.weight"),
        ("qwen2_5_omni", "talker.model.embed_tokens.weight"),
    ],
)
def test_an_embedding_of_other_tokens_is_none_of_the_texts_whatever_its_name(kind: str, other: str) -> None:
    text, head = tensor("language_model.model.embed_tokens.weight", V, H), tensor("language_model.lm_head.weight", V, H)
    tensors, config = (text, tensor(other, 300, H), head), {"model_type": kind, "qformer_config": {"vocab_size": 300}}
    assert found(*tensors, **config) == VocabularyTensors(frozenset({text.name, head.name}), (V, V, V))
    ties = Ties(True, kind, [each.name for each in tensors])
    assert ties.weight(other) == other and not ties.is_shared(other)
    assert ties.weight(head.name) == ties.weight(text.name)


def test_integers_and_scalars_have_no_rows_of_tokens() -> None:
    table = tensor("mlp.gate.tid2eid", V, 6, dtype="I64")
    assert found(table, tensor("scale")) == VocabularyTensors(frozenset(), (0, 0, 0))


def test_sizes_are_found_in_every_part_of_a_config() -> None:
    config = {"vocab_size": 1, "text_config": {"vocab_size_per_layer_input": 2, "deep": {"padded_vocab_size": 3}}}
    assert vocabulary_sizes(config) == {
        "vocab_size": 1,
        "text_config.vocab_size_per_layer_input": 2,
        "text_config.deep.padded_vocab_size": 3,
    }
    assert vocabulary_sizes({"vocab_size": None, "use_vocab_size": True}) == {}


def test_a_bias_of_one_line_has_a_row_for_each_column() -> None:
    bias, matrix = tensor("final_logits_bias", 1, V), tensor("lm_head.weight", V, H)
    assert [rows_of(bias), columns_of(bias), with_rows(bias.shape, 5)] == [V, 1, (1, 5)]
    assert [rows_of(matrix), columns_of(matrix), with_rows(matrix.shape, 5)] == [V, H, (5, H)]


def test_tied_names_are_one_weight_by_common_names_or_by_the_kinds_own() -> None:
    llama = Ties(True, "llama", ["model.embed_tokens.weight", "lm_head.weight"])
    assert llama.weight("lm_head.weight") == llama.weight("model.embed_tokens.weight")
    t5 = Ties(True, "t5", ["shared.weight"])
    tied = ("shared.weight", "lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    assert {t5.weight(name) for name in tied} == {"shared.weight"}
    bert = Ties(True, "bert", [])
    assert bert.weight("cls.predictions.decoder.bias") == "cls.predictions.bias"
    apart = Ties(False, "t5", tied)
    assert [apart.weight(name) for name in tied] == list(tied)


@pytest.mark.parametrize(
    ("stored", "computed"),
    [
        (tensor("model.layers.0.self_attn.rotary_emb.inv_freq", 4), True),
        (tensor("rotary_emb.full_attention_original_inv_freq", 4), True),
        (tensor("gpt_neox.layers.0.attention.masked_bias"), True),
        (tensor("transformer.h.0.attn.bias", 1, 1, 64, 64), True),
        (tensor("h.0.attn.bias", 64, 64), True),
        (tensor("bert.embeddings.position_ids", 1, 64, dtype="I64"), True),
        (tensor("model.decoder.embed_positions.weights", 64, 8), True),
        (tensor("transformer.h.0.attn.c_attn.bias", 96), False),
        (tensor("model.layers.0.attention.bias", 32), False),
        (tensor("model.decoder.embed_positions.weight", 64, 8), False),
        (tensor("model.layers.0.mlp.gate.e_score_correction_bias", 8), False),
        (tensor("final_logits_bias", 1, V), False),
    ],
    ids=lambda each: each.name if isinstance(each, StoredTensor) else str(each),
)
def test_buffers_that_a_model_computes_are_told_from_parameters(stored: StoredTensor, computed: bool) -> None:
    assert is_computed_buffer(stored) is computed


@pytest.mark.parametrize("kind", ["mamba", "bert", "openai-gpt", "rwkv"])
def test_the_table_of_names_is_what_transformers_own_classes_give(kind: str) -> None:
    """Of a kind: every tensor that follows the vocabulary's size, built on the meta device, and what a tied config makes one."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[kind](vocab_size=100_003, tie_word_embeddings=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    sizes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    follow = {name for name, shape in sizes.items() if 100_003 in shape}
    assert follow and follow == {name for name in sizes if is_named_vocabulary(name, [kind])}
    assert {name for name in sizes if is_of_class(name, [kind])} == sizes.keys() - follow
    ties = Ties(True, kind, list(sizes))
    assert {name: ties.weight(name) for name in model.all_tied_weights_keys} == {
        name: ties.weight(source) for name, source in model.all_tied_weights_keys.items()
    }
