"""Gemma 3 with eyes: the language model is one part of the config and of the names, and its vocabulary grows there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from support.command_results import Cli
from support.model_families import DRIFT, SHAPE, TUNING, Family
from support.slow_reference import carried as slowly_carried
from support.slow_reference import differing, tokens_of
from support.tiny_models import edit_json, perturbed, read_json, read_weights, with_vocabulary, write_weights
from support.tiny_tokenizers import sentencepiece_like, vocabulary, write_tokenizer
from transformers import AutoModelForImageTextToText, AutoTokenizer, Gemma3Config

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """The tuned model adds a token to a vocabulary without padding."""
    root = tmp_path_factory.mktemp("gemma3-multimodal")
    old, new = sentencepiece_like(SPECIAL, "<bos>"), sentencepiece_like(SPECIAL, "<bos>")
    size = len(vocabulary(old))
    new["added_tokens"].append({**new["added_tokens"][-1], "id": size, "content": "<look>"})
    text = {**SHAPE, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": size, "max_position_embeddings": 128}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config={**text, "sliding_window": 16},
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).to(torch.bfloat16).save_pretrained(root / "base")
    start = perturbed(read_weights(root / "base"), 4, 0.05)
    tuned = perturbed(with_vocabulary(start, vocabulary(old), vocabulary(new), size + 1, seed=5), 1, TUNING)
    for name, weights, document in (
        ("base", start, old),
        ("tuned", tuned, new),
        ("target", perturbed(start, 2, DRIFT), old),
    ):
        if name != "base":
            shutil.copytree(root / "base", root / name, ignore=shutil.ignore_patterns("*.safetensors*"))
        write_weights(root / name, weights)
        behaviour = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
        write_tokenizer(root / name, document, behaviour | {"tokenizer_class": "GemmaTokenizer"})
    text = read_json(root / "tuned" / "config.json")["text_config"]
    edit_json(root / "tuned" / "config.json", {"text_config": text | {"vocab_size": size + 1}})
    return Family(root, tied=True, added=("<look>",))


def test_a_new_token_makes_the_language_model_grow_inside(family: Family, run: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = run("transfer", *family.parents, "--out", out)
    assert said.status == 0 and said.err == "", said.err
    wanted = slowly_carried(family.base, family.tuned, family.target, out, {}, (True,) * 3)
    found = read_weights(out)
    assert differing(found, wanted) == [] and any(name.startswith("vision_tower.") for name in found)
    size = len(tokens_of(family.target))
    assert tokens_of(out)["<look>"] == size
    assert read_json(out / "config.json")["text_config"]["vocab_size"] == size + 1
    model, info = AutoModelForImageTextToText.from_pretrained(out, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), info
    assert model.get_input_embeddings().weight.shape == (size + 1, 32)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert len(tokenizer) == size + 1 and size in tokenizer("the <look> fox")["input_ids"]
    written = model.generate(**tokenizer("the fox", return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert written.shape[1] > 3
    assert run("verify", out, *family.parents, "--full").status == 0
