"""Tiny adapters that peft itself makes and saves, and what peft's own merge makes of them.

Nothing here imports tuneport: what the tests compare with must not come from what they test.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig, PreTrainedConfig

from support import tiny_checkpoints as tiny

VOCABULARY = 60


def llama(tied: bool = False) -> PreTrainedConfig:
    """Two layers, no two of its widths alike but those that must be."""
    return LlamaConfig(
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=VOCABULARY,
        tie_word_embeddings=tied,
    )


def gpt2() -> PreTrainedConfig:
    """Weights stored as inputs×outputs, some of them square; embedding and head tied."""
    return GPT2Config(
        n_embd=32, n_layer=1, n_head=2, vocab_size=VOCABULARY, n_positions=16, bos_token_id=0, eos_token_id=0
    )


def gemma() -> PreTrainedConfig:
    """Tied embedding and head."""
    return Gemma2Config(
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=VOCABULARY,
    )


@dataclass(frozen=True)
class Kind:
    """One kind of adapter: the model it is made for, peft's settings, and rows that its vocabulary grows to."""

    model: Callable[[], PreTrainedConfig]
    settings: Mapping[str, Any]
    rows: int = VOCABULARY


LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS: dict[str, Kind] = {
    "plain": Kind(llama, {"r": 4, "lora_alpha": 8, "target_modules": LINEAR}),
    "two modules": Kind(llama, {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj"]}),
    "rank-stabilised with patterns": Kind(
        llama,
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": LINEAR,
            "use_rslora": True,
            "rank_pattern": {"q_proj": 7, "model.layers.1.mlp.down_proj": 3, "o_proj": 11},
            "alpha_pattern": {r".*layers\.0\.self_attn\.(k|v)_proj": 32, "down_proj": 5},
        },
    ),
    "fan_in_fan_out": Kind(gpt2, {"r": 4, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "fan_in_fan_out unsaid": Kind(gpt2, {"r": 4, "target_modules": ["c_proj", "wte"]}),
    "embedding and head": Kind(
        llama, {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "embed_tokens", "lm_head"]}
    ),
    "embedding of a tied model": Kind(gemma, {"r": 4, "target_modules": ["q_proj", "embed_tokens"]}),
    "embedding kept tied": Kind(
        lambda: llama(tied=True),
        {"r": 4, "target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    ),
    "modules saved": Kind(
        llama, {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "input_layernorm"]}
    ),
    "embedding saved, kept tied": Kind(
        lambda: llama(tied=True),
        {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "trained tokens": Kind(llama, {"r": 4, "target_modules": ["q_proj"], "trainable_token_indices": [3, 7, 41]}),
    "trained tokens by module": Kind(
        llama,
        {"r": 4, "target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [9, 2], "lm_head": [5]}},
    ),
    "trained tokens of a tied model": Kind(
        gemma, {"r": 4, "target_modules": ["q_proj"], "trainable_token_indices": [1, 5]}
    ),
    "resized": Kind(llama, {"r": 4, "target_modules": ["q_proj"]}, rows=63),
    "resized, embedding": Kind(gemma, {"r": 4, "target_modules": ["q_proj", "embed_tokens"]}, rows=63),
    "resized, trained tokens": Kind(
        llama, {"r": 4, "target_modules": ["q_proj"], "trainable_token_indices": [61, 62, 4]}, rows=63
    ),
    "resized, modules saved": Kind(
        llama, {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, rows=63
    ),
    "biases": Kind(gpt2, {"r": 4, "target_modules": ["c_attn"], "bias": "all"}),
    "resized, tied": Kind(gemma, {"r": 4, "target_modules": ["q_proj"]}, rows=63),
}  # fmt: skip  (one kind after another)


@dataclass(frozen=True)
class Adapter:
    """A base, an adapter of it, a target, and ``merged``: what peft makes of base and adapter, in float32."""

    base: Path
    adapter: Path
    target: Path
    merged: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def flags(self, out: Path, *more: str, onto: Path | None = None) -> list[str]:
        """The arguments of a transfer onto ``onto``, or the target."""
        parents = (("--base", self.base), ("--tuned", self.adapter), ("--onto", onto or self.target))
        return ["transfer", *(str(part) for pair in parents for part in pair), "--out", str(out), *more]


Made = Callable[..., Adapter]  # by kind and dtype


def make(where: Path, kind: Kind, dtype: torch.dtype = torch.bfloat16, *, tied: bool = True) -> Adapter:
    """Base, adapter and target on disk, every trained number random and none of them zero.

    ``tied``: what peft means to keep tied is tied. In bfloat16 peft 0.21.2 makes float32 copies of both, which part.
    """
    torch.manual_seed(11)
    base, adapter = where / "base", where / "adapter"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of tied weights and of saved embeddings; both are meant here
        model = AutoModelForCausalLM.from_config(kind.model())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        model.to(dtype).save_pretrained(base, max_shard_size="20KB")
        _tokenizer(base)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        if kind.rows != VOCABULARY:
            model.resize_token_embeddings(kind.rows)
        tuned = get_peft_model(model, LoraConfig(**kind.settings))
        with torch.no_grad():
            for parameter in tuned.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn_like(parameter)
            if tied and kind.settings.get("ensure_weight_tying"):
                _tie(tuned)
        tuned.save_pretrained(adapter)
        if kind.rows != VOCABULARY:
            _tokenizer(adapter, kind.rows)
        merged = _merged(base, adapter, kind)
    return Adapter(base, adapter, target_of(base, where / "target"), merged)


def target_of(base: Path, target: Path, by: float = 0.03) -> Path:
    """A later version: the base with noise on every weight, in one file."""
    weights = tiny.moved(tiny.read_weights(base), 5, by)
    target.mkdir()
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()}, target / "model.safetensors", {"format": "pt"}
    )
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        if (base / name).exists():
            (target / name).write_bytes((base / name).read_bytes())
    return target


def _tie(tuned: PeftModel) -> None:
    embedding, head = tuned.get_input_embeddings(), tuned.get_output_embeddings()
    if hasattr(embedding, "lora_embedding_A"):
        head.lora_A["default"].weight.copy_(embedding.lora_embedding_B["default"].T)
        head.lora_B["default"].weight.copy_(embedding.lora_embedding_A["default"].T)


def _merged(base: Path, adapter: Path, kind: Kind) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if kind.rows != VOCABULARY:
        model.resize_token_embeddings(kind.rows)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return {name: tensor.detach().clone() for name, tensor in merged.state_dict().items()}


def _tokenizer(folder: Path, tokens: int = VOCABULARY) -> None:
    words = [f"w{number}" for number in range(VOCABULARY)]
    added = [f"<|new{number}|>" for number in range(tokens - VOCABULARY)]
    (folder / "tokenizer.json").write_text(json.dumps(tiny.tokenizer(words, added)))


def weights_of(adapter: Path) -> dict[str, torch.Tensor]:
    """The adapter's own tensors."""
    return load_file(adapter / "adapter_model.safetensors")


def edit(adapter: Path, change: Callable[[dict[str, torch.Tensor]], None] = lambda _: None, **settings: Any) -> Path:
    """The adapter with other tensors or other settings."""
    tensors = weights_of(adapter)
    change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, adapter / "adapter_model.safetensors")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return adapter
