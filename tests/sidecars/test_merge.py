"""The output's sidecars: the target's body, the tuned model's behaviour, nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.merged_sidecars import (
    OTHER_TEMPLATE,
    TEMPLATE,
    WORDS,
    content_of,
    decided,
    json_of,
    merge,
    model,
    put,
    write,
)
from transformers import (
    AutoConfig,
    AutoTokenizer,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    Qwen2Config,
)

from tuneport.checkpoint.small_files import is_sidecar
from tuneport.errors import FLAGS, CheckpointError
from tuneport.sidecars.merge import Sidecars, merge_sidecars
from tuneport.sidecars.three_way import Three
from tuneport.sidecars.token_ids import TokenNames
from tuneport.tokenizer.token_changes import AddedToken, TokenChanges
from tuneport.tokenizer.tokenizer import Tokenizer


def test_three_equal_models_give_the_targets_files_byte_for_byte(tmp_path: Path) -> None:
    files = model(chat_template__jinja=TEMPLATE, generation_config__json={"eos_token_id": 2}, LICENSE="free")
    sidecars = merge(tmp_path, files, files, files)
    assert set(sidecars.files) == set(files)
    assert all(content == tmp_path / "target" / name for name, content in sidecars.files.items())
    assert sidecars == Sidecars(files=sidecars.files)


def test_the_outputs_files_load_in_transformers(tmp_path: Path) -> None:
    base = model(["<unk>", "<s>", "</s>", "a"])
    tuned = model(
        ["<unk>", "<s>", "</s>", "a", "<|im_end|>"],
        ["<|im_end|>"],
        config__json={"eos_token_id": 4},
        generation_config__json={"eos_token_id": [2, 4], "do_sample": True, "temperature": 0.6},
        tokenizer_config__json={"eos_token": "<|im_end|>", "chat_template": OTHER_TEMPLATE},
        special_tokens_map__json={"eos_token": "<|im_end|>"},
    )
    target = model(["<new>", "<unk>", "<s>", "</s>", "b", "a"])
    entry = {"content": "<|im_end|>", "special": True, "normalized": False}
    changes = TokenChanges(added=(AddedToken("<|im_end|>", 6, entry),))
    sidecars = merge(tmp_path, base, tuned, target, changes, tokenizers=True, rows={16: 20})
    assert not sidecars.refusals and not sidecars.warnings
    folder = put(sidecars, tmp_path / "output")
    config = AutoConfig.from_pretrained(folder)
    assert (config.eos_token_id, config.bos_token_id, config.vocab_size) == (6, 2, 20)
    assert config.rope_parameters["rope_theta"] == 500000.0
    generation = GenerationConfig.from_pretrained(folder)
    assert generation.eos_token_id == [3, 6] and generation.temperature == 0.6
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 6)
    assert tokenizer.encode("a b <|im_end|>", add_special_tokens=False) == [5, 4, 6]
    assert tokenizer.chat_template == OTHER_TEMPLATE
    assert not (folder / "chat_template.jinja").exists()


@pytest.mark.parametrize("config_class", [LlamaConfig, Qwen2Config, Gemma3TextConfig])
def test_a_model_saved_anew_by_transformers_changes_nothing_of_the_target(config_class: Any, tmp_path: Path) -> None:
    config = config_class(hidden_size=64, num_attention_heads=4, num_hidden_layers=2, vocab_size=16)
    old = {name: value for name, value in config.to_diff_dict().items() if name not in ("head_dim", "layer_types")}
    rope = old.pop("rope_parameters")
    rope = rope.get("full_attention", rope)
    old |= {"rope_theta": rope["rope_theta"], "rope_scaling": None, "torch_dtype": "bfloat16"}
    pad = {"pad_token": "<unk>"}  # transformers 5 writes a Qwen tokenizer's default where the file has none
    base = model(tokenizer_config__json=pad, special_tokens_map__json=pad) | {"config.json": old}
    folder = write(tmp_path / "old", base)
    AutoConfig.from_pretrained(folder.path).save_pretrained(tmp_path / "new")
    AutoTokenizer.from_pretrained(folder.path).save_pretrained(tmp_path / "new")
    tuned = {entry.name: entry.read_text() for entry in (tmp_path / "new").iterdir()}
    assert "rope_parameters" in tuned["config.json"] and "special_tokens_map.json" not in tuned
    sidecars = merge(tmp_path, base, tuned, base)
    assert not sidecars.refusals
    assert all(isinstance(content, Path) for content in sidecars.files.values()), sidecars.decisions


def test_llama_3_0s_tuning_meets_llama_3_1s_rope_scaling_as_transformers_reads_it(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 16}
    scaling: dict[str, Any] = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    scaling |= {"rope_theta": 5e5, "original_max_position_embeddings": 8192}
    first = LlamaConfig(**sizes, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    second = LlamaConfig(**sizes, rope_parameters=scaling, max_position_embeddings=131072)
    first.save_pretrained(tmp_path / "first")
    second.save_pretrained(tmp_path / "second")
    old = model()
    new = old | {"config.json": json.loads((tmp_path / "second" / "config.json").read_text())}
    old |= {"config.json": json.loads((tmp_path / "first" / "config.json").read_text())}
    tuned = old | {"config.json": old["config.json"] | {"eos_token_id": 3}, "chat_template.jinja": TEMPLATE}
    sidecars = merge(tmp_path, old, tuned, new)
    assert not sidecars.refusals
    config = AutoConfig.from_pretrained(put(sidecars, tmp_path / "output"))
    assert config.rope_parameters == scaling and config.max_position_embeddings == 131072
    assert config.eos_token_id == 3
    assert {one.field for one in sidecars.differences} >= {"rope_parameters", "eos_token_id", "chat_template"}
    back = merge(tmp_path / "backport", new, new, old)
    assert back.files["config.json"] == tmp_path / "backport" / "target" / "config.json"


def test_only_files_of_the_list_travel_and_what_stays_is_told(tmp_path: Path) -> None:
    files = model(
        LICENSE="free",
        modeling_x__py="1/0",
        something__json={},
        model__safetensors="",
        optimizer__pt="",
        README__md="",
        evil__pkl="",
    )
    sidecars = merge(tmp_path, files, files, files)
    assert set(sidecars.files) == {*model(), "LICENSE", "modeling_x.py"}
    assert all(is_sidecar(name) for name in sidecars.files)
    assert decided(sidecars, "something.json") == "left behind"
    assert "never run" in next(one.reason for one in sidecars.decisions if one.subject == "modeling_x.py")


def test_folders_that_stay_are_told_and_a_processors_own_tokenizer_is_a_warning(tmp_path: Path) -> None:
    for role in ("base", "tuned", "target"):
        for name in ("images", "qformer_tokenizer", ".cache"):
            (tmp_path / role / name).mkdir(parents=True)
        (tmp_path / role / "qformer_tokenizer" / "tokenizer_config.json").write_text("{}")
    sidecars = merge(tmp_path, model(), model(), model())
    assert decided(sidecars, "images/") == "left behind"
    (warning,) = sidecars.warnings
    assert "qformer_tokenizer/" in warning and "Copy the folder" in warning
    assert set(sidecars.files) == {*model()}
    assert not [one for one in sidecars.decisions if "cache" in one.subject]


def test_both_licences_are_kept_where_they_differ(tmp_path: Path) -> None:
    sidecars = merge(tmp_path, model(LICENSE="old"), model(LICENSE="old"), model(LICENSE="new"))
    assert content_of(sidecars, "LICENSE") == b"new"
    assert content_of(sidecars, "LICENSE.tuned") == b"old"
    sidecars = merge(tmp_path / "2", model(), model(LICENSE="x"), model(LICENSE="new"), sidecar={"LICENSE": "tuned"})
    assert content_of(sidecars, "LICENSE") == b"x" and "LICENSE.tuned" not in sidecars.files


def test_folders_without_tokenizer_get_none(tmp_path: Path) -> None:
    bare = {"config.json": model()["config.json"]}
    assert set(merge(tmp_path, bare, bare, bare).files) == {"config.json"}
    assert set(merge(tmp_path / "2", bare, model(chat_template__jinja=TEMPLATE), bare).files) == {"config.json"}


def test_folders_without_any_config_are_merged_with_a_warning(tmp_path: Path) -> None:
    sidecars = merge(tmp_path, {}, {}, {})
    assert not sidecars.files and "config.json" in sidecars.warnings[0]


def test_a_dtype_is_given_by_its_name_in_safetensors(tmp_path: Path) -> None:
    sidecars = merge(tmp_path, model(), model(), model(), dtype="F16")
    assert json_of(sidecars, "config.json")["torch_dtype"] == "float16"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "[]", "tuned the-tuned: config.json must be a JSON object"),
        ("config.json", "{", "not valid JSON"),
        ("config.json", {"rope_scaling": "big"}, "tuned the-tuned: config.json: `rope_scaling`"),
        ("generation_config.json", "null", "must be a JSON object"),
        ("tokenizer_config.json", {"chat_template": 5}, "`chat_template` is 5"),
        ("tokenizer_config.json", {"chat_template": [{"name": "x"}]}, "`chat_template` is"),
        ("tokenizer_config.json", {"additional_special_tokens": "x"}, "must be a list of tokens"),
        ("special_tokens_map.json", {"additional_special_tokens": [1]}, "must be a list of tokens"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name: str, content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the-tuned") as error:
        merge(tmp_path, model(), {**model(), name: content}, model())
    assert message in str(error.value)


def test_every_unreadable_file_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        merge(tmp_path, {**model(), "config.json": "["}, model(config__json=None), {**model(), "config.json": "3"})
    assert all(f"{side} the-{side}: " in str(error.value) for side in ("base", "tuned", "target"))
    assert "there is no config.json" in str(error.value)


def test_choices_that_cannot_be_meant_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    config = {"rope_tetha": "tuned", "generation.topp": "tuned", "vocab_size": "base"}
    sidecars = merge(tmp_path, model(), model(), model(), config=config, sidecar={"vocab.json": "tuned"})
    assert len(sidecars.refusals) == 4
    text = "\n".join(sidecars.refusals)
    assert "--config rope_tetha: is not a field of these models" in FLAGS.message(text) and "rope_theta" in text
    assert "generation.top_p" in text
    assert "--sidecar vocab.json: is not a file that can be chosen. Known choices: chat_template," in FLAGS.message(
        text
    )


ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 70000) | st.floats() | st.text(max_size=3),
    lambda children: st.lists(children, max_size=2) | st.dictionaries(st.text(max_size=3), children, max_size=2),
    max_leaves=5,
)
ODD_FILES = st.fixed_dictionaries(
    {},
    optional={
        "config.json": st.dictionaries(
            st.sampled_from(
                [
                    "eos_token_id",
                    "suppress_tokens",
                    "text_config",
                    "rope_parameters",
                    "layer_types",
                    "architectures",
                    "model_type",
                    "vocab_size",
                    "torch_dtype",
                    "quantization_config",
                ]
            ),
            ODD,
        ),
        "generation_config.json": st.dictionaries(
            st.sampled_from(["eos_token_id", "bad_words_ids", "sequence_bias", "forced_decoder_ids", "top_p"]), ODD
        ),
        "tokenizer_config.json": st.dictionaries(
            st.sampled_from(
                [
                    "eos_token",
                    "add_bos_token",
                    "extra_special_tokens",
                    "additional_special_tokens",
                    "chat_template",
                    "model_max_length",
                    "added_tokens_decoder",
                ]
            ),
            ODD,
        ),
        "special_tokens_map.json": st.dictionaries(st.sampled_from(["eos_token", "additional_special_tokens"]), ODD),
    },
)  # fmt: skip  (a table)


@given(ODD_FILES, ODD_FILES, ODD_FILES, st.booleans())
@settings(max_examples=120, deadline=None)
def test_malformed_files_merge_or_end_in_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory,
    base: dict[str, Any],
    tuned: dict[str, Any],
    target: dict[str, Any],
    named: bool,
) -> None:
    root = tmp_path_factory.mktemp("odd")
    folders = [
        write(root / name, {**model(), **files})
        for name, files in (("base", base), ("tuned", tuned), ("target", target))
    ]  # fmt: skip  (a pair a line)
    some = Tokenizer({word: id for id, word in enumerate(WORDS)}, {})
    try:
        names = TokenNames((some, some, some) if named else None, TokenChanges())
        merge_sidecars(Three(*folders), names, {}, {"config.json": "tuned"} if named else {}, "F32", {16: 99})
    except CheckpointError as error:
        assert "the-" in str(error)
