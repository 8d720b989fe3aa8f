"""The way from hidden states to probabilities: TRL's where it is the model's own, else the model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.tiny_tuning import base_of, log_of, write_rows
from transformers import BertConfig, Llama4TextConfig, MixtralConfig, PreTrainedConfig

from tuneport.errors import TrainingError
from tuneport.tuning import losses
from tuneport.tuning.recipes import DpoRecipe, Lora, SftRecipe
from tuneport.tuning.run import tune

SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
RECIPE = SftRecipe(steps=2, learning_rate=1e-2, batch_size=4, per_device_train_batch_size=2)


def mixtral(**ids: int) -> PreTrainedConfig:
    return MixtralConfig(**SHAPE, num_key_value_heads=1, num_local_experts=3, router_aux_loss_coef=0.5, **ids)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_of(tmp_path_factory.mktemp("mixture") / "base", mixtral)


def test_a_mixtures_routing_counts_the_same_by_either_way(
    mixture: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tune(mixture, [sums], RECIPE, out=tmp_path / "plain").out
    monkeypatch.setattr(losses, "SMALL_LOGITS", 0)
    monkeypatch.setattr(losses, "_trl_knows_the_head", lambda *_: True)
    pieces = tune(mixture, [sums], RECIPE, out=tmp_path / "pieces").out
    for name in ("loss", "grad_norm"):
        assert [line[name] for line in log_of(plain)] == pytest.approx(
            [line[name] for line in log_of(pieces)], rel=1e-3
        )


def test_an_adapter_of_a_mixture_learns_the_rows_of_new_tokens(mixture: Path, chats: Path, tmp_path: Path) -> None:
    lora = Lora(rank=2, targets=("q_proj",))
    out = tune(mixture, [chats], RECIPE, out=tmp_path / "out", chat_template="chatml", lora=lora).out
    trained = json.loads((out / "adapter_config.json").read_text())["trainable_token_indices"]
    assert sorted(trained) == ["lm_head", "model.embed_tokens"]


@pytest.mark.parametrize(
    "config",
    [
        lambda **ids: BertConfig(**SHAPE, is_decoder=True, **ids),  # a layer between the last hidden state and the head
        lambda **ids: Llama4TextConfig(  # a mixture without the loss of its routing that its config speaks of
            **SHAPE,
            num_key_value_heads=1,
            head_dim=8,
            num_local_experts=2,
            intermediate_size_mlp=24,
            moe_layers=[0],
            **ids,
        ),
    ],
    ids=["bert", "llama4"],
)
def test_a_class_that_trl_does_not_know_is_trained_by_its_own_loss(
    config: Any, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of(tmp_path / "base", config)
    plain = tune(base, [sums], RECIPE, out=tmp_path / "plain").out
    monkeypatch.setattr(losses, "SMALL_LOGITS", 0)
    found = tune(base, [sums], RECIPE, out=tmp_path / "found").out
    assert [line["loss"] for line in log_of(found)] == [line["loss"] for line in log_of(plain)]


def test_preferences_are_not_taught_through_a_head_that_trl_does_not_know(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", lambda **ids: BertConfig(**SHAPE, is_decoder=True, **ids))
    data = write_rows(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": " b", "rejected": " c"}] * 4)
    with pytest.raises(TrainingError, match=r"does not know this model's head .*Fine-tune it with recipe=.sft."):
        tune(base, [data], DpoRecipe(steps=1, epochs=None, batch_size=2), out=tmp_path / "out")
