"""An adapter laid onto its base: every module finds its weight, and names that look wrong are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny_checkpoints as tiny

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.errors import PairingError
from tuneport.pairing.adapters.adapted import Adapted, lay_onto


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(tiny.write_model(tmp_path / "base", tiny.llama(1)), "base")


@pytest.fixture
def target(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(tiny.write_model(tmp_path / "newer", tiny.llama(2)), "target")


def lora(tmp_path: Path, **settings: object) -> Checkpoint:
    return open_checkpoint(tiny.write_lora(tmp_path / "lora", tiny.llama(1), rank=2, **settings), "tuned")


def test_the_tuned_model_has_the_bases_tensors_and_knows_what_was_done_to_each(
    base: Checkpoint, tmp_path: Path
) -> None:
    adapted = lay_onto(lora(tmp_path), base, tied=False)
    assert list(adapted.model.tensors) == list(base.tensors) and adapted.model.config == base.config
    assert sorted(adapted.changes) == [
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_proj.weight",
    ]
    for name, tensor in adapted.model.tensors.items():
        stored = base.tensors[name]
        wanted = replace(stored, dtype="F32", nbytes=2 * stored.nbytes) if name in adapted.changes else stored
        assert tensor == wanted, "a product is never rounded to the base's dtype"


@pytest.mark.parametrize(
    ("named", "base_id", "target_id", "words"),
    [
        ("org/newer", None, None, "base and target look swapped"),
        ("/home/someone/models/newer/", None, None, "base and target look swapped"),
        ("org/Newer", "org/base", "org/newer", "base and target look swapped"),
        ("org/another", "org/base", "org/newer", "the base given is org/base"),
        ("org/base", "org/base", "org/newer", None),
        ("someone/BASE", "org/base", "org/newer", None),
        ("/somewhere/else", "org/base", "org/newer", None),
        ("org/another", None, None, None),
        (None, "org/base", "org/newer", None),
    ],
)
def test_the_base_that_the_adapter_names_is_held_against_those_given(
    base: Checkpoint,
    target: Checkpoint,
    tmp_path: Path,
    named: str | None,
    base_id: str | None,
    target_id: str | None,
    words: str | None,
) -> None:
    base = replace(base, hub_id=base_id, label=base_id or base.label)
    target = replace(target, hub_id=target_id, label=target_id or target.label)
    warnings = lay_onto(lora(tmp_path, base_model_name_or_path=named), base, False, target).warnings
    assert [words in warning for warning in warnings] == [True] if words else not warnings
    assert not any("/home" in warning for warning in warnings)


ENDS = {"tokenizer_config.json": {"eos_token": "w2"}, "generation_config.json": {"eos_token_id": [2, 7], "top_k": 3}}


def laid_with_files(tmp_path: Path, files: dict[str, object], behind: dict[str, dict[str, Any]] = ENDS) -> Adapted:
    """An adapter with these small files on a base with those."""
    base = tiny.write_model(tmp_path / "base", tiny.llama(1), settings=tiny.config(eos_token_id=2))
    adapter = tiny.write_lora(tmp_path / "lora", tiny.llama(1), rank=2)
    for folder, contents in ((base, behind), (adapter, files)):
        for name, content in contents.items():
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return lay_onto(open_checkpoint(adapter, "tuned"), open_checkpoint(base, "base"), tied=False)


@pytest.mark.parametrize(
    ("settings", "stops"),
    [
        ({"eos_token": "w9"}, [9, 2, 7]),
        ({"eos_token": {"content": "w9"}}, [9, 2, 7]),
        ({"eos_token": "<turn>", "added_tokens_decoder": {"11": {"content": "<turn>"}}}, [11, 2, 7]),
        ({"eos_token": "<turn>", "added_tokens_decoder": {"7": {"content": "<turn>"}}}, [2, 7]),
        ({"eos_token": "w2"}, [2, 7]),
        ({}, [2, 7]),
    ],
)
def test_generation_stops_where_the_adapters_tokenizer_ends_texts(
    tmp_path: Path, settings: dict[str, object], stops: list[int]
) -> None:
    adapted = laid_with_files(tmp_path, {"tokenizer_config.json": settings})
    assert adapted.model.sidecars.json("generation_config.json") == {"eos_token_id": stops, "top_k": 3}
    told = {decision.subject: decision.choice for decision in adapted.decisions}
    assert ("adapter.end_token" in told) == (len(stops) == 3) and not adapted.warnings


def test_without_any_generation_config_it_is_made_of_the_bases_config(tmp_path: Path) -> None:
    behind: dict[str, dict[str, Any]] = {"tokenizer_config.json": {"eos_token": "w2"}}
    adapted = laid_with_files(tmp_path, {"special_tokens_map.json": {"eos_token": "w9"}}, behind)
    assert adapted.model.sidecars.json("generation_config.json") == {"eos_token_id": [9, 2]}
    assert "generation_config.json" in adapted.model.sidecars.names()


def test_the_note_that_it_was_made_of_the_config_goes(tmp_path: Path) -> None:
    behind = {**ENDS, "generation_config.json": {"eos_token_id": 2, "_from_model_config": True}}
    adapted = laid_with_files(tmp_path, {"tokenizer_config.json": {"eos_token": "w9"}}, behind)
    assert adapted.model.sidecars.json("generation_config.json") == {"eos_token_id": [9, 2]}


def test_a_generation_config_of_its_own_says_where_it_stops(tmp_path: Path) -> None:
    own = {"tokenizer_config.json": {"eos_token": "w9"}, "generation_config.json": {"eos_token_id": 5}}
    assert laid_with_files(tmp_path, own).model.sidecars.json("generation_config.json") == {"eos_token_id": 5}


def test_an_end_token_without_a_row_is_told(tmp_path: Path) -> None:
    adapted = laid_with_files(tmp_path, {"tokenizer_config.json": {"eos_token": "<end>"}})
    assert len(adapted.warnings) == 1 and "no row for it (id 24 of 24 rows)" in adapted.warnings[0]


@pytest.mark.parametrize(
    ("files", "own", "vocabulary"),
    [
        ({}, set(), "the base's"),
        ({"chat_template.jinja": "own"}, {"chat_template.jinja"}, "the base's"),
        ({"tokenizer_config.json": {"chat_template": "own"}}, {"tokenizer_config.json"}, "the base's"),
        ({"tokenizer_config.json": {}, "added_tokens.json": {}}, {"tokenizer_config.json"}, "the base's"),
        ({"special_tokens_map.json": {}}, {"special_tokens_map.json"}, "the base's"),
        ({"tokenizer.json": tiny.tokenizer(tiny.WORDS)}, {"tokenizer.json"}, "the adapter's"),
        (
            {"tokenizer.json": tiny.tokenizer(tiny.WORDS), "tokenizer_config.json": {}, "vocab.json": {}},
            {"tokenizer.json", "tokenizer_config.json", "vocab.json"},
            "the adapter's",
        ),
    ],
)
def test_what_the_adapters_folder_lacks_is_the_bases_and_no_tokenizer_is_mixed(
    tmp_path: Path, files: dict[str, object], own: set[str], vocabulary: str
) -> None:
    everything = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json")
    behind: dict[str, Any] = {name: {} for name in everything} | {"chat_template.jinja": "the base's"}
    adapted = laid_with_files(tmp_path, files, behind)
    sidecars = adapted.model.sidecars
    assert {name for name in sidecars.names() if sidecars.place(name).parent == tmp_path / "lora"} == own
    told = {decision.subject: decision.choice for decision in adapted.decisions}
    assert told["adapter.tokenizer"] == vocabulary
    has_template = any("own" in str(files.get(name)) for name in ("chat_template.jinja", "tokenizer_config.json"))
    assert ("adapter.template" in told) == has_template
    if has_template:
        assert sidecars.text("chat_template.jinja") in ("own", None), (
            "the base's file would beat the adapter's settings"
        )


def test_everything_that_does_not_fit_the_base_is_told_at_once(tmp_path: Path) -> None:
    weights = tiny.llama(1)
    weights["model.layers.0.self_attn.q_proj.weight"] = torch.ones(9, 8, dtype=torch.bfloat16)
    del weights["model.layers.0.mlp.up_proj.weight"]
    other = open_checkpoint(tiny.write_model(tmp_path / "other", weights), "base")
    with pytest.raises(PairingError) as told:
        lay_onto(lora(tmp_path), other, tied=False)
    assert "q_proj.weight` is 9×8, but the adapter's product B·A is 8×8" in str(told.value)
    assert "up_proj.weight` is changed by the adapter, but the base has no such tensor" in str(told.value)


def test_a_head_that_has_another_name_on_disk_is_not_taken_for_one_that_is_missing(tmp_path: Path) -> None:
    stored = {"gpt_neox.embed_in.weight": torch.ones(24, 8), "embed_out.weight": torch.ones(24, 8)}
    settings = tiny.config(model_type="gpt_neox", architectures=["GPTNeoXForCausalLM"])
    base = open_checkpoint(tiny.write_model(tmp_path / "base", stored, settings=settings), "base")
    adapter = tiny.write_lora(tmp_path / "lora", {"gpt_neox.layers_proj.weight": torch.ones(8, 8)}, rank=2)
    prefix = "base_model.model."
    saved = {f"{prefix}lm_head.weight": torch.ones(24, 8), f"{prefix}gpt_neox.embed_in.weight": torch.ones(24, 8)}
    save_file(saved, adapter / "adapter_model.safetensors")
    adapted = lay_onto(open_checkpoint(adapter, "tuned"), base, tied=False)
    assert sorted(adapted.changes) == ["embed_out.weight", "gpt_neox.embed_in.weight"]


def test_a_square_weight_is_turned_where_the_kind_of_model_stores_it_so(tmp_path: Path) -> None:
    for model_type, said, turned in (("llama", False, False), ("llama", True, True), ("gpt2", False, True)):
        settings = tiny.config(model_type=model_type)
        base = open_checkpoint(tiny.write_model(tmp_path / "base", tiny.llama(1), settings=settings), "base")
        changes = lay_onto(lora(tmp_path, fan_in_fan_out=said), base, tied=False).changes
        square = changes["model.layers.0.self_attn.q_proj.weight"].low_rank
        assert square is not None and square.transposed is turned
        oblong = changes["model.layers.0.mlp.up_proj.weight"].low_rank
        assert oblong is not None and not oblong.transposed, "24×8 tells by its shape"


TABLE, HEAD = "backbone.embeddings", "lm_head"


def mamba(tmp_path: Path, saved: dict[str, torch.Tensor], **settings: object) -> Adapted:
    """An adapter of a tied Mamba, whose embedding has a name of its own."""
    mixer = {f"backbone.layers.0.mixer.{name}.weight": torch.ones(16, 8) for name in ("in_proj", "other")}
    base = {f"{TABLE}.weight": torch.ones(24, 8), **mixer}
    config = tiny.config(model_type="mamba", architectures=["MambaForCausalLM"], tie_word_embeddings=True)
    folder = tiny.write_lora(tmp_path / "lora", base, rank=2, **settings)
    named = {f"base_model.model.{name}": tensor for name, tensor in saved.items()}
    save_file({**load_file(folder / "adapter_model.safetensors"), **named}, folder / "adapter_model.safetensors")
    written = tiny.write_model(tmp_path / "base", base, settings=config)
    return lay_onto(open_checkpoint(folder, "tuned"), open_checkpoint(written, "base"), tied=True)


def test_tied_matrices_are_one_under_the_names_of_their_kind(tmp_path: Path) -> None:
    matrix = torch.zeros(24, 8)
    both = {f"{TABLE}.weight": matrix, f"{HEAD}.weight": matrix.clone()}
    adapted = mamba(tmp_path / "both", both, modules_to_save=["embeddings", "lm_head"])
    assert f"{TABLE}.weight" in adapted.changes and f"{HEAD}.weight" not in adapted.changes
    assert [(alike.one.name, alike.other.name) for alike in adapted.alike] == [
        (f"base_model.model.{TABLE}.weight", f"base_model.model.{HEAD}.weight")
    ]
    with pytest.raises(PairingError, match="trains the embedding separately"):
        mamba(tmp_path / "one", {f"{TABLE}.weight": matrix}, modules_to_save=["embeddings"])


def test_trained_tokens_find_an_embedding_of_any_name(tmp_path: Path) -> None:
    rows = {f"{TABLE}.token_adapter.trainable_tokens_delta": torch.zeros(2, 8)}
    adapted = mamba(tmp_path / "tokens", rows, trainable_token_indices={"embeddings": [3, 5]})
    trained = adapted.changes[f"{TABLE}.weight"].rows
    assert trained is not None and tuple(trained.ids) == (3, 5)
    none = {"backbone.layers.0.mixer.other.token_adapter.trainable_tokens_delta": torch.zeros(2, 8)}
    with pytest.raises(PairingError, match="not an embedding or head that tuneport knows"):
        mamba(tmp_path / "layer", none, trainable_token_indices={"other": [3, 5]})


def test_what_is_done_to_a_shared_weight_reaches_it_by_whatever_name_the_base_stores(tmp_path: Path) -> None:
    shared, own = "prophetnet.word_embeddings.weight", "prophetnet.decoder.word_embeddings"
    base = {shared: torch.ones(24, 8), "prophetnet.decoder.layers.0.self_attn.out_proj.weight": torch.ones(8, 8)}
    folder = tiny.write_lora(tmp_path / "lora", base, rank=2, trainable_token_indices={own: [3, 5]})
    rows = {f"base_model.model.{own}.token_adapter.trainable_tokens_delta": torch.zeros(2, 8)}
    save_file({**load_file(folder / "adapter_model.safetensors"), **rows}, folder / "adapter_model.safetensors")
    config = tiny.config(model_type="prophetnet", architectures=["ProphetNetForCausalLM"], tie_word_embeddings=True)
    written = tiny.write_model(tmp_path / "base", base, settings=config)
    adapted = lay_onto(open_checkpoint(folder, "tuned"), open_checkpoint(written, "base"), tied=True)
    trained = adapted.changes[shared].rows
    assert trained is not None and trained.ids == (3, 5)
    assert adapted.model.tensors.keys() == base.keys(), "nothing of its own that no one reads"
