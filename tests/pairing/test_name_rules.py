"""A ramp has the scale of a straight line over the layers that its expression matches, in every kind of model."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModel,
    BartConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    T5Config,
    XLMConfig,
)

from tuneport.checkpoint.weights import StoredTensor
from tuneport.errors import UsageError
from tuneport.pairing.name_rules import ScaleRule, lay_rules, layer_of, scale_of

LAYERS = 3
CONFIGS: list[tuple[PreTrainedConfig, set[str]]] = [
    (LlamaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=LAYERS, num_attention_heads=2), {"layers"}),
    (GPT2Config(vocab_size=8, n_embd=8, n_layer=LAYERS, n_head=2), {"h"}),
    (
        T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=LAYERS, num_decoder_layers=LAYERS, num_heads=2),
        {"encoder.block", "decoder.block"},
    ),
    (
        BartConfig(
            vocab_size=8,
            d_model=8,
            encoder_layers=LAYERS,
            decoder_layers=LAYERS,
            encoder_ffn_dim=8,
            decoder_ffn_dim=8,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
        ),
        {"encoder.layers", "decoder.layers"},
    ),
    (
        MixtralConfig(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_local_experts=4,
        ),
        {"layers"},
    ),
    (
        XLMConfig(vocab_size=8, emb_dim=8, n_layers=LAYERS, n_heads=2),
        {"attentions", "ffns", "layer_norm1", "layer_norm2"},
    ),
]


def stored(*names: str) -> dict[str, StoredTensor]:
    return {name: StoredTensor(name, "F32", (2, 2), "", 0, 16) for name in names}


@pytest.mark.parametrize(("config", "stacks"), CONFIGS, ids=lambda value: getattr(value, "model_type", ""))
def test_the_layers_of_real_classes_are_found(config: PreTrainedConfig, stacks: set[str]) -> None:
    with torch.device("meta"):
        names = [name for name, _ in AutoModel.from_config(config).named_parameters()]
    found = {layer for name in names if (layer := layer_of(name)) is not None}
    assert found == {(stack, number) for stack in stacks for number in range(LAYERS)}


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.11.mlp.experts.7.down_proj.weight", ("model.layers", 11)),
        ("decoder.block.2.layer.1.EncDecAttention.q.weight", ("decoder.block", 2)),
        ("transformer.h.0.attn.c_attn.weight", ("transformer.h", 0)),
        ("model.language_model.layers.5.input_layernorm.weight", ("model.language_model.layers", 5)),
        ("model.visual.blocks.4.norm1.weight", ("model.visual.blocks", 4)),
        ("encoder.albert_layer_groups.0.albert_layers.0.ffn.weight", ("encoder.albert_layer_groups", 0)),
        ("model.layers.0", ("model.layers", 0)),
        ("experts.7.down_proj.weight", None),
        ("model.embed_tokens.weight", None),
        ("lm_head.3.weight", None),
        ("model.layers_0.weight", None),
    ],
)
def test_the_first_list_of_layers_in_a_name_counts(name: str, layer: tuple[str, int] | None) -> None:
    assert layer_of(name) == layer


def test_a_ramp_is_linear_over_the_numbers_of_the_layers_that_match() -> None:
    names = [f"model.layers.{number}.mlp.weight" for number in (2, 3, 5, 6)]
    (rule,) = lay_rules([ScaleRule(r"layers\.", 0.2, 1.0)], stored(*names, "model.norm.weight"))
    scales = [scale_of(name, 9.0, [rule]) for name in names]
    assert scales == [0.2, pytest.approx(0.4), pytest.approx(0.8), 1.0]
    assert scale_of("model.norm.weight", 9.0, [rule]) == 9.0


def test_each_list_of_layers_has_its_own_first_and_last() -> None:
    names = [f"encoder.block.{number}.weight" for number in range(2)]
    names += [f"decoder.block.{number}.weight" for number in range(5)]
    (rule,) = lay_rules([ScaleRule("block", 1.0, 0.0)], stored(*names))
    assert [scale_of(name, 9.0, [rule]) for name in names] == [1.0, 0.0, 1.0, 0.75, 0.5, 0.25, 0.0]


def test_one_layer_alone_has_the_first_value() -> None:
    (rule,) = lay_rules([ScaleRule(r"layers\.4\.", 0.3, 1.0)], stored("model.layers.4.w", "model.layers.5.w"))
    assert scale_of("model.layers.4.w", 1.0, [rule]) == 0.3


def test_a_ramp_that_decides_about_a_tensor_outside_of_layers_is_refused_by_name() -> None:
    tensors = stored("model.layers.0.w", "model.norm.weight")
    with pytest.raises(UsageError, match=r"model\.norm\.weight") as caught:
        lay_rules([ScaleRule("model", 0.2, 1.0)], tensors)
    assert [(fault.option, fault.value) for fault in caught.value.faults] == [("rules", "model=0.2..1")]


def test_a_later_rule_may_decide_about_what_is_outside_of_layers() -> None:
    tensors = stored("model.layers.0.w", "model.layers.1.w", "model.norm.weight", "model.rotary_emb.inv_freq")
    rules = lay_rules([ScaleRule("model", 0.2, 1.0), ScaleRule("norm", 0.5)], tensors)
    assert [scale_of(name, 9.0, rules) for name in list(tensors)[:3]] == [0.2, 1.0, 0.5]
