"""Configs compare as transformers reads them, whichever version wrote them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from support.saved_configs import COMPOSITE, PLAIN, differing, saved_by_transformers
from transformers import CONFIG_MAPPING

from tuneport.errors import CheckpointError
from tuneport.sidecars.config import checked, is_behaviour, is_tied, resolve
from tuneport.sidecars.config_kinds import entry_of
from tuneport.sidecars.rope import ROPE
from tuneport.sidecars.three_way import same

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


@pytest.mark.parametrize("kind", [*PLAIN, *COMPOSITE])
def test_a_config_says_the_same_with_its_defaults_left_out_and_as_its_class_writes_it(kind: str) -> None:
    made = CONFIG_MAPPING[kind]()
    bare = {"model_type": kind}
    for written in (made.to_dict(), made.to_diff_dict()):
        assert set(differing(bare, json.loads(json.dumps(written)))) <= {"transformers_version"}


@pytest.mark.parametrize("kind", [*PLAIN, *COMPOSITE])
def test_a_left_out_field_is_what_its_class_takes_it_for(kind: str) -> None:
    fields, wrong = resolve({"model_type": kind}), []
    known = {**fields.values, **fields.unread}

    def compare(written: dict[str, Any], prefix: str) -> None:
        for name, value in written.items():
            if isinstance(value, dict) and "model_type" in value:
                compare(value, f"{prefix}{name}.")
            elif (
                value and not name.startswith("_") and prefix + name in known and name not in (ROPE, "per_layer_config")
            ):
                wrong.extend([prefix + name] * (not same(json.loads(json.dumps(value)), known[prefix + name])))

    compare(CONFIG_MAPPING[kind]().to_dict(), "")
    assert not wrong and len(known) > 15


@pytest.mark.parametrize("kind", PLAIN)
def test_a_config_in_the_spelling_of_version_4_says_the_same_after_version_5_wrote_it_out(
    kind: str, tmp_path: Path
) -> None:
    config = {
        "model_type": kind,
        "architectures": [f"{kind}ForCausalLM"],
        "torch_dtype": "bfloat16",
        "attention_dropout": 0.5,
        "_name_or_path": "somewhere",
        "transformers_version": "4.44.0",
    }
    if kind not in (
        "gemma4_text",
        "longcat_flash",
        "nemotron_h",
        "t5",
        "zamba2",
    ):  # which are as deep as other fields say
        layers = {
            "bloom": "n_layer",
            "gpt2": "n_layer",
            "gpt_bigcode": "n_layer",
            "gptj": "n_layer",
            "codegen": "n_layer",
            "mpt": "n_layers",
            "xlnet": "n_layer",
        }.get(kind, "num_hidden_layers")  # fmt: skip  (a table)
        config[layers] = 6
    if "rope" in entry_of(kind):
        theta = {"gpt_neox": "rotary_emb_base", "modernbert-decoder": "global_rope_theta"}.get(kind, "rope_theta")
        if kind != "gemma4_text":
            config |= {theta: 123456.0, "rope_scaling": None}
        if kind == "gpt_neox":
            config["rotary_pct"] = 0.5
        if kind.startswith("gemma3"):
            config["rope_local_base_freq"] = 5000.0
    assert set(differing(config, saved_by_transformers(config, tmp_path))) <= {"transformers_version"}


@pytest.mark.parametrize(
    ("config", "same_as"),
    [
        ({"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 131072}, {"sliding_window": None}),
        ({"model_type": "gemma", "hidden_act": "gelu"}, {"hidden_act": "gelu_pytorch_tanh"}),
        ({"model_type": "gpt2", "hidden_size": 96}, {"hidden_size": None, "n_embd": 96}),
        ({"model_type": "llama", "torch_dtype": "float16"}, {"torch_dtype": None, "dtype": "float16"}),
        ({"model_type": "mixtral"}, {"num_local_experts": 8}),
        (
            {"model_type": "llama", "architectures": ["FSDPLlamaForCausalLM"]},
            {"architectures": ["LlamaForCausalLM"]},
        ),
    ],
)
def test_two_spellings_of_one_model_are_one(config: dict[str, Any], same_as: dict[str, Any]) -> None:
    other = {
        name: value for name, value in {**config, **same_as}.items() if value is not None or name == "sliding_window"
    }
    assert differing(config, other) == []


@pytest.mark.parametrize(
    ("model_type", "change"),
    [
        ("mistral", {"sliding_window": None}),
        ("gemma2", {"tie_word_embeddings": False}),
        ("gemma3_text", {"sliding_window_pattern": 3}),
        ("qwen2", {"use_sliding_window": True}),
        ("llama", {"rms_norm_eps": 1e-5}),
        ("llama", {"head_dim": 64}),
    ],
)
def test_a_change_of_an_omitted_default_is_seen(model_type: str, change: dict[str, Any]) -> None:
    bare = {"model_type": model_type, "num_hidden_layers": 6}
    assert differing(bare, {**bare, **change}) != []


@pytest.mark.parametrize(
    ("kind", "field", "extra"),
    [
        ("cohere2", "layer_types", {"sliding_window_pattern": 3}),
        ("deepseek_v32", "mlp_layer_types", {"first_k_dense_replace": 2}),
        ("exaone4", "layer_types", {"sliding_window_pattern": 5}),
        ("gemma2", "layer_types", {}),
        ("gemma3_text", "layer_types", {"sliding_window_pattern": 2}),
        ("gemma3n_text", "activation_sparsity_pattern", {}),
        ("gpt_oss", "layer_types", {}),
        ("lfm2", "layer_types", {"full_attn_idxs": [0, 3]}),
        ("llama4_text", "moe_layers", {"interleave_moe_layer_step": 2}),
        ("modernbert-decoder", "layer_types", {"global_attn_every_n_layers": 4}),
        ("olmo_hybrid", "layer_types", {}),
        ("qwen2", "layer_types", {"use_sliding_window": True, "max_window_layers": 3, "sliding_window": 128}),
        ("qwen2_moe", "layer_types", {"use_sliding_window": True, "max_window_layers": 3, "sliding_window": 128}),
        ("qwen3_next", "layer_types", {"full_attention_interval": 3}),
        ("smollm3", "layer_types", {"no_rope_layer_interval": 3, "use_sliding_window": True, "sliding_window": 128}),
    ],
)  # fmt: skip  (a table)
def test_what_is_counted_by_layer_is_what_the_class_fills_in(kind: str, field: str, extra: dict[str, Any]) -> None:
    for layers in (4, 7, 12):
        for more in ({}, extra):
            config = CONFIG_MAPPING[kind].from_dict({"num_hidden_layers": layers, **more})
            ours = resolve({"model_type": kind, "num_hidden_layers": layers, **more}).values[field]
            assert ours == json.loads(json.dumps(getattr(config, field)))


NEMOTRON = {"model_type": "nemotron_h", "hidden_size": 64, "num_hidden_layers": 4}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # as published, and as version 5 writes it
        ({"hybrid_override_pattern": "M*-M"}, {"layers_block_type": ["mamba", "attention", "mlp", "mamba"]}),
        ({"hybrid_override_pattern": "M*"}, {"layers_block_type": ["linear_attention", "full_attention"]}),
    ],
)
def test_layers_have_one_name_whichever_version_named_them(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert differing({**NEMOTRON, **one}, {**NEMOTRON, **other}) == []
    assert differing({**NEMOTRON, **one}, {**NEMOTRON, "hybrid_override_pattern": "MM"}) != []


TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "max_window_layers": 2,
}


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
def test_a_text_config_beside_the_others_is_the_same_inside(kind: str) -> None:
    rope = {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    vision = {"depth": 2, "hidden_size": 32} if kind == "qwen2_5_vl" else {"depth": 2, "embed_dim": 32}
    flat = {
        "model_type": kind,
        **TEXT,
        **rope,
        "vision_config": {"model_type": kind, **vision},
        "tie_word_embeddings": True,
    }
    made = CONFIG_MAPPING[kind].from_dict(json.loads(json.dumps(flat)))
    nested = json.loads(json.dumps(made.to_dict()))
    assert nested["text_config"]["hidden_size"] == 64 and "hidden_size" not in nested
    assert set(differing(flat, nested)) <= {"transformers_version"}
    assert set(differing({**nested, **TEXT}, nested)) <= {"transformers_version"}  # 4.52 wrote both
    assert "text_config.rms_norm_eps" in differing({**flat, "rms_norm_eps": 1e-6}, nested)


def test_a_kind_of_an_earlier_name_is_the_one_that_transformers_has_today() -> None:
    old = {
        "model_type": "RefinedWeb",
        "n_head": 128,
        "n_head_kv": 8,
        "n_layer": 60,
        "hidden_size": 8192,
        "parallel_attn": True,
    }
    new = {
        "model_type": "falcon",
        "num_attention_heads": 128,
        "num_kv_heads": 8,
        "num_hidden_layers": 60,
        "hidden_size": 8192,
    }
    assert differing({**old, "alibi": False}, {**new, "new_decoder_architecture": True}) == []
    classes = [{**new, "architectures": [name]} for name in ("RWForCausalLM", "FalconForCausalLM", "RWKVForCausalLM")]
    assert differing(*classes[:2]) == [] and differing(*classes[1:]) == ["architectures"]
    seven = {"model_type": "RefinedWebModel", "n_head": 71, "n_layer": 32, "multi_query": True}
    assert differing(seven, {"model_type": "falcon", "num_attention_heads": 71, "num_hidden_layers": 32}) == []


def test_a_field_that_no_class_reads_is_set_apart_unless_code_beside_the_model_may_read_it() -> None:
    config = {"model_type": "qwen2", "use_mrope": False, "max_window_layers": 21}
    assert resolve(config).unread == {"use_mrope": False, "max_window_layers": 21, "use_sliding_window": False}
    assert "use_mrope" in resolve({**config, "auto_map": {"AutoModel": "mine.Model"}}).values
    assert "use_mrope" in resolve({**config, "model_type": "of_my_own"}).values


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, True),  # as released
        ({"model_type": "gemma3", "tie_word_embeddings": False}, False),
        ({"model_type": "llava", "text_config": {"model_type": "llama"}}, False),
        ({"model_type": "llava", "text_config": {"model_type": "qwen2", "tie_word_embeddings": True}}, True),
        ({"model_type": "qwen2_vl", "tie_word_embeddings": True, "hidden_size": 64}, True),
        ({"model_type": "qwen2_vl", "text_config": {"tie_word_embeddings": True}}, True),
        ({"model_type": "blip-2"}, True),  # OPT's own default
        ({"model_type": "lfm2", "tie_embedding": False}, False),
        ({"model_type": "mt5", "tie_word_embeddings": False}, True),  # whatever it says
        ({"model_type": "nemotron_h", "tie_word_embeddings": True}, False),  # its class has nothing to tie
        ({"model_type": "llama"}, False),
        ({"model_type": "gpt2"}, True),
        ({"model_type": "of_my_own", "text_config": {"tie_word_embeddings": True}}, True),
        ({}, False),
    ],
)  # fmt: skip  (a table)
def test_tying_is_what_the_class_of_the_kind_makes_of_the_config(config: dict[str, Any], tied: bool) -> None:
    assert is_tied(config) is tied


@pytest.mark.parametrize(
    "name",
    [
        "eos_token_id",
        "image_token_index",
        "use_cache",
        "attention_dropout",
        "attn_pdrop",
        "initializer_range",
        "router_aux_loss_coef",
        "temperature",
        "dtype",
        "suppress_tokens",
        "_attn_implementation_autoset",
    ],
)  # fmt: skip  (one list)
def test_what_does_not_change_the_forward_pass_is_behaviour(name: str) -> None:
    assert is_behaviour(name)


@pytest.mark.parametrize(
    "name",
    [
        ROPE,
        "rms_norm_eps",
        "num_key_value_heads",
        "hidden_act",
        "sliding_window",
        "tie_word_embeddings",
        "architectures",
        "model_type",
        "attention_multiplier",
        "num_experts_per_tok",
        "quantization_config",
        "a_field_nobody_has_heard_of",
        "_remove_final_layer_norm",
        "logits_scaling",
        "norm_topk_prob",
        "max_position_embeddings",
    ],
)  # fmt: skip  (one list)
def test_what_may_change_the_forward_pass_is_architecture(name: str) -> None:
    assert not is_behaviour(name)


def test_a_config_nested_beyond_reason_is_an_error() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"x_config": deep}
    with pytest.raises(CheckpointError, match="levels deep"):
        checked(deep, "config.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        "model_type",
        "hidden_size",
        "num_attention_heads",
        "num_hidden_layers",
        "layer_types",
        "head_dim",
        "dtype",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "use_sliding_window",
        "max_window_layers",
        "architectures",
        "no_rope_layers",
        "no_rope_layer_interval",
        "sliding_window_pattern",
        "qk_rope_head_dim",
        "n_embed",
    ]
)  # fmt: skip  (one list)


@given(st.sampled_from([*PLAIN, *COMPOSITE]), st.dictionaries(NAMES, JSON, max_size=6))
@settings(max_examples=200, deadline=None)
def test_a_malformed_config_resolves_or_ends_in_a_clear_error(model_type: str, config: dict[str, Any]) -> None:
    try:
        resolve({"model_type": model_type, **config})
    except CheckpointError as error:
        assert "must be" in str(error)
