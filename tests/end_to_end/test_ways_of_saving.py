"""One model can lie on disk in many ways; the transfer of all of them is the same."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.carried_models import Carried
from support.command_results import Cli
from support.model_families import Family
from support.slow_reference import differing, tokens_of
from support.tiny_models import Weights, edit_json, read_json, read_weights, write_weights
from transformers import AutoModelForCausalLM, AutoTokenizer

Transfers = Callable[[str], Carried]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@contextmanager
def copy(family: Family, root: Path, side: str) -> Iterator[tuple[Family, Path, Weights]]:
    """The family with one checkpoint copied, to be written anew; the others are links."""
    own = Family(root, tied=family.tied)
    for name in ("base", "tuned", "target"):
        if name == side:
            (root / name).unlink(missing_ok=True)
            shutil.copytree(family.root / name, root / name)
        elif not (root / name).exists():
            (root / name).symlink_to(family.root / name)
    weights = read_weights(root / side)
    for path in (root / side).glob("*.safetensors*"):
        path.unlink()
    yield own, root / side, weights
    assert list((root / side).iterdir())


def transferred(run: Cli, family: Family, out: Path, *flags: str) -> Weights:
    said = run("transfer", *family.parents, "--out", out, *flags)
    assert said.status == 0, said.err
    return read_weights(out)


def test_a_tuned_model_saved_as_float32_gives_the_same(transfers: Transfers, run: Cli, tmp_path: Path) -> None:
    whole = transfers("llama")
    with copy(whole.family, tmp_path, "tuned") as (family, folder, weights):
        write_weights(folder, {name: tensor.float() for name, tensor in weights.items()}, shards=3)
        edit_json(folder / "config.json", {"torch_dtype": "float32"})
    assert differing(transferred(run, family, tmp_path / "out"), read_weights(whole.out)) == []
    assert (tmp_path / "out" / "config.json").read_bytes() == (whole.out / "config.json").read_bytes()


@pytest.mark.parametrize("side", ["base", "tuned", "target"])
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_shards_do_not_matter(name: str, side: str, transfers: Transfers, run: Cli, tmp_path: Path) -> None:
    whole = transfers(name)
    with copy(whole.family, tmp_path, side) as (family, folder, weights):
        write_weights(folder, weights, shards=7)
    assert differing(transferred(run, family, tmp_path / "out", "--shard-size", "1GB"), read_weights(whole.out)) == []
    assert [path.name for path in (tmp_path / "out").glob("model*")] == ["model.safetensors"]


def test_the_only_safetensors_file_counts_whatever_its_name(transfers: Transfers, run: Cli, tmp_path: Path) -> None:
    whole = transfers("qwen3")
    with copy(whole.family, tmp_path, "tuned") as (family, folder, weights):
        save_file(weights, folder / "epoch-3.safetensors", metadata={"format": "pt"})
    assert differing(transferred(run, family, tmp_path / "out"), read_weights(whole.out)) == []


@pytest.mark.parametrize("storing", [*itertools.product(["embedding", "both", "head"], repeat=3)], ids="-".join)
def test_a_tied_matrix_counts_once_whoever_stores_it_how(
    storing: tuple[str, str, str], transfers: Transfers, run: Cli, tmp_path: Path
) -> None:
    """mergekit #390 and #424; the paper's own script adds the embedding's difference twice on tied models."""
    whole = transfers("qwen3")
    for side, kind in zip(("base", "tuned", "target"), storing, strict=True):
        with copy(whole.family, tmp_path, side) as (family, folder, weights):
            matrix = weights.pop(EMBEDDING)
            weights |= {EMBEDDING: matrix} if kind != "head" else {}
            weights |= {HEAD: matrix.clone()} if kind != "embedding" else {}
            write_weights(folder, weights)
    found = transferred(run, family, tmp_path / "out")
    assert found.keys() & {HEAD, EMBEDDING} == ({HEAD} if storing[2] == "head" else {EMBEDDING})
    wanted = read_weights(whole.out)
    if HEAD in found:
        wanted[HEAD] = wanted.pop(EMBEDDING)
    assert differing(found, wanted) == []
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "mixtral"])
def test_a_tuned_model_that_transformers_saved_again_gives_the_same(
    name: str, transfers: Transfers, run: Cli, tmp_path: Path
) -> None:
    """Version 5 spells rope, dtype and tokenizers in a way of its own; none of this is a fine-tuning."""
    whole = transfers(name)
    with copy(whole.family, tmp_path, "tuned") as (family, folder, weights):
        write_weights(folder, weights)
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        shutil.rmtree(folder)
        model.save_pretrained(folder, max_shard_size="50KB")
        tokenizer.save_pretrained(folder)
    found, wanted = transferred(run, family, tmp_path / "out"), read_weights(whole.out)
    if name == "mixtral":  # loading rounds the router to the main dtype
        wanted = {key: tensor for key, tensor in wanted.items() if not key.endswith("gate.weight")}
        found = {key: tensor for key, tensor in found.items() if key in wanted}
    by_position = name in ("gemma2", "mixtral")  # then padded rows meet as well; after saving again strings decide
    if by_position:
        size = len(tokens_of(whole.out))
        for weights in (found, wanted):
            for key in weights.keys() & {HEAD, EMBEDDING}:
                weights[key] = weights[key][:size]
    assert differing(found, wanted) == []
    for file in ("config.json", "generation_config.json", "tokenizer.json"):
        assert read_json(tmp_path / "out" / file) == read_json(whole.out / file), file
    mine, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "out", whole.out))
    assert mine.chat_template == theirs.chat_template and mine.special_tokens_map == theirs.special_tokens_map


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_a_tuned_model_trimmed_to_its_tokens_loses_nothing(
    name: str, transfers: Transfers, run: Cli, tmp_path: Path
) -> None:
    """Trainers resize to len(tokenizer), which takes the padding away."""
    whole = transfers(name)
    size = len(tokens_of(whole.family.tuned))
    with copy(whole.family, tmp_path, "tuned") as (family, folder, weights):
        write_weights(folder, {key: t[:size] if key in (HEAD, EMBEDDING) else t for key, t in weights.items()})
        edit_json(folder / "config.json", {"vocab_size": size})
    found, wanted, target = (
        transferred(run, family, tmp_path / "out"),
        read_weights(whole.out),
        read_weights(family.target),
    )
    for key in found.keys() & {HEAD, EMBEDDING}:
        assert found[key].shape == target[key].shape
        assert torch.equal(found[key][:size], wanted[key][:size])
        assert torch.equal(found[key][size:], (wanted if name == "qwen2" else target)[key][size:])
    rest = found.keys() - {HEAD, EMBEDDING}
    assert differing({key: found[key] for key in rest}, {key: wanted[key] for key in rest}) == []
    assert read_json(tmp_path / "out" / "config.json")["vocab_size"] == len(target[EMBEDDING])


@pytest.mark.parametrize("side", ["base", "tuned", "target"])
def test_a_tied_head_that_holds_something_else_is_never_dropped_without_a_word(
    side: str, transfers: Transfers, run: Cli, tmp_path: Path
) -> None:
    """transformers 5 does not tie two stored matrices that differ, so such a head counts (PEFT trains heads of tied models)."""
    whole = transfers("qwen3")
    with copy(whole.family, tmp_path, side) as (family, folder, weights):
        write_weights(folder, weights | {HEAD: weights[EMBEDDING] + 0.5})
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert not torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    said = run("transfer", *family.parents, "--out", tmp_path / "out")
    assert said.status == 1 and not (tmp_path / "out").exists()
    assert HEAD in said.err and EMBEDDING in said.err and side in said.err and "tie_word_embeddings" in said.err
    if side != "target":
        said = run("diff", "--base", family.base, "--tuned", family.tuned, "--out", tmp_path / "vector")
        assert said.status == 1 and HEAD in said.err


def test_gpt2_as_it_lies_on_the_hub_keeps_its_mask_buffers(transfers: Transfers, run: Cli, tmp_path: Path) -> None:
    """No prefix, and the causal mask stored beside the weights."""
    whole = transfers("gpt2")
    masks = {f"h.{layer}.attn.bias": torch.tril(torch.ones(1, 1, 64, 64)) for layer in range(2)}
    for side in ("base", "tuned", "target"):
        with copy(whole.family, tmp_path, side) as (family, folder, weights):
            write_weights(folder, masks | {name.removeprefix("transformer."): t for name, t in weights.items()})
    found = transferred(run, family, tmp_path / "out")
    wanted = {name.removeprefix("transformer."): tensor for name, tensor in read_weights(whole.out).items()}
    assert differing(found, wanted | masks) == []
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(model.state_dict()["transformer.wte.weight"], found["wte.weight"])


@pytest.mark.parametrize("sides", [["base", "target"], ["tuned"], ["target"]])
def test_names_with_and_without_a_prefix_are_one_model_and_the_output_has_the_targets(
    sides: list[str], transfers: Transfers, run: Cli, tmp_path: Path
) -> None:
    """GPT-2 lies on the Hub without the prefix that transformers gives to every fine-tuning of it."""
    whole = transfers("gpt2")
    for side in ("base", "tuned", "target"):
        with copy(whole.family, tmp_path, side) as (family, folder, weights):
            bare = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
            write_weights(folder, bare if side in sides else weights)
    found, wanted = transferred(run, family, tmp_path / "out"), read_weights(whole.out)
    if "target" in sides:
        wanted = {name.removeprefix("transformer."): tensor for name, tensor in wanted.items()}
    assert differing(found, wanted) == []
    decisions = read_json(tmp_path / "out" / "tuneport.json")["decisions"]
    assert any(decision["subject"].startswith("names.") for decision in decisions)


def test_mask_buffers_that_only_some_store_are_the_targets_and_stop_nothing(
    transfers: Transfers, run: Cli, tmp_path: Path
) -> None:
    whole = transfers("gpt2")
    masks = {f"transformer.h.{layer}.attn.bias": torch.tril(torch.ones(1, 1, 64, 64)) for layer in range(2)}
    for side in ("base", "target"):
        with copy(whole.family, tmp_path, side) as (family, folder, weights):
            write_weights(folder, weights | masks)
    found = transferred(run, family, tmp_path / "out")
    assert differing(found, read_weights(whole.out) | masks) == []
    fates = {entry["name"]: entry["fate"] for entry in read_json(tmp_path / "out" / "tuneport.json")["tensors"]}
    assert {fates[name] for name in masks} == {"copied"}
