"""The class that a start is, and what of it is trained; what is no model that goes on with a text is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.command_results import Cli
from support.tiny_tuning import base_of, same, weights, write_rows
from transformers import AutoModelForImageTextToText, AutoModelForSeq2SeqLM, BertConfig, LlavaConfig, T5Config

import tuneport
from tuneport.errors import CheckpointError, TrainingError
from tuneport.scoring.models import find_models, tokenizer_of
from tuneport.tuning.loading import load_model
from tuneport.tuning.prepare import prepare
from tuneport.tuning.recipes import Lora, SftRecipe
from tuneport.tuning.run import tune

SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
RECIPE = SftRecipe(steps=2, learning_rate=1e-2, batch_size=4)
PROCESSOR = "preprocessor_config.json"


def llava(**ids: int) -> LlavaConfig:
    vision = {**SHAPE, "model_type": "clip_vision_model", "image_size": 28, "patch_size": 14, "projection_dim": 16}
    return LlavaConfig(
        text_config={**SHAPE, **ids, "num_key_value_heads": 1, "model_type": "llama"},
        vision_config=vision,
        image_token_index=4,
    )


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = base_of(tmp_path_factory.mktemp("seeing") / "base", llava, auto=AutoModelForImageTextToText)
    (folder / PROCESSOR).write_text('{"image_mean": [0.5]}')
    return folder


def test_of_a_multimodal_model_the_text_part_is_trained_and_the_whole_is_written(
    seeing: Path, chats: Path, tmp_path: Path
) -> None:
    done = tune(seeing, [chats], RECIPE, out=tmp_path / "out", chat_template="chatml")
    before, after = weights(seeing), weights(done.out)
    assert after.keys() == before.keys()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed and all("language_model" in name for name in changed), "no tower and no projector"
    size = before["language_model.model.embed_tokens.weight"].shape[0]
    config = json.loads((done.out / "config.json").read_text())
    assert config["text_config"]["vocab_size"] == size + 2
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert (done.out / PROCESSOR).read_bytes() == (seeing / PROCESSOR).read_bytes()
    assert AutoModelForImageTextToText.from_pretrained(done.out).config.get_text_config().vocab_size == size + 2
    assert done.record["plan"]["part"] == "text"
    card = (done.out / "README.md").read_text()
    assert "All parameters of the text part alone of" in card and "AutoModelForImageTextToText.from_pretrained" in card


def test_an_adapter_of_a_multimodal_model_is_on_its_text_part_alone(seeing: Path, sums: Path, tmp_path: Path) -> None:
    out = tune(seeing, [sums], RECIPE, out=tmp_path / "out", lora=Lora(rank=2)).out
    assert len(weights(out)) == 14 and all(".language_model.layers.0." in name for name in weights(out))


def test_a_multimodal_model_is_scored_as_the_whole_that_it_is(seeing: Path, tmp_path: Path) -> None:
    asked = write_rows(
        tmp_path / "asked.jsonl", [{"prompt": "the fox", "choices": [" jumps", " runs"], "answer": " jumps"}]
    )
    record = tuneport.evaluate([seeing], [asked], tmp_path / "scores.json", device="cpu", limit=1)
    assert record["models"][0]["tasks"]["asked"]["n"] == 1


def test_an_adapter_with_a_template_and_no_vocabulary_speaks_it_with_the_bases_tokens(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(adapter, tmp_path / "own")
    (own / "adapter_config.json").write_text(
        json.dumps({**json.loads((own / "adapter_config.json").read_text()), "base_model_name_or_path": str(base)})
    )
    (own / "chat_template.jinja").write_text("{{ messages[0].content }}<|end|>")
    tokenizer = tokenizer_of(find_models([own])[0])
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi<|end|>"


def test_a_dry_run_says_that_the_text_part_is_trained(seeing: Path, sums: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("tune", seeing, "--data", sums, "--out", tmp_path / "out", "--dry-run")
    assert done.status == 0 and "only its text part" in done.out


def test_an_encoder_with_a_decoder_is_refused_before_anything_is_read(sums: Path, tmp_path: Path) -> None:
    t5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    base = base_of(tmp_path / "base", lambda **ids: T5Config(**t5, **ids), auto=AutoModelForSeq2SeqLM)
    with pytest.raises(CheckpointError, match=r"\(`t5`\) is an encoder-decoder model"):
        prepare(base, [sums], RECIPE)


def test_an_encoder_that_sees_what_it_should_predict_is_refused(sums: Path, tmp_path: Path) -> None:
    base = base_of(tmp_path / "base", lambda **ids: BertConfig(**SHAPE, **ids))
    with pytest.raises(TrainingError, match="is not a decoder"):
        load_model(prepare(base, [sums], RECIPE))


def test_tensors_that_the_class_has_no_place_for_stay_as_they_are(base: Path, sums: Path, tmp_path: Path) -> None:
    start = shutil.copytree(base, tmp_path / "start", ignore=shutil.ignore_patterns("*.safetensors*"))
    more = {"model.layers.1.eh_proj.weight": torch.randn(4, 6), "mtp.steps": torch.tensor(3)}
    save_file({**weights(base), **more}, start / "model.safetensors", {"format": "pt"})
    found = weights(tune(start, [sums], RECIPE, out=tmp_path / "out").out)
    assert found.keys() == weights(start).keys()
    assert same({name: found[name] for name in more}, more)
