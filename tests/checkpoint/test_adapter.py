"""Adapters are read from headers alone; what does not fit together, or means something else, is told at once."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors.torch import save_file
from support import tiny_adapters
from support import tiny_checkpoints as tiny

from tuneport.checkpoint import adapter_config
from tuneport.checkpoint.adapter import read_changes
from tuneport.checkpoint.adapter_config import read_adapter_config
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.errors import CheckpointError

PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
Q = "base_model.model.model.layers.0.self_attn.q_proj"
HEAD = "base_model.model.lm_head"


def factors(name: str = Q, rank: int = 4, out: int = 8, into: int = 8) -> dict[str, torch.Tensor]:
    return {f"{name}.lora_A.weight": torch.ones(rank, into), f"{name}.lora_B.weight": torch.ones(out, rank)}


def copies() -> dict[str, torch.Tensor]:
    """A head that peft saved with its matrices: what was trained, and what was there before."""
    return {f"{HEAD}.modules_to_save.weight": torch.ones(8, 8), f"{HEAD}.original_module.weight": torch.zeros(8, 8)}


def write(folder: Path, tensors: dict[str, torch.Tensor], **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**PLAIN, **settings}))
    return folder


def opened(folder: Path, tensors: dict[str, torch.Tensor], **settings: Any) -> Checkpoint:
    return open_checkpoint(write(folder, tensors, **settings), "tuned")


def read(checkpoint: Checkpoint) -> dict[str, str]:
    assert checkpoint.adapter is not None
    changes = read_changes(checkpoint.tensors, checkpoint.adapter, "tuned").changes
    return {name: str(change) for name, change in changes.items()}


# ---- what peft saves


@pytest.mark.parametrize("kind", tiny_adapters.KINDS)
def test_every_tensor_that_peft_saves_is_accounted_for(kind: str, tmp_path: Path) -> None:
    made = tiny_adapters.make(tmp_path, tiny_adapters.KINDS[kind])
    checkpoint = open_checkpoint(made.adapter, "tuned")
    assert checkpoint.adapter is not None
    read = read_changes(checkpoint.tensors, checkpoint.adapter, "tuned")
    used = {tensor.name for change in read.changes.values() for tensor in change.sources}
    used |= {tensor.name for alike in read.alike for tensor in (alike.one, alike.other)}
    rest = tiny_adapters.weights_of(made.adapter).keys() - used
    assert all(".original_module." in name for name in rest), "peft's copies of what was there before count for nothing"


def test_every_setting_of_the_installed_peft_is_used_refused_or_without_effect() -> None:
    known = {*adapter_config._USED, *adapter_config._WITHOUT_EFFECT, *adapter_config._REFUSED}
    assert {field.name for field in dataclasses.fields(LoraConfig)} <= known


def test_rank_alpha_and_patterns_make_the_scaling(tmp_path: Path) -> None:
    tensors = {**factors(rank=4), **factors(Q.replace("q_proj", "v_proj"), rank=9)}
    patterns = {"rank_pattern": {"v_proj": 9}, "alpha_pattern": {r"layers\.0\..*v_proj": 3}}
    plain = opened(tmp_path / "plain", tensors, **patterns)
    assert read(plain) == {
        "model.layers.0.self_attn.q_proj.weight": "low-rank, r=4, scaling=2",
        "model.layers.0.self_attn.v_proj.weight": f"low-rank, r=9, scaling={3 / 9:g}",
    }
    stabilised = opened(tmp_path / "stabilised", tensors, use_rslora=True, **patterns)
    assert read(stabilised)["model.layers.0.self_attn.q_proj.weight"] == "low-rank, r=4, scaling=4"
    assert stabilised.adapter is not None
    scalings = stabilised.adapter.scalings(["a.v_proj", "layers.0.x.v_proj"], "")
    assert scalings == {"a.v_proj": (9, 8 / math.sqrt(9)), "layers.0.x.v_proj": (9, 3 / math.sqrt(9))}


@pytest.mark.parametrize(
    "spelled",
    [
        lambda name: name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."),
        lambda name: name.replace(".lora_A.", ".lora_A.my-own.").replace(".lora_B.", ".lora_B.my-own."),
        lambda name: name.removeprefix("base_model.model."),
        lambda name: "module." + name,
        lambda name: "_orig_mod." + name,
        lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
        lambda name: name.replace(".layers.0.", "._fsdp_wrapped_module.layers.0._fsdp_wrapped_module."),
        lambda name: name.replace(".self_attn.", "._checkpoint_wrapped_module.self_attn."),
    ],
    ids=["default", "an own name", "no prefix", "ddp", "compiled", "compiled inside", "fsdp", "checkpointed"],
)
def test_what_trainers_put_around_peft_s_names_is_taken_off(spelled: Callable[[str], str], tmp_path: Path) -> None:
    tensors = {spelled(name): value for name, value in factors().items()}
    told = read(opened(tmp_path / "adapter", tensors))
    assert told == {"model.layers.0.self_attn.q_proj.weight": "low-rank, r=4, scaling=2"}


@pytest.mark.parametrize("own", ["", "default.", "my-own."])
def test_a_saved_module_is_known_with_and_without_the_adapters_name(own: str, tmp_path: Path) -> None:
    mlp = "base_model.model.model.layers.0.mlp"
    tensors = {f"{Q}.lora_A.{own}weight": torch.ones(4, 8), f"{Q}.lora_B.{own}weight": torch.ones(8, 4)}
    tensors |= {f"{mlp}.modules_to_save.{own}up_proj.weight": torch.ones(8, 8)}
    assert read(opened(tmp_path / "adapter", tensors))["model.layers.0.mlp.up_proj.weight"] == "saved as a whole"


def test_of_a_matrix_that_was_saved_three_times_the_trained_one_counts(tmp_path: Path) -> None:
    thrice = {**copies(), f"{HEAD}.weight": torch.ones(8, 8)}
    for tensors in (thrice, copies()):
        checkpoint = opened(tmp_path / "adapter", tensors)
        assert checkpoint.adapter is not None
        found = read_changes(checkpoint.tensors, checkpoint.adapter, "tuned")
        assert [change.whole.name for change in found.changes.values() if change.whole] == [
            f"{HEAD}.weight" if tensors is thrice else f"{HEAD}.modules_to_save.weight"
        ]
        told = [(alike.one.name, alike.other.name, alike.copies) for alike in found.alike]
        assert told == ([(f"{HEAD}.weight", f"{HEAD}.modules_to_save.weight", True)] if tensors is thrice else [])


def test_biases_that_the_config_says_were_trained_must_be_there(tmp_path: Path) -> None:
    bias = {f"{Q}.base_layer.bias": torch.ones(8), f"{Q.replace('q_', 'k_')}.bias": torch.ones(8)}
    told = read(opened(tmp_path / "all", {**factors(), **bias}, bias="all"))
    assert told["model.layers.0.self_attn.q_proj.bias"] == told["model.layers.0.self_attn.k_proj.bias"]
    assert told["model.layers.0.self_attn.q_proj.bias"] == "saved as a whole"
    with pytest.raises(CheckpointError, match="the file contains none"):
        read(opened(tmp_path / "none", factors(), bias="lora_only"))


# ---- what is refused


def test_an_adapter_that_peft_saved_under_its_name_is_pointed_to(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    opened(tmp_path / "run" / "mine", factors())
    with pytest.raises(CheckpointError, match="adapter in mine/"):
        open_checkpoint(tmp_path / "run", "tuned")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "trains biases"),
        ({"megatron_config": {"a": 1}}, "Megatron"),
        ({"use_qalora": True}, "QALoRA"),
        ({"use_bdlora": {"nblocks": 2}}, "block-diagonal"),
        ({"kasa_config": {"beta": 1.0}}, "KaSA"),
        ({"monteclora_config": {"num_samples": 2}}, "MonteCLoRA"),
        ({"init_lora_weights": "pissa"}, "PISSA|pissa"),
        ({"init_lora_weights": "pissa_niter_16"}, "changed the base's weights"),
        ({"init_lora_weights": "olora"}, "changed the base's weights"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "changed the base's weights"),
        ({"init_lora_weights": "corda"}, "path_initial_model_for_weight_conversion"),
        ({"something_new": 3}, "`something_new` is a setting that tuneport does not know"),
        ({"peft_type": "IA3"}, "kind 'IA3'"),
        ({"peft_type": "ADALORA"}, "kind 'ADALORA'"),
        ({"peft_type": None}, "kind None"),
    ],
)
def test_kinds_that_cannot_be_carried_over_are_refused_in_words(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=words) as told:
        opened(tmp_path / "adapter", factors(), **settings)
    assert "merge_and_unload" in str(told.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layer_replication": [[0, 2], [1, 2]]}, "replicates layers"),
        ({"alora_invocation_tokens": [1, 2], "use_dora": True}, "aLoRA"),
        ({"arrow_config": {"top_k": 2}}, "Arrow"),
        ({"peft_type": "PROMPT_TUNING"}, "kind 'PROMPT_TUNING'"),
        ({"peft_type": "XLORA"}, "kind 'XLORA'"),
    ],
)
def test_what_no_weights_hold_is_refused_without_advice_to_merge_it(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=words) as told:
        opened(tmp_path / "adapter", factors(), **settings)
    assert "merge_and_unload" not in str(told.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}},
        {"init_lora_weights": False},
        {"something_new": None, "another": [], "third": False},
        {"lora_dropout": 0.1, "task_type": "CAUSAL_LM", "inference_mode": True, "layers_to_transform": [0]},
    ],
)
def test_settings_that_say_nothing_about_the_weights_change_nothing(settings: dict[str, Any], tmp_path: Path) -> None:
    assert len(read(opened(tmp_path / "adapter", factors(), **settings))) == 1


def test_everything_that_stands_against_a_config_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as told:
        opened(tmp_path / "adapter", factors(), use_dora=True, lora_bias=True, layer_replication=[[0, 1]])
    assert all(word in str(told.value) for word in ("use_dora", "lora_bias", "layer_replication"))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"{Q}.lora_A.weight": torch.ones(4, 8)}, "A and B belong together"),
        (
            {f"{Q}.lora_A.weight": torch.ones(4, 8), f"{Q}.lora_embedding_B": torch.ones(8, 4)},
            "A and B belong together",
        ),
        (factors(rank=3), "has rank 3, the config says 4"),
        ({f"{Q}.lora_A.weight": torch.ones(4, 8), f"{Q}.lora_B.weight": torch.ones(8, 5)}, "not rank×inputs"),
        ({f"{Q}.lora_A.weight": torch.ones(4, 8, 3, 3), f"{Q}.lora_B.weight": torch.ones(8, 4, 1, 1)}, "convolutions"),
        ({f"{Q}.lora_A.weight": torch.ones(4, 0), f"{Q}.lora_B.weight": torch.ones(8, 4)}, "not rank×inputs"),
        ({**factors(), f"{Q}.lora_magnitude_vector": torch.ones(8)}, "kind of adapter that tuneport does not read"),
        ({**factors(), f"{Q}.lora_B.bias": torch.ones(8)}, "kind of adapter that tuneport does not read"),
        ({**factors(), f"{Q}.lora_A.default.weight": torch.ones(4, 8)}, "is saved twice"),
        ({f"{Q}.lora_A.one.weight": torch.ones(4, 8), f"{Q}.lora_B.two.weight": torch.ones(8, 4)}, "several adapters"),
        ({**factors(), f"{HEAD}.original_module.weight": torch.ones(8, 8)}, "but not its trained copy"),
        ({**copies(), f"{HEAD}.base_layer.weight": torch.ones(8, 8)}, "saved twice"),
        ({**copies(), f"{HEAD}.weight": torch.ones(9, 8)}, "in two shapes"),
        ({**factors(), "model.norm.weight": torch.ones(8)}, "does not begin with `base_model.model.`"),
        ({**factors(), f"{Q}.weight": torch.ones(8, 8)}, "also changed by an adapter"),
        ({name: value.int() for name, value in factors().items()}, "not a float dtype"),
        ({"base_model.model.e.token_adapter.trainable_tokens_delta": torch.ones(2, 8)}, "does not say which"),
        ({}, "no tensors"),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused(
    tensors: dict[str, torch.Tensor], words: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=words):
        read(opened(tmp_path / "adapter", tensors))


def test_trained_tokens_must_be_as_many_as_the_config_names(tmp_path: Path) -> None:
    name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    with pytest.raises(CheckpointError, match="2×8, the config names 3 tokens"):
        read(opened(tmp_path / "adapter", {name: torch.ones(2, 8)}, trainable_token_indices=[1, 2, 3]))
    both = opened(
        tmp_path / "both",
        {name: torch.ones(2, 8), **factors("base_model.model.model.embed_tokens")},
        trainable_token_indices=[1, 2],
    )
    with pytest.raises(CheckpointError, match="both LoRA factors and trained tokens"):
        read(both)


def test_everything_that_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    tensors = {**factors(rank=3), f"{Q}2.lora_A.weight": torch.ones(4, 8), "other": torch.ones(1)}
    with pytest.raises(CheckpointError) as told:
        read(opened(tmp_path / "adapter", tensors))
    assert str(told.value).count("\n  - ") == 3


def test_a_config_of_many_megabytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="over the limit"):
        opened(tmp_path, factors(), something=["x" * 1000] * 9000)


def test_a_pickled_adapter_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(PLAIN))
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match="pickle"):
        open_checkpoint(tmp_path, "tuned")


def test_a_folder_with_a_model_and_an_adapter_is_the_model(tmp_path: Path) -> None:
    write(tmp_path, factors())
    tiny.write_model(tmp_path, tiny.llama(1))
    checkpoint = open_checkpoint(tmp_path, "tuned")
    assert checkpoint.adapter is None and "lm_head.weight" in checkpoint.tensors


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(sorted(adapter_config._USED))


@settings(max_examples=100)
@given(st.dictionaries(fields, values, max_size=6))
def test_a_config_from_anywhere_is_read_or_refused_in_words(chosen: dict[str, Any]) -> None:
    try:
        config = read_adapter_config({**PLAIN, **chosen}, "tuned")
        scalings = config.scalings(["model.layers.0.self_attn.q_proj", "lm_head"], "tuned")
    except CheckpointError:
        return
    assert all(rank >= 1 and math.isfinite(scaling) for rank, scaling in scalings.values())


@pytest.mark.parametrize("content", ["", "[]", "{", '{"peft_type": "LORA", "r": 1e400}', "\udcff", "[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused_in_words(content: str, tmp_path: Path) -> None:
    write(tmp_path, factors())
    (tmp_path / "adapter_config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"adapter_config|peft|JSON|cannot be meant"):
        read(open_checkpoint(tmp_path, "tuned"))
