"""config.json is merged like a file in git: architecture stays or stops, behaviour settings follow the fine-tuning."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.merged_configs import LLAMA, merge

from tuneport.errors import FLAGS
from tuneport.sidecars.config import FIXED, resolve
from tuneport.sidecars.config_merge import choosable_fields
from tuneport.sidecars.three_way import Three, same

LLAMA31_ROPE = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


def test_the_new_versions_rope_scaling_stays() -> None:
    target = {**LLAMA, "rope_scaling": LLAMA31_ROPE, "max_position_embeddings": 131072}
    output, findings = merge(LLAMA, LLAMA, target)
    assert output == target
    assert not findings.refusals
    assert {one.field for one in findings.differences} == {"rope_scaling", "max_position_embeddings"}
    assert {(one.subject, one.choice, one.reason) for one in findings.decisions} == {
        ("config.rope_scaling", "target", "tuned = base"),
        ("config.max_position_embeddings", "target", "tuned = base"),
    }


def test_the_new_versions_rope_scaling_stays_when_the_tuned_model_was_saved_by_transformers_5() -> None:
    tuned = {name: value for name, value in LLAMA.items() if not name.startswith(("rope", "torch"))}
    tuned |= {
        "dtype": "bfloat16",
        "head_dim": 16,
        "num_key_value_heads": 4,
        "mlp_bias": False,
        "pad_token_id": None,
    }
    tuned |= {
        "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
        "transformers_version": "5.23.0",
    }
    target = {**LLAMA, "rope_scaling": LLAMA31_ROPE}
    output, findings = merge(LLAMA, tuned, target)
    assert output == target
    assert not findings.refusals


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rope_theta", 10000.0),
        ("rms_norm_eps", 1e-6),
        ("num_key_value_heads", 2),
        ("hidden_act", "gelu"),
        ("tie_word_embeddings", True),
        ("sliding_window", 512),
        ("architectures", ["LlamaForSequenceClassification"]),
        ("attention_bias", True),
        ("rope_scaling", LLAMA31_ROPE),
    ],
)  # fmt: skip  (one list)
def test_a_change_of_architecture_by_the_fine_tuning_stops_and_names_values_and_flag(field: str, value: Any) -> None:
    output, findings = merge(LLAMA, {**LLAMA, field: value}, LLAMA)
    assert output == LLAMA
    (refusal,) = findings.refusals
    shown = "rope_scaling" if field.startswith("rope") else field
    assert f"--config {shown}=base|tuned|target" in FLAGS.message(refusal)
    assert all(side in refusal for side in ("base ", "tuned ", "target "))
    assert field in refusal


def test_every_conflict_is_told_at_once() -> None:
    _, findings = merge(LLAMA, {**LLAMA, "rope_theta": 1.0, "rms_norm_eps": 1.0, "hidden_act": "gelu"}, LLAMA)
    assert len(findings.refusals) == 3


def test_a_flag_decides_a_conflict_either_way() -> None:
    tuned = {**LLAMA, "rms_norm_eps": 1e-6}
    output, findings = merge(LLAMA, tuned, LLAMA, sides={"rms_norm_eps": "tuned"})
    assert output["rms_norm_eps"] == 1e-6 and not findings.refusals
    output, findings = merge(LLAMA, tuned, {**LLAMA, "rms_norm_eps": 1.0}, sides={"rms_norm_eps": "base"})
    assert output["rms_norm_eps"] == 1e-5 and not findings.refusals
    output, findings = merge(LLAMA, tuned, LLAMA, sides={"rms_norm_eps": "target"})
    assert output == LLAMA and not findings.refusals


@pytest.mark.parametrize("flag", ["rope_scaling", "rope_theta", "rope_parameters"])
def test_a_rope_taken_over_is_written_in_the_targets_spelling(flag: str) -> None:
    modern = {name: value for name, value in LLAMA.items() if not name.startswith("rope")}
    modern["rope_parameters"] = {"rope_theta": 7.0, **LLAMA31_ROPE}
    output, _ = merge(LLAMA, modern, LLAMA, sides={flag: "tuned"})
    assert output == {**LLAMA, "rope_theta": 7.0, "rope_scaling": LLAMA31_ROPE}
    output, _ = merge(modern, LLAMA, modern, sides={flag: "tuned"})
    assert output == {**modern, "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}


def test_the_same_change_on_both_sides_is_no_conflict() -> None:
    changed = {**LLAMA, "rms_norm_eps": 1e-6}
    output, findings = merge(LLAMA, changed, changed)
    assert output == changed and not findings.refusals


def test_behaviour_settings_follow_the_fine_tuning_and_are_listed() -> None:
    output, findings = merge(LLAMA, {**LLAMA, "initializer_range": 0.1, "attention_dropout": 0.1}, LLAMA)
    assert output == {**LLAMA, "initializer_range": 0.1, "attention_dropout": 0.1}
    assert {one.subject for one in findings.decisions} == {"config.initializer_range", "config.attention_dropout"}
    output, _ = merge(LLAMA, {**LLAMA, "pad_token_id": 5}, {**LLAMA, "pad_token_id": 7})
    assert output["pad_token_id"] == 5


def test_a_behaviour_setting_that_tuning_set_back_to_its_default_is_left_out_again() -> None:
    base = {**LLAMA, "attention_dropout": 0.1}
    assert merge(base, LLAMA, base)[0] == LLAMA


@pytest.mark.parametrize(
    "switch", [{"use_cache": False}, {"gradient_checkpointing": True}, {"output_router_logits": True}]
)
def test_switches_of_training_never_travel(switch: dict[str, Any]) -> None:
    output, findings = merge(LLAMA, {**LLAMA, **switch}, LLAMA)
    assert output == LLAMA and not findings.refusals and not findings.warnings
    assert [(one.choice, one.reason) for one in findings.decisions] == [("target", "only used in training")]
    assert merge(LLAMA, {**LLAMA, **switch}, LLAMA, sides=dict.fromkeys(switch, "tuned"))[0] == {**LLAMA, **switch}


def test_how_many_positions_there_are_is_the_targets_unless_its_rope_computes_from_it() -> None:
    # Qwen 2.5: 131072 in the base, 32768 in the instruct model, and plain rope
    base, tuned = {**LLAMA, "max_position_embeddings": 131072}, {**LLAMA, "max_position_embeddings": 32768}
    output, findings = merge(base, tuned, base)
    assert output == base and not findings.refusals
    dynamic = {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
    _, findings = merge({**base, **dynamic}, {**tuned, **dynamic}, {**base, **dynamic})
    assert "`max_position_embeddings`: base 131072, tuned 32768, target 131072" in findings.refusals[0]


def test_a_field_that_no_class_of_the_kind_reads_is_no_conflict_and_listed() -> None:
    base = {**LLAMA, "model_type": "qwen2", "use_mrope": False, "max_window_layers": 24}
    tuned = {**LLAMA, "model_type": "qwen2", "max_window_layers": 21}
    output, findings = merge(base, tuned, base)
    assert output == base and not findings.refusals and not findings.warnings
    assert {one.field: one.tuned for one in findings.differences} == {"use_mrope": None, "max_window_layers": 21}
    assert {one.reason for one in findings.decisions} == {"no config class of this kind reads it"}
    assert merge(base, tuned, base, sides={"max_window_layers": "tuned"})[0]["max_window_layers"] == 21
    code = {"auto_map": {"AutoConfig": "configuration_mine.MyConfig"}}  # which may read any field
    _, findings = merge(base, {**tuned, "max_window_layers": 24}, {**base, **code})
    assert "only some of the three models have `use_mrope`" in findings.refusals[0]


@pytest.mark.parametrize(
    ("kind", "base", "tuned", "named"),
    [
        ("gemma3_text", {"sliding_window_pattern": 6}, {"sliding_window_pattern": 3}, "layer_types"),
        ("lfm2", {"full_attn_idxs": [1]}, {"full_attn_idxs": [0]}, "layer_types"),
        ("nemotron_h", {"hybrid_override_pattern": "M*"}, {"hybrid_override_pattern": "M-"}, "layers_block_type"),
        ("t5", {}, {"tie_word_embeddings": False}, "scale_decoder_outputs"),
        (
            "qwen2",
            {"use_sliding_window": True, "max_window_layers": 1},
            {"use_sliding_window": True, "max_window_layers": 2},
            "layer_types",
        ),
    ],
)
def test_a_change_of_what_only_feeds_other_fields_stops_at_those(
    kind: str, base: dict[str, Any], tuned: dict[str, Any], named: str
) -> None:
    plain = {"model_type": kind, "num_hidden_layers": 4}
    _, findings = merge({**plain, **base}, {**plain, **tuned}, {**plain, **base})
    assert [f"--config {named}=base|tuned|target" in FLAGS.message(refusal) for refusal in findings.refusals] == [True]
    output, findings = merge({**plain, **base}, {**plain, **tuned}, {**plain, **base}, sides={named: "tuned"})
    assert not findings.refusals and output[named] == resolve({**plain, **tuned}).values[named]


def test_a_choice_for_what_the_class_works_out_whatever_the_file_says_is_an_error() -> None:
    base = {"model_type": "deepseek_ocr2_text", "hidden_size": 64, "num_attention_heads": 4}
    sides = {"hidden_size": "target", "head_dim": "tuned"}
    _, findings = merge(base, {**base, "hidden_size": 128}, base, sides=sides)
    assert "--config head_dim=tuned has no effect" in FLAGS.message(findings.refusals[0])


def test_what_follows_from_a_change_is_not_told_besides() -> None:
    plain = {"model_type": "qwen2", "num_hidden_layers": 2, "hidden_size": 64}
    _, findings = merge(plain, {**plain, "num_hidden_layers": 3, "hidden_size": 128}, plain)
    assert [refusal.split("`")[1] for refusal in findings.refusals] == ["num_hidden_layers", "hidden_size"]


def test_what_says_that_weights_are_quantised_is_left_out_with_a_warning() -> None:
    fp8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    output, findings = merge({**LLAMA, **fp8}, LLAMA, {**LLAMA, **fp8})
    assert output == LLAMA and not findings.refusals
    assert "base has quantization_config (fp8), target has quantization_config (fp8)" in findings.warnings[0]
    nested = {"model_type": "kimi_k25", "text_config": {"model_type": "deepseek_v3", "hidden_size": 64, **fp8}}
    output, findings = merge(nested, nested, nested)
    assert output["text_config"] == {"model_type": "deepseek_v3", "hidden_size": 64}
    assert "target has text_config.quantization_config (fp8)" in findings.warnings[0]


OWN = {"model_type": "of_my_own", "hidden_size": 64, "depth": 2, "eos_token_id": 1}
ANEW = {**OWN, "window": 3, "scale": 1.0, "sub_config": {"width": 4}}


def test_of_a_kind_that_nobody_knows_one_message_names_the_flag_that_settles_all(  # as transformers would save it anew
) -> None:
    output, findings = merge(OWN, ANEW, OWN)
    assert output == OWN
    (refusal,) = findings.refusals
    assert "--sidecar config.json=target" in FLAGS.message(refusal)
    assert "`window`, `scale`, `sub_config.width`" in refusal and "`of_my_own`" in refusal
    sides = dict.fromkeys(choosable_fields(Three(OWN, ANEW, OWN)), "target")  # what that flag does
    assert not merge(OWN, ANEW, OWN, sides=sides)[1].refusals
    _, findings = merge(OWN, {**ANEW, "hidden_size": 32}, OWN)
    assert len(findings.refusals) == 2 and "`hidden_size`: base 64, tuned 32" in findings.refusals[0]


def test_one_field_under_two_names_has_one_side() -> None:
    sides = {"rope_theta": "tuned", "rope_scaling": "target"}
    _, findings = merge(LLAMA, {**LLAMA, "rope_theta": 1.0}, LLAMA, sides=sides)
    assert "--config rope_scaling=target, --config rope_theta=tuned" in FLAGS.message(findings.refusals[0])


def test_dtype_code_and_tokenizer_class_are_never_the_tuned_models() -> None:
    tuned = {**LLAMA, "torch_dtype": "float32", "tokenizer_class": "X", "auto_map": {"AutoConfig": "a.B"}}
    tuned |= {
        "transformers_version": "9",
        "vocab_size": 99,
        "_commit_hash": "1",
        "_attn_implementation_autoset": True,
    }
    output, findings = merge(LLAMA, tuned, LLAMA)
    assert output == LLAMA
    assert not findings.refusals


def test_the_name_of_another_model_is_dropped() -> None:
    assert merge(LLAMA, LLAMA, {**LLAMA, "_name_or_path": "/home/somebody/x"})[0] == LLAMA
    named = {**LLAMA, "transformers_weights": "x.safetensors"}  # the output's weights have their usual names
    assert merge(LLAMA, named, named)[0] == LLAMA and not merge(LLAMA, named, LLAMA)[1].refusals


@pytest.mark.parametrize(
    ("target", "keys"),
    [
        (LLAMA, {"torch_dtype"}),
        ({**LLAMA, "dtype": "float32"}, {"torch_dtype", "dtype"}),
        ({"model_type": "llama"}, {"torch_dtype"}),
        ({"model_type": "llama", "rope_parameters": {}}, {"dtype"}),
    ],
)  # fmt: skip  (one list)
def test_an_asked_for_dtype_is_written_in_the_targets_spelling(target: dict[str, Any], keys: set[str]) -> None:
    output, _ = merge(target, target, target, dtype="float16")
    assert {name for name in output if name.endswith("dtype")} == keys
    assert all(output[key] == "float16" for key in keys)


VALUES = st.one_of(st.none(), st.booleans(), st.integers(0, 5), st.floats(), st.text(max_size=2))
CONFIGS = st.dictionaries(
    st.sampled_from(
        ["initializer_range", "eos_token_id", "new_field", "rms_norm_eps", "attention_dropout", "sub_config", "dtype"]
    ),
    VALUES | st.dictionaries(st.sampled_from(["initializer_range", "depth"]), VALUES, max_size=2),
    max_size=6,
).map(lambda config: {"model_type": "llama", **config})


@given(CONFIGS, CONFIGS)
@settings(max_examples=150, deadline=None)
def test_what_tuning_left_alone_is_the_targets(base: dict[str, Any], target: dict[str, Any]) -> None:
    output, findings = merge(base, base, target)
    assert repr(output) == repr(target)
    assert not findings.refusals


FLAT = CONFIGS.map(lambda config: {name: value for name, value in config.items() if name != "sub_config"})


@given(FLAT, FLAT)
@settings(max_examples=150, deadline=None)
def test_what_the_version_left_alone_is_the_tuned_models_or_a_refusal(
    base: dict[str, Any], tuned: dict[str, Any]
) -> None:
    output, findings = merge(base, tuned, base)
    if not findings.refusals:
        merged, wanted = dict(resolve(output).values), dict(resolve(tuned).values)
        assert same(merged.pop("dtype", None), resolve(base).values.get("dtype"))
        wanted.pop("dtype", None)
        assert same(merged, wanted)


def test_fixed_fields_are_not_choosable() -> None:
    known = choosable_fields(Three(LLAMA, LLAMA, LLAMA))
    assert not known & FIXED
    assert {"rope_theta", "rope_scaling", "rope_parameters", "dtype", "torch_dtype", "hidden_size"} <= known
