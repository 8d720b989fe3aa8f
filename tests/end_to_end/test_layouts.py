"""Every family goes through the real engine: the bits are the formula's, and transformers takes the output as its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tokenizers
import torch
from support.carried_models import Carried
from support.command_results import Cli
from support.model_families import FAMILIES, folder_digest
from support.slow_reference import carried as slowly_carried
from support.slow_reference import differing, tokens_of
from support.tiny_models import VOCABULARY, read_json, read_weights
from support.tiny_tokenizers import SAMPLES
from transformers import AutoModelForCausalLM, AutoTokenizer

each_family = pytest.mark.parametrize("carried", FAMILIES, indirect=True)


@each_family
def test_every_tensor_is_bit_for_bit_what_the_formula_gives(carried: Carried) -> None:
    family = carried.family
    wanted = slowly_carried(family.base, family.tuned, family.target, carried.out, family.renamed, (family.tied,) * 3)
    found = read_weights(carried.out)
    assert differing(found, wanted) == []
    unchanged = [
        name for name, tensor in read_weights(family.target).items() if name in found and _same(found[name], tensor)
    ]
    assert unchanged == list(family.untouched)  # the reference would not notice a Δ that nothing feels


@each_family
def test_the_output_loads_without_a_missing_or_unexpected_weight_and_generates(carried: Carried) -> None:
    model, info = AutoModelForCausalLM.from_pretrained(carried.out, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), info
    tokenizer = AutoTokenizer.from_pretrained(carried.out)
    inputs = tokenizer("the quick brown fox", return_tensors="pt")
    with torch.no_grad():
        written = model.generate(inputs["input_ids"], max_new_tokens=8, do_sample=False)
    assert written.shape[1] > inputs["input_ids"].shape[1]
    stored = read_weights(carried.out)
    loaded = model.state_dict()
    common = stored.keys() & loaded.keys()  # the experts of a mixture are stacked into one tensor on loading
    assert any(VOCABULARY.search(name) for name in common) and any("att" in name for name in common)
    assert [name for name in common if not torch.equal(stored[name].to(loaded[name].dtype), loaded[name])] == []


@each_family
def test_every_count_of_tokens_agrees(carried: Carried) -> None:
    rows = {tensor.shape[0] for name, tensor in read_weights(carried.out).items() if VOCABULARY.search(name)}
    assert rows == {read_json(carried.out / "config.json")["vocab_size"]}
    ids = tokens_of(carried.out)
    assert max(ids.values()) < rows.pop()
    assert sorted(ids.values()) == list(range(len(ids)))
    auto = AutoTokenizer.from_pretrained(carried.out)
    assert auto.get_vocab() == ids and len(auto) == len(ids)


@each_family
def test_text_becomes_the_targets_ids_and_new_tokens_their_own(carried: Carried) -> None:
    family = carried.family
    target = tokenizers.Tokenizer.from_file(str(family.target / "tokenizer.json"))
    output = tokenizers.Tokenizer.from_file(str(carried.out / "tokenizer.json"))
    auto, auto_target = (AutoTokenizer.from_pretrained(folder) for folder in (carried.out, family.target))
    for text in SAMPLES:
        assert output.encode(text).ids == target.encode(text).ids
        assert auto(text)["input_ids"] == auto_target(text)["input_ids"]
    expected = {new: target.token_to_id(old) for new, old in family.renamed.items()}
    expected |= {token: target.get_vocab_size() + place for place, token in enumerate(family.added)}
    for token, id in expected.items():
        for sentence in (token, f"the {token}fox"):
            assert id in output.encode(sentence).ids
            assert auto(sentence)["input_ids"] == output.encode(sentence).ids
        assert auto.convert_ids_to_tokens(id) == token and output.id_to_token(id) == token
        assert auto.decode([id]) == token
    for old in family.renamed.values():
        assert output.token_to_id(old) is None
    kept = tokens_of(family.target).keys() - set(family.renamed.values())
    assert {token: output.token_to_id(token) for token in kept} == {token: target.token_to_id(token) for token in kept}
    assert tokens_of(carried.out).keys() == kept | expected.keys()


@each_family
def test_the_end_token_of_the_tuned_model_ends_generation(carried: Carried) -> None:
    family, ids = carried.family, tokens_of(carried.out)
    assert family.end is not None
    generation = read_json(carried.out / "generation_config.json")
    stops = generation["eos_token_id"]
    assert ids[family.end] in (stops if isinstance(stops, list) else [stops])
    model = AutoModelForCausalLM.from_pretrained(carried.out)
    loaded = model.generation_config.eos_token_id
    assert ids[family.end] in (loaded if isinstance(loaded, list) else [loaded])


@each_family
def test_dtypes_and_tying_are_the_targets(carried: Carried) -> None:
    target, found = read_weights(carried.family.target), read_weights(carried.out)
    head = {"lm_head.weight"} if carried.family.tied else set()
    assert found.keys() == target.keys() - head  # a tied head is written once, so the output is never larger
    assert {name: tensor.dtype for name, tensor in found.items()} == {name: target[name].dtype for name in found}
    for name, tensor in found.items():
        if re.search(carried.family.float32, name):
            assert tensor.dtype == torch.float32
    if not carried.family.added:
        assert sum(t.nbytes for t in found.values()) <= sum(t.nbytes for t in target.values())


@each_family
def test_the_output_is_proved_in_full_from_its_parents(carried: Carried, run: Cli) -> None:
    said = run("verify", carried.out, *carried.family.parents, "--full", "--json")
    assert said.status == 0, said.err
    assert said.json()["kind"] == "full" and said.json()["tensors"] == len(read_weights(carried.out))


@each_family
def test_diff_then_apply_gives_the_same_bytes(carried: Carried, run: Cli, tmp_path: Path) -> None:
    family, vector, out = carried.family, tmp_path / "vector", tmp_path / "applied"
    before = [folder_digest(folder) for folder in (family.base, family.tuned, family.target)]
    said = run("diff", "--base", family.base, "--tuned", family.tuned, "--out", vector)
    assert said.status == 0, said.err
    said = run("apply", vector, "--onto", family.target, "--out", out, "--shard-size", "60KB")
    assert said.status == 0, said.err
    own = {"README.md", "tuneport.json"}
    assert _contents(out, own) == _contents(carried.out, own)
    assert run("verify", out, "--diff", vector, "--onto", family.target, "--full").status == 0
    assert [folder_digest(folder) for folder in (family.base, family.tuned, family.target)] == before


@each_family
def test_the_plan_says_beforehand_what_the_manifest_says_afterwards(carried: Carried, run: Cli, tmp_path: Path) -> None:
    said = run(
        "transfer", *carried.family.parents, "--out", tmp_path / "out", "--shard-size", "60KB", "--dry-run", "--json"
    )
    assert said.status == 0, said.err
    plan, manifest = said.json(), carried.manifest
    assert not (tmp_path / "out").exists()
    assert plan["files"] == sorted(path.name for path in carried.out.iterdir() if not path.name.endswith(".index.json"))
    assert plan["decisions"] == manifest["decisions"] and plan["config_differences"] == manifest["config_differences"]
    named = {tensor["name"]: tensor["fate"] for tensor in plan["tensors"]}
    for tensor in manifest["tensors"]:
        assert tensor["fate"] == named.get(tensor["name"], "transferred")
    assert {tensor["name"] for tensor in manifest["tensors"]} == read_weights(carried.out).keys()
    assert manifest["warnings"] == [] and plan["warnings"] == []


def _contents(folder: Path, without: set[str]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in without}


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
