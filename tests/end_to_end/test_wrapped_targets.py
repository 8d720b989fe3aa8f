"""A target as a training library saves it, with its wrappers' names: the output has names that transformers loads."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import tiny_checkpoints as tiny

import tuneport


def compiled(tensors: tiny.Tensors) -> tiny.Tensors:
    """What torch.compile itself makes of a model's names."""
    model = torch.nn.Module()
    for name, tensor in tensors.items():
        owner = model
        *path, leaf = name.split(".")
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, torch.nn.Module())
            owner = getattr(owner, part)
        owner.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=False))
    return {name: tensor.clone() for name, tensor in torch.compile(model).state_dict().items()}


def named(rename: Callable[[str], str]) -> Callable[[tiny.Tensors], tiny.Tensors]:
    return lambda tensors: {rename(name): tensor for name, tensor in tensors.items()}


WRAPPED = {
    "torch.compile": compiled,
    "FSDP": named(lambda name: "_fsdp_wrapped_module." + re.sub(r"(layers\.\d+)\.", r"\1._fsdp_wrapped_module.", name)),
    "DDP and torch.compile": named(lambda name: f"module._orig_mod.{name}"),
    "activation checkpointing": named(lambda name: re.sub(r"(layers\.\d+)\.", r"\1._checkpoint_wrapped_module.", name)),
    "Lightning Fabric": named(lambda name: f"_forward_module.{name}"),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_the_output_of_a_wrapped_target_is_that_of_the_plain_one(wrapper: str, tmp_path: Path) -> None:
    base = tiny.llama(1)
    tuned, target = tiny.moved(base, 2), tiny.moved(base, 3)
    roles = {"base": base, "tuned": tuned, "target": target, "wrapped": WRAPPED[wrapper](target)}
    places = {role: tiny.write_model(tmp_path / role, tensors) for role, tensors in roles.items()}
    parents = places["base"], places["tuned"]
    plain = tuneport.transfer(*parents, places["target"], tmp_path / "plain")
    made = tuneport.transfer(*parents, places["wrapped"], tmp_path / "made")
    (told,) = set(made.warnings) - set(plain.warnings)
    first = next(name for name in sorted(roles["wrapped"]) if name not in target)
    assert f"`{first}`" in told
    tiny.assert_same(tiny.read_weights(made.out), tiny.read_weights(plain.out))
    assert tuneport.verify(made.out, *parents, places["wrapped"], full=True).kind == "full"
    vector = tuneport.diff(*parents, tmp_path / "vector").out
    applied = tuneport.apply(vector, places["wrapped"], tmp_path / "applied").out
    tiny.assert_same(tiny.read_weights(applied), tiny.read_weights(plain.out))
