"""Estimate the memory that a device needs for a fine-tuning, from shapes alone.

Bytes by kind, from a checkpoint's headers, the recipe and the number of devices. Estimates to choose machines by, not
promises; docs/design/tuning.md has the formula with its terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.tuning.recipes import DistilRecipe, DpoRecipe, GrpoRecipe, Lora, Recipe

_FLOAT32, _BFLOAT16 = 4, 2


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    def record(self) -> dict[str, int]:
        """The bytes as JSON."""
        return {**vars(self), "total": self.total}


def memory_per_device(
    start: Checkpoint,
    recipe: Recipe,
    lora: Lora | None,
    length: int,
    devices: int,
    computed_bytes: int,
    *,
    whole_logits: bool = False,
) -> Memory:
    """Bytes on each of ``devices`` that share weights, gradients and optimizer state (FSDP 2, full shard).

    ``whole_logits``: those of a batch are held at once, as where an adapter trains rows of the head.
    """
    text = start.config.get("text_config", start.config)
    parameters = start.parameters
    trained = parameters if lora is None else _adapter_parameters(start, lora)
    layers = max(1, int(text.get("num_hidden_layers") or text.get("n_layer") or 1))
    share = -(-recipe.examples_per_step // devices)
    pairs = isinstance(recipe, DpoRecipe) or (isinstance(recipe, DistilRecipe) and recipe.retain)
    sequences = min(share, recipe.per_device_train_batch_size or share) * (2 if pairs else 1)
    copies = (
        2
        if lora is None and (isinstance(recipe, DpoRecipe) or (isinstance(recipe, GrpoRecipe) and recipe.kl_coef))
        else 1
    )
    # Each device holds its part, and while a layer is computed the whole of that layer.
    gathered = 0 if devices == 1 else parameters // layers * computed_bytes
    narrow = _narrow_elements(start) if lora is not None and devices == 1 and computed_bytes == _BFLOAT16 else 0
    weights = copies * (parameters * _FLOAT32 // devices + gathered) - narrow * (_FLOAT32 - _BFLOAT16)
    weights += 0 if lora is None else trained * _FLOAT32 // devices
    kept = _activation_elements(text)
    hidden = _width(text)
    per_token = layers * hidden + kept if recipe.gradient_checkpointing else layers * kept
    return Memory(
        weights=weights,
        gradients=trained * _FLOAT32 // devices,
        optimizer=2 * trained * _FLOAT32 // devices,
        activations=sequences * length * per_token * computed_bytes,
        # As they are computed, in float32 for the loss, and its gradient.
        logits=sequences * length * _rows(text) * (computed_bytes + recipe.logits * _FLOAT32) if whole_logits else 0,
    )


def _narrow_elements(start: Checkpoint) -> int:
    """Of the linear layers that an adapter leaves frozen, in bfloat16 (see `narrow_frozen_weights`); a tied head is none."""
    return sum(
        tensor.elements
        for name, tensor in start.tensors.items()
        if tensor.dtype == "BF16" and len(tensor.shape) == 2 and "embed" not in name and "wte" not in name
    )


def _rows(text: dict[str, Any]) -> int:
    return int(text.get("vocab_size") or 0)


def _width(text: dict[str, Any]) -> int:
    return int(text.get("hidden_size") or text.get("n_embd") or 0)


def _activation_elements(text: dict[str, Any]) -> int:
    """Numbers that a layer keeps of a token for the way back: 9·hidden + 3·key-value width + 4·feed-forward width."""
    hidden = _width(text)
    heads = int(text.get("num_attention_heads") or text.get("n_head") or 1)
    head = int(text.get("head_dim") or hidden // heads)
    pairs = int(text.get("num_key_value_heads") or heads) * head
    forward = int(text.get("intermediate_size") or text.get("n_inner") or 4 * hidden)
    return 9 * hidden + 3 * pairs + 4 * forward


def _adapter_parameters(start: Checkpoint, lora: Lora) -> int:
    """rank · (rows + columns) of each matrix that is adapted; kept modules whole."""
    found = 0
    for name, tensor in start.tensors.items():
        module = name.removesuffix(".weight").rpartition(".")[2]
        if module in lora.modules_to_save:
            found += tensor.elements
        elif len(tensor.shape) == 2 and (
            module in lora.targets if isinstance(lora.targets, tuple) else ".layers." in name or ".h." in name
        ):
            found += lora.rank * sum(tensor.shape)
    return found
