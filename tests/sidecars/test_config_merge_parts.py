"""A config's parts: those of text and pictures, rows that grew, and token ids."""

from __future__ import annotations

from typing import Any

from support.merged_configs import LLAMA, merge, tokenizer

from tuneport.errors import FLAGS
from tuneport.sidecars.config_merge import choosable_fields
from tuneport.sidecars.three_way import Three
from tuneport.sidecars.token_ids import TokenNames
from tuneport.tokenizer.token_changes import AddedToken, TokenChanges


def test_grown_rows_are_written_wherever_the_vocabularys_size_stands() -> None:
    output, _ = merge(LLAMA, LLAMA, LLAMA, vocab_rows={LLAMA["vocab_size"]: 40})
    assert output == {**LLAMA, "vocab_size": 40}
    text = {"model_type": "gemma3n_text", "vocab_size": 32, "vocab_size_per_layer_input": 30}
    nested = {"model_type": "gemma3n", "text_config": text, "vision_config": {"vocab_size": 8}}
    output, _ = merge(nested, nested, nested, vocab_rows={32: 40, 30: 38})
    grown = {**text, "vocab_size": 40, "vocab_size_per_layer_input": 38}
    assert output == {**nested, "text_config": grown}
    output, _ = merge(nested, nested, nested, vocab_rows={30: 38})
    assert output["text_config"] == {**text, "vocab_size_per_layer_input": 38}


def test_sub_configs_are_known_by_their_kind_whatever_they_are_called() -> None:
    halves = {"model_type": "t5_gemma_module", "vocab_size": 32, "torch_dtype": "bfloat16"}
    whole = {"model_type": "t5gemma", "vocab_size": 32, "encoder": halves, "decoder": halves}
    output, _ = merge(whole, whole, whole, vocab_rows={32: 34}, dtype="float32")
    grown = {**halves, "vocab_size": 34, "torch_dtype": "float32"}
    assert output == {**whole, "vocab_size": 34, "encoder": grown, "decoder": grown, "torch_dtype": "float32"}
    deeper = {"model_type": "t5gemma2", "encoder": {"text_config": {"vocab_size": 32}}, "decoder": {"vocab_size": 32}}
    output, _ = merge(deeper, deeper, deeper, vocab_rows={32: 34})
    assert output["encoder"]["text_config"] == output["decoder"] == {"vocab_size": 34}


def test_a_padded_matrix_that_grew_sets_the_size_of_the_text() -> None:
    output, _ = merge(LLAMA, LLAMA, LLAMA, vocab_rows={LLAMA["vocab_size"] + 3: 40})
    assert output == {**LLAMA, "vocab_size": 40}
    nested = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "vocab_size": 32}}
    output, _ = merge(nested, nested, nested, vocab_rows={64: 70})
    assert output["text_config"]["vocab_size"] == 70


def test_sub_configs_are_merged_field_by_field_with_their_own_defaults() -> None:
    base: dict[str, Any] = {
        "model_type": "gemma3",
        "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 4},
    }
    tuned_text: dict[str, Any] = {
        **base["text_config"],
        "attention_dropout": 0.1,
        "tie_word_embeddings": True,
        "rope_theta": 1e6,
    }
    target: dict[str, Any] = {
        "model_type": "gemma3",
        "text_config": {**base["text_config"], "num_hidden_layers": 6},
    }
    tuned: dict[str, Any] = {
        **base,
        "text_config": tuned_text,
        "tie_word_embeddings": True,
        "vision_config": {"hidden_size": 768},
    }
    output, findings = merge(base, tuned, target)
    assert output == {"model_type": "gemma3", "text_config": {**target["text_config"], "attention_dropout": 0.1}}
    assert not findings.refusals
    tuned_text["rms_norm_eps"] = 1.0
    _, findings = merge(base, tuned, target)
    assert "--config text_config.rms_norm_eps=" in FLAGS.message(findings.refusals[0])
    output, findings = merge(base, tuned, target, sides={"text_config.rms_norm_eps": "tuned"})
    assert output["text_config"]["rms_norm_eps"] == 1.0 and not findings.refusals
    assert "text_config.rms_norm_eps" in choosable_fields(Three(base, tuned, target))
    _, findings = merge(base, {**tuned, "tie_word_embeddings": False}, target)
    assert "`tie_word_embeddings`: base true, tuned false, target true" in findings.refusals[0]


def test_a_text_config_beside_the_others_takes_what_a_nested_one_says() -> None:
    flat = {
        "model_type": "qwen2_vl",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "attention_dropout": 0.0,
        "vision_config": {"embed_dim": 32, "hidden_size": 64},
    }
    text = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "attention_dropout": 0.1}
    text |= {
        "rope_parameters": {"type": "default", "rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
    }
    nested: dict[str, Any] = {
        "model_type": "qwen2_vl",
        "text_config": {"model_type": "qwen2_vl_text", **text},
        "vision_config": {"model_type": "qwen2_vl_vision", "embed_dim": 32, "hidden_size": 64, "depth": 32},
        "tie_word_embeddings": False,
    }
    output, findings = merge(flat, nested, flat)
    assert output == {**flat, "attention_dropout": 0.1} and not findings.refusals
    output, findings = merge(nested, {**flat, "attention_dropout": 0.3}, nested)
    assert output["text_config"] == {**nested["text_config"], "attention_dropout": 0.3}
    nested["text_config"]["rms_norm_eps"] = 1.0
    _, findings = merge(flat, nested, flat)
    assert "--config text_config.rms_norm_eps=" in FLAGS.message(findings.refusals[0])
    output, findings = merge(flat, nested, flat, sides={"text_config.rms_norm_eps": "tuned"})
    assert output["rms_norm_eps"] == 1.0 and not findings.refusals


def test_token_ids_are_compared_and_carried_by_string() -> None:
    names = TokenNames(
        (
            tokenizer("<s>", "</s>", "a"),
            tokenizer("<s>", "</s>", "a", "<|end|>"),
            tokenizer("<x>", "<s>", "</s>", "a"),
        ),
        TokenChanges(added=(AddedToken("<|end|>", 4, {}),)),
    )
    base, target = {**LLAMA, "eos_token_id": 1, "bos_token_id": 0}, {**LLAMA, "eos_token_id": 2, "bos_token_id": 1}
    output, findings = merge(base, base, target, names)
    assert output == target and not findings.decisions  # other ids, the same strings
    output, findings = merge(base, {**base, "eos_token_id": [1, 3]}, target, names)
    assert output == {**target, "eos_token_id": [2, 4]}
    output, findings = merge(base, {**base, "pad_token_id": -1}, target, names)
    assert output["pad_token_id"] == -1


def test_a_renamed_token_keeps_the_targets_id() -> None:
    three = (tokenizer("</s>", "<r0>"), tokenizer("</s>", "<|im_end|>"), tokenizer("<new>", "</s>", "<r0>"))
    names = TokenNames(three, TokenChanges(renamed=(("<r0>", "<|im_end|>"),)))
    base, target = {**LLAMA, "eos_token_id": 0}, {**LLAMA, "eos_token_id": 1}
    output, _ = merge(base, {**base, "eos_token_id": 1}, target, names)
    assert output["eos_token_id"] == 2
    assert names.has("<|im_end|>") and not names.has("<r0>")


def test_an_end_token_that_the_output_lacks_stops_and_another_token_warns() -> None:
    names = TokenNames((tokenizer("a"), tokenizer("a", "<|end|>"), tokenizer("a")), TokenChanges())
    base = {**LLAMA, "eos_token_id": 0}
    output, findings = merge(base, {**base, "eos_token_id": [0, 1]}, base, names)
    assert output == base
    (refusal,) = findings.refusals
    assert (
        "`<|end|>`" in refusal and "--config eos_token_id=target" in FLAGS.message(refusal) and "never stops" in refusal
    )
    assert not merge(base, {**base, "eos_token_id": [0, 1]}, base, names, sides={"eos_token_id": "target"})[1].refusals
    output, findings = merge(base, {**base, "pad_token_id": 1}, base, names)
    assert output == base and not findings.refusals
    assert "pad_token_id" in findings.warnings[0]


def test_an_end_token_by_default_is_carried_by_string_too() -> None:
    three = (tokenizer("<s>", "a", "</s>"), tokenizer("<s>", "a", "</s>"), tokenizer("<new>", "<s>", "a", "</s>"))
    bare = {"model_type": "llama"}  # whose end token is 2 by default
    base, target = {**bare, "eos_token_id": 1}, {**bare, "eos_token_id": 2}
    output, _ = merge(base, bare, target, TokenNames(three, TokenChanges()))
    assert output["eos_token_id"] == 3


def test_a_tuned_config_that_does_not_name_its_class_is_no_change() -> None:
    tuned = {name: value for name, value in LLAMA.items() if name != "architectures"}
    output, findings = merge(LLAMA, tuned, LLAMA)
    assert output == LLAMA and not findings.refusals
