"""Rows for new tokens in every tensor that counts them, of kinds whose names say nothing of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_tuning import base_of, weights
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    CpmAntConfig,
    Gemma3nTextConfig,
    MambaConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedConfig,
    RwkvConfig,
)

from tuneport.errors import TrainingError
from tuneport.tuning.growth import counted_elsewhere, give_rows
from tuneport.tuning.recipes import Lora, SftRecipe
from tuneport.tuning.run import tune

SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def gemma3n(**ids: int) -> PreTrainedConfig:
    """With an embedding for each layer."""
    return Gemma3nTextConfig(
        **{**SHAPE, "intermediate_size": [24], "num_key_value_heads": 1},
        head_dim=8,
        hidden_size_per_layer_input=4,
        vocab_size_per_layer_input=ids["vocab_size"],
        laurel_rank=4,
        num_kv_shared_layers=0,
        activation_sparsity_pattern=[0.0],
        layer_types=["full_attention"],
        altup_num_inputs=2,
        **ids,
    )


def cpmant(**ids: int) -> PreTrainedConfig:
    """With rows for prompts behind those of the vocabulary."""
    return CpmAntConfig(hidden_size=16, num_attention_heads=2, dim_head=8, dim_ff=24, num_hidden_layers=1, **ids)


OPT = {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "word_embed_proj_dim": 16}
KINDS: dict[str, tuple[Callable[..., PreTrainedConfig], set[str]]] = {
    "gemma3n": (gemma3n, {"model.embed_tokens.weight", "model.embed_tokens_per_layer.weight"}),
    "mamba": (
        lambda **ids: MambaConfig(hidden_size=16, num_hidden_layers=1, state_size=4, **ids),
        {"backbone.embeddings.weight"},
    ),
    "rwkv": (
        lambda **ids: RwkvConfig(hidden_size=16, num_hidden_layers=2, **ids),
        {"rwkv.embeddings.weight", "head.weight"},
    ),
    "bert": (
        lambda **ids: BertConfig(**SHAPE, is_decoder=True, **ids),
        {"bert.embeddings.word_embeddings.weight", "cls.predictions.bias"},
    ),
    "phi": (lambda **ids: PhiConfig(**SHAPE, **ids), {"model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"}),
    "opt": (lambda **ids: OPTConfig(**OPT, **ids), {"model.decoder.embed_tokens.weight"}),
}  # fmt: skip  (one kind after another)


def made(config: Callable[..., PreTrainedConfig]) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(vocab_size=20, bos_token_id=1, eos_token_id=2, pad_token_id=0))


def tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_that_counts_tokens_grows_and_new_rows_are_the_mean_of_the_others(kind: str) -> None:
    config, names = KINDS[kind]
    model = made(config)
    before = {name: tensor.detach().clone() for name, tensor in tensors(model)}
    give_rows(model, "a model", [20, 21], 22)
    grown = {name for name, tensor in tensors(model) if tensor.shape != before[name].shape}
    assert grown == names
    for name, tensor in tensors(model):
        if name in names:
            assert tensor.shape == (22, *before[name].shape[1:]) and torch.equal(tensor[:20], before[name])
            torch.testing.assert_close(tensor[20:], before[name].mean(dim=0).expand_as(tensor[20:]))
    assert model(input_ids=torch.tensor([[3, 20, 21]])).logits.shape[-1] == 22


def test_rows_that_stand_free_are_used_before_any_tensor_grows() -> None:
    model = made(gemma3n)
    per_layer = model.model.embed_tokens_per_layer.weight.detach().clone()
    give_rows(model, "a model", [18, 19], 20)
    found = model.model.embed_tokens_per_layer.weight
    assert torch.equal(found[:18], per_layer[:18])
    torch.testing.assert_close(found[18:], per_layer[:18].mean(dim=0).expand(2, -1))


def test_a_model_of_whose_tensors_only_some_could_hold_the_tokens_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"1044 in `cpmant.input_embedding.weight`, 20 in `lm_head.weight`"):
        give_rows(made(cpmant), "a model", [20], 21)


def test_what_counts_tokens_beside_embedding_and_head_is_named() -> None:
    assert counted_elsewhere(made(gemma3n), "a model") == ["model.embed_tokens_per_layer.weight"]
    assert counted_elsewhere(made(KINDS["phi"][0]), "a model") == []


@pytest.mark.parametrize("kind", ["gemma3n", "mamba"])
def test_what_is_written_with_new_tokens_loads_with_every_size_in_its_config(
    kind: str, chats: Path, tmp_path: Path
) -> None:
    base = base_of(tmp_path / "base", KINDS[kind][0])
    out = tune(base, [chats], SftRecipe(steps=1), out=tmp_path / "out", chat_template="chatml").out
    assert weights(out).keys() == weights(base).keys()
    size = json.loads((base / "config.json").read_text())["vocab_size"] + 2
    said = json.loads((out / "config.json").read_text())
    assert {value for name, value in said.items() if "vocab_size" in name} == {size}
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model(input_ids=torch.tensor([[size - 2, size - 1]])).logits.shape[-1] == size


def test_an_adapter_that_could_not_bring_all_rows_is_refused(chats: Path, tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", gemma3n)
    with pytest.raises(TrainingError, match=r"model\.embed_tokens_per_layer\.weight, which an adapter cannot add"):
        tune(base, [chats], SftRecipe(steps=1), out=tmp_path / "out", chat_template="chatml", lora=Lora(rank=2))
    assert not (tmp_path / "out.partial").exists()
