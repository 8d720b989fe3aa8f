"""Configs compare as transformers reads them, whichever version wrote them."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from transformers import CONFIG_MAPPING, AutoConfig

from tuneport.checkpoint.config import checked, defaults_of, is_manner, resolve
from tuneport.checkpoint.config_rope import ROPE, rope_of, spell_rope
from tuneport.checkpoint.merge3 import same
from tuneport.errors import CheckpointError

ROOT = Path(__file__).parents[2]


def _maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_config_defaults", ROOT / "docs" / "make_config_defaults.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = _maker()
MODEL_TYPES = sorted(json.loads(MAKER.TABLE.read_text())["models"])

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


def saved_by_transformers(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the installed transformers writes after reading ``config``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    AutoConfig.from_pretrained(folder).save_pretrained(folder / "saved")
    return dict(json.loads((folder / "saved" / "config.json").read_text()))


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    first, second = resolve(one).values, resolve(other).values
    return sorted(name for name in {*first, *second} if not same(first.get(name), second.get(name)))


def test_the_committed_table_is_that_of_the_installed_transformers() -> None:
    assert MAKER.TABLE.read_text(encoding="utf-8") == MAKER.render(MAKER.table())


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_bare_config_says_the_same_after_transformers_wrote_it_out(model_type: str, tmp_path: Path) -> None:
    bare = {"model_type": model_type}
    assert set(differing(bare, saved_by_transformers(bare, tmp_path))) <= {"transformers_version"}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_config_in_the_spelling_of_version_4_says_the_same_after_version_5_wrote_it_out(
    model_type: str, tmp_path: Path
) -> None:
    defaults = defaults_of(model_type)
    config = {
        "model_type": model_type,
        "architectures": [f"{model_type}ForCausalLM"],
        "torch_dtype": "bfloat16",
        "use_cache": False,
        "_name_or_path": "somewhere",
        "transformers_version": "4.44.0",
    }
    layers = "n_layer" if "n_layer" in defaults["defaults"] else "num_hidden_layers"
    config[layers] = 5
    if "rope" in defaults:
        if model_type not in ("gpt_neox", "olmo3", "apertus", "gpt_oss"):
            config["rope_theta"] = 123456.0
        config["rope_scaling"] = None
    if model_type == "gpt_neox":
        config |= {"rotary_emb_base": 20000, "rotary_pct": 0.5}
    if model_type == "gemma3_text":
        config["rope_local_base_freq"] = 5000.0
    assert set(differing(config, saved_by_transformers(config, tmp_path))) <= {"transformers_version"}


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "mistral", "gemma3_text", "cohere", "granite", "smollm3"])
def test_scaled_rope_is_one_value_in_both_spellings(model_type: str, tmp_path: Path) -> None:
    config = {"model_type": model_type, "num_hidden_layers": 4, "rope_theta": 500000.0, "rope_scaling": LLAMA3}
    saved = saved_by_transformers(config, tmp_path)
    assert ROPE in saved and "rope_scaling" not in saved
    assert differing(config, saved) == ["transformers_version"]
    assert "rope_parameters" in differing(config, {**config, "rope_theta": 10000.0})
    assert "rope_parameters" in differing(config, {**config, "rope_scaling": None})


def test_earlier_names_of_a_rope_kind_are_the_same_kind() -> None:
    old = {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {"model_type": "llama", "rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 10000}}
    assert differing(old, new) == []


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


@pytest.mark.parametrize("model_type", sorted(MAKER.LAYER_TYPES))
@pytest.mark.parametrize("layers", [1, 7, 12])
def test_layer_types_are_those_that_transformers_fills_in(model_type: str, layers: int) -> None:
    for extra in ({}, {"use_sliding_window": True, "max_window_layers": 3, "sliding_window": 128}):
        if extra and not model_type.startswith(("qwen", "smollm")):
            continue
        config = CONFIG_MAPPING[model_type].from_dict({"num_hidden_layers": layers, **extra})
        ours = resolve({"model_type": model_type, "num_hidden_layers": layers, **extra}).values["layer_types"]
        assert ours == config.layer_types


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
def test_what_does_not_change_the_forward_pass_is_manners(name: str) -> None:
    assert is_manner(name)


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
    assert not is_manner(name)


ROPES = st.builds(
    lambda theta, scaling, partial: {
        "rope_theta": theta,
        "rope_scaling": scaling,
        "partial_rotary_factor": partial,
    },
    st.sampled_from([10000.0, 500000.0, 1e6]),
    st.sampled_from([None, LLAMA3, {"rope_type": "linear", "factor": 4.0}, {"type": "dynamic", "factor": 2.0}]),
    st.sampled_from([0.5, 1.0]),
)


@given(ROPES, ROPES, st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_rope_written_in_the_targets_spelling_reads_back_the_same(
    theirs: dict[str, Any], target: dict[str, Any], modern: bool
) -> None:
    default = defaults_of("llama")["rope"]
    wanted = rope_of(theirs, default)
    here: dict[str, Any] = {ROPE: rope_of(target, default)} if modern else dict(target)
    spelled = {**here, **spell_rope(wanted, here)}
    assert ({"rope_theta", "rope_scaling"} & spelled.keys() == set()) is modern
    assert rope_of({name: value for name, value in spelled.items() if value is not None}, default) == wanted


def test_gemma_3s_two_ropes_are_spelled_the_old_way_where_the_target_is() -> None:
    default = defaults_of("gemma3_text")["rope"]
    old = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    rope = rope_of(old, default)
    assert rope is not None and rope["sliding_attention"] == {"rope_theta": 1e4, "rope_type": "default"}
    assert rope["full_attention"]["factor"] == 8.0
    assert rope_of({**old, **spell_rope(rope, old)}, default) == rope


@pytest.mark.parametrize("rope", [{"rope_scaling": "yarn"}, {"rope_parameters": [1]}])
def test_a_rope_that_is_no_object_is_an_error(rope: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="an object or null is expected"):
        resolve({"model_type": "llama", **rope})


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


@given(st.sampled_from(MODEL_TYPES), st.dictionaries(NAMES, JSON, max_size=6))
@settings(max_examples=200, deadline=None)
def test_a_malformed_config_resolves_or_ends_in_a_clear_error(model_type: str, config: dict[str, Any]) -> None:
    try:
        resolve({"model_type": model_type, **config})
    except CheckpointError as error:
        assert "expected" in str(error)
