"""Estimates of memory: the parts that can be counted are counted right, and choices move them the right way."""

from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.tuning.memory import memory_per_device
from tuneport.tuning.recipes import DistilRecipe, DpoRecipe, Lora, SftRecipe
from tuneport.tuning.run import tune


def start_of(base: Path) -> Checkpoint:
    return open_checkpoint(base, "model")


def test_of_all_parameters_four_bytes_weight_four_gradient_and_eight_optimizer(base: Path) -> None:
    start = start_of(base)
    found = memory_per_device(start, SftRecipe(), None, 64, 1, 4)
    assert (found.weights, found.gradients, found.optimizer) == tuple(n * start.parameters for n in (4, 4, 8))
    assert found.total == found.weights + found.gradients + found.optimizer + found.activations


def test_an_adapters_parameters_are_those_that_peft_makes(base: Path, sums: Path, tmp_path: Path) -> None:
    lora = Lora(rank=4)
    out = tune(base, [sums], SftRecipe(steps=1), out=tmp_path / "adapter", lora=lora).out
    made = sum(tensor.numel() for tensor in load_file(out / "adapter_model.safetensors").values())
    assert memory_per_device(start_of(base), SftRecipe(), lora, 64, 1, 4).gradients == 4 * made


def test_logits_count_where_they_are_held_whole(base: Path) -> None:
    start, recipe = start_of(base), SftRecipe(per_device_train_batch_size=2)
    plain, whole = (memory_per_device(start, recipe, Lora(4), 64, 1, 2, whole_logits=held) for held in (False, True))
    assert whole.logits == 2 * 64 * start.config["vocab_size"] * (2 + 4 + 4)
    assert (plain.logits, whole.total) == (0, plain.total + whole.logits)


def test_devices_share_checkpointing_saves_activations_and_a_reference_costs_weights(base: Path) -> None:
    start = start_of(base)
    one = memory_per_device(start, SftRecipe(), None, 64, 1, 2)
    four = memory_per_device(start, SftRecipe(), None, 64, 4, 2)
    assert (four.gradients, four.optimizer) == (one.gradients // 4, one.optimizer // 4)
    assert four.activations == one.activations // 4
    saved = memory_per_device(start, SftRecipe(per_device_train_batch_size=2), None, 64, 1, 2)
    assert saved.activations == one.activations // 4
    reference = memory_per_device(start, DpoRecipe(), None, 64, 1, 2)
    assert reference.weights == 2 * one.weights


def test_beside_an_adapter_linear_layers_take_two_bytes_where_they_are_stored_and_computed_in_bfloat16(
    base: Path,
) -> None:
    start, lora = start_of(base), Lora(4)
    wide, narrow = (memory_per_device(start, SftRecipe(), lora, 64, 1, computed).weights for computed in (4, 2))
    linear = sum(t.elements for name, t in start.tensors.items() if "_proj" in name or "lm_head" in name)
    assert wide - narrow == 2 * linear
    assert memory_per_device(start, SftRecipe(), None, 64, 1, 2).weights == 4 * start.parameters


def test_an_8_b_model_is_distilled_with_an_adapter_in_24_gb(base: Path) -> None:
    start, layers, hidden, forward, pairs, words = start_of(base), 32, 4096, 14336, 1024, 128256
    shapes = {"model.embed_tokens.weight": (words, hidden), "lm_head.weight": (words, hidden)}
    for layer in range(layers):
        own = {
            "q_proj": (hidden, hidden),
            "k_proj": (pairs, hidden),
            "v_proj": (pairs, hidden),
            "o_proj": (hidden, hidden),
        }
        own |= {"gate_proj": (forward, hidden), "up_proj": (forward, hidden), "down_proj": (hidden, forward)}
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in own.items()}
    some = start.tensors["lm_head.weight"]
    config = {
        "vocab_size": words, "hidden_size": hidden, "intermediate_size": forward, "num_hidden_layers": layers,
        "num_attention_heads": 32, "num_key_value_heads": 8,
    }  # fmt: skip
    llama = replace(
        start,
        tensors={name: replace(some, shape=shape, nbytes=2 * shape[0] * shape[1]) for name, shape in shapes.items()},
        config=config,
    )
    recipe = DistilRecipe(teacher="teacher", per_device_train_batch_size=1, gradient_checkpointing=True)
    found = memory_per_device(llama, recipe, Lora(16), 1024, 1, 2, whole_logits=True)
    assert 17e9 < found.weights < 18e9 and found.total < 22e9
    assert memory_per_device(llama, replace(recipe, precision="float32"), Lora(16), 1024, 1, 4).weights > 32e9
