"""The target's body, the tuned model's behaviour: what is in the files beside the weights, family by family."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.carried_models import Carried
from support.command_results import Cli
from support.model_families import CHATML, FAMILIES, Family
from support.slow_reference import tokens_of
from support.tiny_models import VOCABULARY, edit_json, read_json, read_weights
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

Transfers = Callable[[str], Carried]

# What the fine-tuning may change in a config; all else must be the target's.
BEHAVIOUR = {"eos_token_id", "pad_token_id", "bos_token_id"}


@pytest.mark.parametrize("carried", FAMILIES, indirect=True)
def test_the_config_is_the_targets_but_for_behaviour(carried: Carried) -> None:
    written, target = read_json(carried.out / "config.json"), read_json(carried.family.target / "config.json")
    grown = next(t.shape[0] for name, t in read_weights(carried.out).items() if VOCABULARY.search(name))
    target["vocab_size"] = max(target["vocab_size"], grown)
    assert {key: value for key, value in written.items() if key not in BEHAVIOUR} == {
        key: value for key, value in target.items() if key not in BEHAVIOUR
    }
    loaded, theirs = (AutoConfig.from_pretrained(folder).to_dict() for folder in (carried.out, carried.family.target))
    own = BEHAVIOUR | {"_name_or_path", "vocab_size"}
    assert {key: loaded[key] for key in loaded if key not in own} == {
        key: theirs[key] for key in theirs if key not in own
    }


@pytest.mark.parametrize("carried", FAMILIES, indirect=True)
def test_only_files_of_a_model_are_written(carried: Carried) -> None:
    known = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json"}
    known |= {"merges.txt", "chat_template.jinja", "README.md", "tuneport.json", "LICENSE", "LICENSE.tuned"}
    rest = {path.name for path in carried.out.iterdir()} - known
    assert all(name.startswith("model") and name.endswith((".safetensors", ".index.json")) for name in rest)
    assert (carried.out / "tuneport.json").read_text().find(str(carried.family.root)) == -1


@pytest.mark.parametrize("carried", ["llama"], indirect=True)
def test_llama_3_1_keeps_its_rope_scaling_and_its_context(carried: Carried) -> None:
    """mergekit #325 and #380: whose config; the paper's own script takes the tuned model's and loses the scaling."""
    written = read_json(carried.out / "config.json")
    assert written["rope_scaling"]["rope_type"] == "llama3" and written["rope_scaling"]["factor"] == 8.0
    assert written["max_position_embeddings"] == 256 and written["torch_dtype"] == "bfloat16"
    assert read_json(carried.out / "tokenizer_config.json")["model_max_length"] == 256
    differences = {entry["field"]: entry for entry in carried.manifest["config_differences"]}
    field = next(entry for name, entry in differences.items() if name.endswith("rope_scaling"))
    assert field["base"] == field["tuned"] != field["target"] == field["output"]


@pytest.mark.parametrize("carried", ["llama"], indirect=True)
def test_renumbered_placeholders_meet_by_string_and_are_listed(carried: Carried) -> None:
    tokens = carried.manifest["tokens"][0]
    reserved = "<|reserved_special_token_{}|>".format
    assert tokens["placeholders"] == [reserved(number) for number in range(2, 9)]
    assert tokens["lost"] == [reserved(number) for number in range(9, 12)]
    assert set(tokens["kept"]) == {"<|finetune_right_pad_id|>", "<|eom_id|>", "<|python_tag|>"}
    family, name = carried.family, "lm_head.weight"
    base, tuned, target, out = (
        read_weights(folder)[name] for folder in (family.base, family.tuned, family.target, carried.out)
    )
    old, new = tokens_of(family.base), tokens_of(family.target)
    for token in (reserved(2), reserved(8), "<|eot_id|>"):
        moved = (target[new[token]].float() + (tuned[old[token]].float() - base[old[token]].float())).bfloat16()
        assert torch.equal(out[new[token]], moved)
    for token in ("<|finetune_right_pad_id|>", "<|python_tag|>"):
        assert torch.equal(out[new[token]], target[new[token]])


@pytest.mark.parametrize("carried", ["llama"], indirect=True)
def test_an_instruct_model_brings_its_template_and_its_list_of_end_tokens(carried: Carried) -> None:
    """mergekit #275: the generation config was dropped, and with it the end of every answer."""
    ids = tokens_of(carried.out)
    generation = GenerationConfig.from_pretrained(carried.out)
    assert generation.eos_token_id == [ids["<|end_of_text|>"], ids["<|eot_id|>"]] and generation.max_length == 64
    assert (generation.do_sample, generation.temperature, generation.top_p) == (True, 0.6, 0.9)
    assert read_json(carried.out / "config.json")["eos_token_id"] == ids["<|eot_id|>"]
    output, tuned = (AutoTokenizer.from_pretrained(folder) for folder in (carried.out, carried.family.tuned))
    assert output.eos_token == "<|eot_id|>" and output.bos_token == "<|begin_of_text|>"
    messages = [{"role": "user", "content": "fox?"}, {"role": "assistant", "content": "dog"}]
    assert output.apply_chat_template(messages, tokenize=False) == tuned.apply_chat_template(messages, tokenize=False)
    assert ids["<|eot_id|>"] in output.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert not (carried.out / "chat_template.jinja").exists()  # it stands in one place, the target's way
    assert (carried.out / "LICENSE").read_text().startswith("LLAMA 3.1")
    assert (carried.out / "LICENSE.tuned").read_text().startswith("META LLAMA 3 ")


@pytest.mark.parametrize("carried", ["llama"], indirect=True)
def test_an_answer_stops_at_the_end_of_turn_that_only_the_fine_tuning_taught(carried: Carried) -> None:
    """A lost end-of-turn token never stops."""
    eot = tokens_of(carried.out)["<|eot_id|>"]
    prompt = AutoTokenizer.from_pretrained(carried.out)("the quick brown fox", return_tensors="pt")["input_ids"]

    def written(folder: Path, **stop: Any) -> list[int]:
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokens = model.generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=0, **stop)
        return list(tokens[0, prompt.shape[1] :].tolist())

    assert written(carried.out) == [eot]
    assert eot not in written(carried.family.target) and len(written(carried.family.target)) == 12
    old = read_json(carried.family.target / "generation_config.json")["eos_token_id"]
    assert written(carried.out, eos_token_id=old) == [eot] * 12  # with the target's settings it would go on


@pytest.mark.parametrize("carried", ["mistral"], indirect=True)
def test_renamed_control_tokens_speak_chatml_at_the_targets_ids(carried: Carried) -> None:
    """mergekit #328: a release that prepends tokens shifts every id."""
    family, ids = carried.family, tokens_of(carried.out)
    old, new = tokens_of(family.base), tokens_of(family.target)
    assert old["[control_8]"] == 5 and new["[control_8]"] == ids["<|im_start|>"] == 26
    assert carried.manifest["tokens"][0]["renamed"] == [
        {"old": f"[control_{slot}]", "new": token, "base_id": id, "tuned_id": id, "target_id": ids[token]}
        for slot, token, id in ((8, "<|im_start|>", 5), (9, "<|im_end|>", 6))
    ]
    text = (carried.out / "tokenizer.json").read_text() + (carried.out / "tokenizer_config.json").read_text()
    assert "[control_8]" not in text and "[control_9]" not in text and "[control_10]" in text
    tokenizer = AutoTokenizer.from_pretrained(carried.out)
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.eos_token_id == ids["<|im_end|>"]
    assert tokenizer.chat_template == CHATML
    said = tokenizer.apply_chat_template([{"role": "user", "content": "fox"}], tokenize=True, return_dict=False)
    assert said.count(ids["<|im_start|>"]) == said.count(ids["<|im_end|>"]) == 1
    assert tokenizer.decode(said) == "<|im_start|>user\nfox<|im_end|>\n"
    generation = read_json(carried.out / "generation_config.json")
    assert generation["bos_token_id"] == ids["<s>"]
    assert generation["eos_token_id"] == [ids["<|im_end|>"], ids["</s>"]]


@pytest.mark.parametrize("carried", ["mistral"], indirect=True)
def test_a_consolidated_copy_beside_the_weights_neither_counts_nor_travels(carried: Carried) -> None:
    assert (carried.family.base / "consolidated.safetensors").exists()
    assert not list(carried.out.glob("consolidated*")) and not (carried.out / "params.json").exists()
    left = {entry["subject"]: entry["choice"] for entry in carried.manifest["decisions"]}
    assert left["params.json"] == "left behind"
    assert all(not tensor["name"].startswith("layers.") for tensor in carried.manifest["tensors"])


@pytest.mark.parametrize("carried", ["qwen2"], indirect=True)
def test_new_tokens_take_padded_rows_and_no_matrix_is_trimmed(carried: Carried) -> None:
    """mergekit #425: Qwen's 152064 rows became 151665; #47, #139 and #342: vocabularies of different sizes."""
    family, ids = carried.family, tokens_of(carried.out)
    tuned, target, out = (read_weights(folder) for folder in (family.tuned, family.target, carried.out))
    size = len(tokens_of(family.target))
    assert [ids[token] for token in family.added] == [size, size + 1]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert out[name].shape == target[name].shape == (344, 32)
        for token in family.added:
            assert torch.equal(out[name][ids[token]], tuned[name][tokens_of(family.tuned)[token]])
        assert torch.equal(out[name][size + 2 :], target[name][size + 2 :])
        assert torch.equal(out[name][ids["<|fim_prefix|>"]], target[name][ids["<|fim_prefix|>"]])
    tokenizer = AutoTokenizer.from_pretrained(carried.out)
    assert {"<|user|>", "<|assistant|>"} <= set(tokenizer.all_special_tokens)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "fox"}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert ids["<|assistant|>"] in rendered
    assert json.loads((carried.out / "vocab.json").read_text()) == json.loads(
        (family.target / "vocab.json").read_text()
    )


def test_new_tokens_can_be_left_out(families: Callable[[str], Family], run: Cli, tmp_path: Path) -> None:
    family = families("gpt2")
    said = run("transfer", *family.parents, "--out", tmp_path / "out", "--new-tokens", "drop", "--json")
    assert said.status == 0, said.err
    assert tokens_of(tmp_path / "out") == tokens_of(family.target)
    assert read_weights(tmp_path / "out")["transformer.wte.weight"].shape == (321, 32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert "[PAD]" not in tokenizer.get_vocab() and len(tokenizer) == 321
    manifest = read_json(tmp_path / "out" / "tuneport.json")
    assert manifest["tokens"][0]["dropped"] == ["[PAD]"]


@pytest.mark.parametrize("carried", ["gpt2"], indirect=True)
def test_a_matrix_grows_only_when_padded_rows_run_out(carried: Carried) -> None:
    weights = read_weights(carried.out)
    assert weights["transformer.wte.weight"].shape == (322, 32) and weights["transformer.wpe.weight"].shape == (64, 32)
    assert read_json(carried.out / "config.json")["vocab_size"] == 322
    tokenizer = AutoTokenizer.from_pretrained(carried.out)
    assert tokenizer.pad_token == "[PAD]" and tokenizer.pad_token_id == 321
    assert tokenizer(["fox", "the quick fox"], padding=True)["input_ids"][0][-1] == 321
    model = AutoModelForCausalLM.from_pretrained(carried.out)
    assert model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()


@pytest.mark.parametrize("carried", ["gemma", "gemma2", "gemma3", "qwen3"], indirect=True)
def test_a_tied_output_stores_no_head_and_is_no_larger_than_the_target(carried: Carried) -> None:
    """mergekit #390: Gemma 2 saved too large; #424: a head was required of tied models."""
    assert "lm_head.weight" not in read_weights(carried.out)
    sizes = [
        sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        for folder in (carried.out, carried.family.target)
    ]
    assert sizes[0] <= sizes[1] + 4096  # headers of more shards
    model = AutoModelForCausalLM.from_pretrained(carried.out)
    assert model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()


@pytest.mark.parametrize(
    ("carried", "name"),
    [("olmo2", "q_norm"), ("qwen3", "k_norm"), ("olmoe", "q_norm"), ("gemma3", "k_norm"), ("qwen2", "v_proj.bias")],
    indirect=["carried"],
)
def test_norms_and_biases_that_other_families_lack_are_carried_too(carried: Carried, name: str) -> None:
    """mergekit PR #699 lost OLMo 2's norms, PR #569 Qwen 3's v_proj: a list of names had a hole."""
    moved = [tensor for tensor in carried.manifest["tensors"] if name in tensor["name"]]
    assert len(moved) == 2 and all(tensor["fate"] == "transferred" and tensor["norms"]["diff"] > 0 for tensor in moved)


@pytest.mark.parametrize("carried", ["mixtral", "qwen2_moe", "olmoe"], indirect=True)
def test_a_router_in_float32_stays_so_even_when_the_rest_is_cast(carried: Carried, run: Cli, tmp_path: Path) -> None:
    """mergekit #604, #609 and #316: dtypes that nobody asked for."""
    family = carried.family
    said = run("transfer", *family.parents, "--out", tmp_path / "out", "--dtype", "float16")
    assert said.status == 0, said.err
    plain, cast = read_weights(carried.out), read_weights(tmp_path / "out")
    routers = {name for name, tensor in plain.items() if tensor.dtype == torch.float32}
    assert routers and all(torch.equal(plain[name], cast[name]) for name in routers)
    assert {tensor.dtype for name, tensor in cast.items() if name not in routers} == {torch.float16}
    config = read_json(tmp_path / "out" / "config.json")
    assert config.get("dtype", config.get("torch_dtype")) == "float16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.float16


def test_an_end_token_that_is_left_out_is_warned_of(
    families: Callable[[str], Family], run: Cli, tmp_path: Path
) -> None:
    """A tuned model that ends with a token of its own loses it only where that was asked for, and not without a word."""
    import shutil

    family, tuned = families("gpt2"), tmp_path / "tuned"
    shutil.copytree(family.tuned, tuned)
    for file in ("config.json", "generation_config.json"):
        edit_json(tuned / file, {"eos_token_id": 321})
    parents = ["--base", family.base, "--tuned", tuned, "--onto", family.target, "--out", tmp_path / "out"]
    said = run("transfer", *parents, "--new-tokens", "drop", "--strict")
    assert said.status == 1 and not (tmp_path / "out").exists()
    assert said.err.count("[PAD]") == 3 and "ends answers as the target does" in said.err
    chosen = run("transfer", *parents, "--new-tokens", "drop", "--config", "eos_token_id=tuned")
    assert chosen.status == 1 and "never stops" in chosen.err and "--new-tokens append" in chosen.err
    assert run("transfer", *parents).status == 0
    assert read_json(tmp_path / "out" / "config.json")["eos_token_id"] == 321
