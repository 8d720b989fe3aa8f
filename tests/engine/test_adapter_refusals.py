"""What stands against the transfer of an adapter is named, and what does not is carried."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import tiny_adapters
from support import tiny_checkpoints as tiny
from support.tiny_adapters import Made, edit, make
from support.written_manifests import by_name

from tuneport.diffvector.run import diff, transfer
from tuneport.errors import NumericsError, PairingError, TuneportError, VerificationError
from tuneport.verification import verify


def test_an_adapter_that_was_never_trained_is_a_zero_diff_vector(made: Made, tmp_path: Path) -> None:
    adapter = made("two modules")

    def forget(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: torch.zeros_like(value) for name, value in tensors.items() if "lora_B" in name})

    untrained = edit(shutil.copytree(adapter.adapter, tmp_path / "untrained"), forget)
    with pytest.raises(NumericsError, match="zero"):
        transfer(adapter.base, untrained, adapter.target, tmp_path / "out")


def test_nan_in_a_factor_is_named_and_stops(made: Made, tmp_path: Path) -> None:
    adapter = made("two modules")

    def break_one(tensors: dict[str, torch.Tensor]) -> None:
        next(value for name, value in tensors.items() if "layers.1.self_attn.v_proj.lora_A" in name)[0, 3] = math.nan

    broken = edit(shutil.copytree(adapter.adapter, tmp_path / "broken"), break_one)
    with pytest.raises(NumericsError, match=r"layers\.1\.self_attn\.v_proj\.weight.*16 in the output \(1 in tuned\)"):
        transfer(adapter.base, broken, adapter.target, tmp_path / "out")


def test_an_adapter_stands_only_where_the_tuned_model_does(made: Made, tmp_path: Path) -> None:
    adapter = made("two modules")
    for parents in ((adapter.adapter, adapter.base, adapter.target), (adapter.base, adapter.adapter, adapter.adapter)):
        with pytest.raises(TuneportError, match="PEFT adapter; only tuned takes one"):
            transfer(*parents, tmp_path / "out")


def test_a_base_that_the_adapter_does_not_fit_is_refused_with_every_reason(made: Made, tmp_path: Path) -> None:
    adapter, other = made("plain"), made("fan_in_fan_out")
    with pytest.raises(PairingError) as told:
        transfer(other.base, adapter.adapter, other.target, tmp_path / "out")
    assert "does not fit its base" in str(told.value) and str(told.value).count("has no such tensor") == 14

    def shorten(tensors: dict[str, torch.Tensor]) -> None:
        for name, value in tensors.items():
            if "layers.0.mlp.up_proj.lora_B" in name:
                tensors[name] = value[:-1]

    shorter = edit(shutil.copytree(adapter.adapter, tmp_path / "shorter"), shorten)
    with pytest.raises(PairingError, match=r"up_proj.weight` is 56×32, but the adapter's product B·A is 55×32"):
        transfer(adapter.base, shorter, adapter.target, tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, "trains the head separately"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, "trains the embedding separately"),
        (
            {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
            "saved two different matrices",
        ),
        ({"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}, "saved two different matrices"),
        (
            {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [1, 3]}},
            "trains the head separately",
        ),
    ],
)
def test_a_tied_models_head_that_goes_its_own_way_is_refused(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    kind = tiny_adapters.Kind(lambda: tiny_adapters.llama(tied=True), {"r": 2, **settings})
    adapter = make(tmp_path, kind, tied=False)
    with pytest.raises(PairingError, match=words):
        transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out")


def test_two_copies_of_one_matrix_that_differ_are_refused(made: Made, tmp_path: Path) -> None:
    adapter = made("resized, modules saved")

    def part(tensors: dict[str, torch.Tensor]) -> None:
        tensors["base_model.model.lm_head.modules_to_save.weight"][5] += 1

    own = edit(shutil.copytree(adapter.adapter, tmp_path / "own"), part)
    with pytest.raises(PairingError, match=r"contains one trained matrix twice.*lm_head\.modules_to_save\.weight"):
        transfer(adapter.base, own, adapter.target, tmp_path / "out")


def test_a_tokenizer_that_moves_the_bases_tokens_is_refused(made: Made, tmp_path: Path) -> None:
    adapter = made("embedding and head")
    own = shutil.copytree(adapter.adapter, tmp_path / "own")
    (own / "tokenizer.json").write_text(json.dumps(tiny.tokenizer([f"w{(i + 1) % 60}" for i in range(60)])))
    for target in (adapter.base, adapter.target):
        with pytest.raises(PairingError, match="gives other ids to 60 tokens of the base"):
            transfer(adapter.base, own, target, tmp_path / "out")
    with pytest.raises(PairingError, match="gives other ids to 60 tokens of the base"):
        diff(adapter.base, own, tmp_path / "diff")


def test_a_saved_head_that_the_base_lacks_is_refused_unless_dropped(made: Made, tmp_path: Path) -> None:
    adapter = made("two modules")

    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["base_model.model.score.weight"] = torch.ones(2, 32)

    scoring = edit(shutil.copytree(adapter.adapter, tmp_path / "scoring"), add)
    with pytest.raises(PairingError, match=r"`score.weight` \(2×32\) is in the tuned model.*drop="):
        transfer(adapter.base, scoring, adapter.target, tmp_path / "out")
    transfer(adapter.base, scoring, adapter.target, tmp_path / "dropped", drop="^score")
    assert by_name(tmp_path / "dropped")["score.weight"]["fate"] == "dropped"


def test_a_difference_without_a_place_is_dropped_with_its_norm(made: Made, tmp_path: Path) -> None:
    adapter = made("plain", torch.float32)
    target = shutil.copytree(adapter.target, tmp_path / "target")
    weights = tiny.read_weights(target)
    name = "model.layers.1.mlp.up_proj.weight"
    del weights[name]
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    transfer(adapter.base, adapter.adapter, target, tmp_path / "out", drop="layers.1.mlp.up_proj")
    delta = adapter.merged[name] - tiny.read_weights(adapter.base)[name]
    assert by_name(tmp_path / "out")[name]["norms"]["diff"] == pytest.approx(float(delta.norm()), rel=1e-5)


def test_what_the_adapter_does_not_train_needs_no_place_in_the_target(made: Made, tmp_path: Path) -> None:
    adapter = made("two modules")
    target = shutil.copytree(adapter.target, tmp_path / "target")
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    weights = tiny.read_weights(target)
    del weights["lm_head.weight"]
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    transfer(adapter.base, adapter.adapter, target, tmp_path / "out")
    head = by_name(tmp_path / "out")["lm_head.weight"]
    assert head["fate"] == "dropped" and head["norms"]["diff"] == 0 and "does not train it" in head["reason"]


def test_names_that_lack_a_prefix_throughout_are_found(made: Made, tmp_path: Path) -> None:
    """GPT-2 on the Hub is saved without the `transformer.` that its classes, and so its adapters, have."""
    adapter = made("fan_in_fan_out")
    transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out")
    for role in ("base", "target"):
        place = shutil.copytree(getattr(adapter, role), tmp_path / role)
        tensors = tiny.read_weights(place)
        tiny.write_weights(place, {name.removeprefix("transformer."): value for name, value in tensors.items()})
    transfer(tmp_path / "base", adapter.adapter, tmp_path / "target", tmp_path / "short")
    found = tiny.read_weights(tmp_path / "short")
    tiny.assert_same(
        {f"transformer.{name}": value for name, value in found.items()}, tiny.read_weights(tmp_path / "out")
    )


def test_a_tied_embeddings_product_goes_onto_both_matrices_of_an_untied_target(made: Made, tmp_path: Path) -> None:
    adapter = made("embedding kept tied", torch.float32)
    target = shutil.copytree(adapter.target, tmp_path / "target")
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    weights = tiny.read_weights(target)
    weights["lm_head.weight"] = tiny.moved(weights, 9)["model.embed_tokens.weight"]
    tiny.write_weights(target, weights)
    transfer(adapter.base, adapter.adapter, target, tmp_path / "out")
    found = tiny.read_weights(tmp_path / "out")
    delta = found["model.embed_tokens.weight"] - weights["model.embed_tokens.weight"]
    assert float(delta.abs().max()) > 0.01
    torch.testing.assert_close(found["lm_head.weight"] - weights["lm_head.weight"], delta, rtol=1e-4, atol=1e-6)


def test_a_changed_adapter_is_noticed_by_resume_and_by_verify(made: Made, tmp_path: Path) -> None:
    adapter = made("two modules")
    own = shutil.copytree(adapter.adapter, tmp_path / "own")
    transfer(adapter.base, own, adapter.target, tmp_path / "out")
    assert transfer(adapter.base, own, adapter.target, tmp_path / "out").already_done
    edit(own, lora_alpha=6)  # another scaling: not one byte of the weights is different
    with pytest.raises(TuneportError, match="adapter_config"):
        transfer(adapter.base, own, adapter.target, tmp_path / "out")
    with pytest.raises(VerificationError, match="that was used: its files differ"):
        verify(tmp_path / "out", adapter.base, own, adapter.target, full=True)


def test_a_tied_embeddings_product_that_the_head_was_trained_without_is_told(made: Made, tmp_path: Path) -> None:
    kept = made("embedding kept tied")
    assert not transfer(kept.base, kept.adapter, kept.target, tmp_path / "kept").warnings
    adapter = made("embedding of a tied model")
    warnings = transfer(adapter.base, adapter.adapter, adapter.target, tmp_path / "out").warnings
    assert len(warnings) == 1 and "as in peft's own merge" in warnings[0]
