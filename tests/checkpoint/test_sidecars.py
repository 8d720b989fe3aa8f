"""The output's sidecars: the target's body, the tuned model's manners, nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoTokenizer,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from tuneport.checkpoint.folder import SidecarFolder, is_sidecar
from tuneport.checkpoint.sidecars import Sidecars, merge_sidecars
from tuneport.checkpoint.token_changes import AddedToken, TokenChanges
from tuneport.checkpoint.tokenizer import Tokenizer, read_tokenizer
from tuneport.errors import CheckpointError

WORDS = ["<unk>", "<s>", "</s>", "a", "b"]
TEMPLATE = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
OTHER_TEMPLATE = "{% for m in messages %}<|im_end|>{{ m.content }}{% endfor %}"


def write(folder: Path, files: Mapping[str, Any]) -> SidecarFolder:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return SidecarFolder(folder.name, f"the-{folder.name}", folder)


def tokenizer_json(words: list[str], special: list[str]) -> str:
    tokenizer = RustTokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", *special])
    return tokenizer.to_str()


def decoder(tokenizer: str) -> dict[str, Any]:
    entries = json.loads(tokenizer)["added_tokens"]
    return {str(entry.pop("id")): entry for entry in entries}


def model(words: list[str] = WORDS, special: list[str] | None = None, **files: Any) -> dict[str, Any]:
    """The sidecars of a model as transformers 4 wrote them."""
    tokenizer = tokenizer_json(words, special or [])
    ids = {word: id for id, word in enumerate(words)}
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    contents: dict[str, Any] = {
        "config.json": {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 64,
            "num_attention_heads": 4,
            "bos_token_id": ids["<s>"],
            "eos_token_id": ids["</s>"],
            "rope_theta": 500000.0,
            "rope_scaling": None,
            "torch_dtype": "bfloat16",
            "vocab_size": 16,
        },
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {
            "added_tokens_decoder": decoder(tokenizer),
            **named,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 1000000000000000019884624838656,
        },
        "special_tokens_map.json": dict(named),
    }
    for name, content in files.items():
        file = name.replace("__", ".")
        if content is None:
            contents.pop(file, None)
        elif isinstance(content, dict) and file in contents:
            contents[file] = {**contents[file], **content}
        else:
            contents[file] = content
    return contents


def merge(
    root: Path,
    base: Mapping[str, Any],
    tuned: Mapping[str, Any],
    target: Mapping[str, Any],
    changes: TokenChanges | None = None,
    tokenizers: bool = False,
    config: Mapping[str, str] | None = None,
    sidecar: Mapping[str, str] | None = None,
    dtype: str | None = None,
    rows: int | None = None,
) -> Sidecars:
    folders = [
        write(root / name, files)
        for name, files in zip(("base", "tuned", "target"), (base, tuned, target), strict=True)
    ]
    read: tuple[Tokenizer, Tokenizer, Tokenizer] | None = None
    if tokenizers:
        read = (read_tokenizer(folders[0]), read_tokenizer(folders[1]), read_tokenizer(folders[2]))
    return merge_sidecars(
        *folders,
        changes=changes or TokenChanges(),
        tokenizers=read,
        config_choices=config or {},
        sidecar_choices=sidecar or {},
        dtype=dtype,
        vocab_rows=rows,
    )


def json_of(sidecars: Sidecars, name: str) -> Any:
    return json.loads(content_of(sidecars, name))


def content_of(sidecars: Sidecars, name: str) -> bytes:
    content = sidecars.files[name]
    return content.read_bytes() if isinstance(content, Path) else content


def put(sidecars: Sidecars, folder: Path) -> Path:
    folder.mkdir()
    for name in sidecars.files:
        (folder / name).write_bytes(content_of(sidecars, name))
    return folder


def decided(sidecars: Sidecars, subject: str) -> str:
    return {one.subject: one.choice for one in sidecars.decisions}[subject]


# --- the whole ---------------------------------------------------------------------------------------------------


def test_three_equal_models_give_the_targets_files_byte_for_byte(tmp_path: Path) -> None:
    files = model(chat_template__jinja=TEMPLATE, generation_config__json={"eos_token_id": 2}, LICENSE="free")
    sidecars = merge(tmp_path, files, files, files)
    assert set(sidecars.files) == set(files)
    assert all(content == tmp_path / "target" / name for name, content in sidecars.files.items())
    assert sidecars == Sidecars(sidecars.files, (), (), (), ())


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
    sidecars = merge(tmp_path, base, tuned, target, changes, tokenizers=True, rows=20)
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
        preprocessor_config__json={},
        model__safetensors="",
        optimizer__pt="",
        README__md="",
        evil__pkl="",
    )
    sidecars = merge(tmp_path, files, files, files)
    assert set(sidecars.files) == {*model(), "LICENSE", "modeling_x.py"}
    assert all(is_sidecar(name) for name in sidecars.files)
    assert decided(sidecars, "preprocessor_config.json") == "left behind"
    assert "never run" in next(one.reason for one in sidecars.decisions if one.subject == "modeling_x.py")


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


# --- what cannot be read, what cannot be meant ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "[]", "tuned the-tuned: config.json holds no JSON object"),
        ("config.json", "{", "not valid JSON"),
        ("config.json", {"rope_scaling": "big"}, "tuned the-tuned: config.json: `rope_scaling`"),
        ("generation_config.json", "null", "holds no JSON object"),
        ("tokenizer_config.json", {"chat_template": 5}, "`chat_template` is 5"),
        ("tokenizer_config.json", {"chat_template": [{"name": "x"}]}, "`chat_template` is"),
        ("tokenizer_config.json", {"additional_special_tokens": "x"}, "a list of tokens is expected"),
        ("special_tokens_map.json", {"additional_special_tokens": [1]}, "a list of tokens is expected"),
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
    config = {"rope_tetha": "tuned", "generation.topp": "tuned", "eos_token_id": "mine", "vocab_size": "base"}
    sidecars = merge(tmp_path, model(), model(), model(), config=config, sidecar={"tokenizer.json": "tuned"})
    assert len(sidecars.refusals) == 5
    text = "\n".join(sidecars.refusals)
    assert "--config rope_tetha: there is no such field here" in text and "rope_theta" in text
    assert "generation.top_p" in text
    assert "--config eos_token_id=mine: a side is base, tuned or target" in text
    assert "--sidecar tokenizer.json: there is no such choice here. Known are chat_template," in text


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
        merge_sidecars(
            *folders,
            changes=TokenChanges(),
            tokenizers=(some, some, some) if named else None,
            config_choices={},
            sidecar_choices={"config.json": "tuned"} if named else {},
            dtype="F32",
            vocab_rows=99,
        )  # fmt: skip  (flags)
    except CheckpointError as error:
        assert "the-" in str(error)


# --- generation -----------------------------------------------------------------------------------------------


def test_a_generation_config_that_only_the_tuned_model_has_comes_along(tmp_path: Path) -> None:
    tuned = model(generation_config__json={"eos_token_id": [2, 3], "top_p": 0.9, "transformers_version": "4.40.0"})
    sidecars = merge(tmp_path, model(), tuned, model())
    output = json_of(sidecars, "generation_config.json")
    assert output["eos_token_id"] == [2, 3] and output["top_p"] == 0.9
    assert decided(sidecars, "generation_config.json") == "tuned"


def test_a_generation_config_that_the_tuned_model_lost_stays_the_targets(tmp_path: Path) -> None:
    with_one = model(generation_config__json={"eos_token_id": [2, 3], "temperature": 0.6, "do_sample": True})
    sidecars = merge(tmp_path, with_one, model(), with_one)
    assert sidecars.files["generation_config.json"] == tmp_path / "target" / "generation_config.json"


def test_an_end_token_that_only_the_tuned_config_names_reaches_the_generation_config(tmp_path: Path) -> None:
    base = model(generation_config__json={"eos_token_id": 2, "top_p": 0.9})
    sidecars = merge(tmp_path, base, model(config__json={"eos_token_id": 3}), base)
    assert json_of(sidecars, "config.json")["eos_token_id"] == 3
    assert json_of(sidecars, "generation_config.json") == {"eos_token_id": 3, "top_p": 0.9}


def test_a_setting_that_tuning_took_away_goes(tmp_path: Path) -> None:
    base = model(generation_config__json={"do_sample": True, "temperature": 0.6, "eos_token_id": 2})
    tuned = model(generation_config__json={"eos_token_id": 2})
    sidecars = merge(tmp_path, base, tuned, base)
    assert json_of(sidecars, "generation_config.json") == {"eos_token_id": 2}


def test_generation_settings_can_be_chosen_one_by_one_or_whole(tmp_path: Path) -> None:
    base = model(generation_config__json={"top_p": 0.9, "eos_token_id": 2})
    tuned = model(generation_config__json={"top_p": 0.5, "eos_token_id": 3})
    sidecars = merge(tmp_path, base, tuned, base, config={"generation.top_p": "target"})
    assert json_of(sidecars, "generation_config.json") == {"top_p": 0.9, "eos_token_id": 3}
    sidecars = merge(tmp_path / "2", base, tuned, base, sidecar={"generation_config.json": "target"})
    assert isinstance(sidecars.files["generation_config.json"], Path)
    sidecars = merge(tmp_path / "3", base, tuned, model(), sidecar={"generation_config.json": "base"})
    assert json_of(sidecars, "generation_config.json") == {"top_p": 0.9, "eos_token_id": 2}


def test_a_lost_end_token_is_refused_wherever_it_is_named(tmp_path: Path) -> None:
    tuned = model(
        [*WORDS, "<|im_end|>"],
        ["<|im_end|>"],
        config__json={"eos_token_id": 5},
        generation_config__json={"eos_token_id": [2, 5]},
        tokenizer_config__json={"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_end|>"]},
    )
    sidecars = merge(tmp_path, model(), tuned, model(), tokenizers=True)
    flags = [
        "--config eos_token_id=target",
        "--config generation.eos_token_id=target",
        "--config tokenizer.eos_token=",
    ]
    assert len(sidecars.refusals) == 3
    assert all(any(flag in refusal for refusal in sidecars.refusals) for flag in flags)
    config = {"eos_token_id": "target", "generation.eos_token_id": "target", "tokenizer.eos_token": "target"}
    sidecars = merge(tmp_path / "2", model(), tuned, model(), tokenizers=True, config=config)
    assert not sidecars.refusals
    assert "im_end" not in "".join(str(content_of(sidecars, name)) for name in sidecars.files)


def test_ids_in_lists_pairs_and_biases_are_carried_by_string(tmp_path: Path) -> None:
    tuned = model(
        generation_config__json={
            "suppress_tokens": [3, -1],
            "bad_words_ids": [[2], [3, 3]],
            "forced_decoder_ids": [[1, 3], [2, None]],
            "sequence_bias": [[[3], -10]],
            "num_assistant_tokens": 3,
        }
    )  # fmt: skip  (a table)
    target = model(["<new>", *WORDS])
    output = json_of(merge(tmp_path, model(), tuned, target, tokenizers=True), "generation_config.json")
    assert output["suppress_tokens"] == [4, -1]
    assert output["bad_words_ids"] == [[3], [4, 4]]
    assert output["forced_decoder_ids"] == [[1, 4], [2, None]]
    assert output["sequence_bias"] == [[[4], -10]]
    assert output["num_assistant_tokens"] == 3


# --- the chat template --------------------------------------------------------------------------------------

IN_CONFIG = {"tokenizer_config__json": {"chat_template": TEMPLATE}}
IN_FILE: dict[str, Any] = {"chat_template__jinja": TEMPLATE}
OTHER_IN_CONFIG = {"tokenizer_config__json": {"chat_template": OTHER_TEMPLATE}}
OTHER_IN_FILE: dict[str, Any] = {"chat_template__jinja": OTHER_TEMPLATE}
OTHER_IN_JSON = {"chat_template__json": {"chat_template": OTHER_TEMPLATE}}


def templates_of(sidecars: Sidecars) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "chat_template.jinja" in sidecars.files:
        found["file"] = content_of(sidecars, "chat_template.jinja").decode()
    for place, name in (("config", "tokenizer_config.json"), ("json", "chat_template.json")):
        if name in sidecars.files and (template := json_of(sidecars, name).get("chat_template")):
            found[place] = template
    return found


@pytest.mark.parametrize(
    ("base", "tuned", "target", "expected"),
    [
        ({}, IN_FILE, {}, {"file": TEMPLATE}),
        ({}, IN_CONFIG, {}, {"config": TEMPLATE}),
        (OTHER_IN_CONFIG, OTHER_IN_FILE, IN_CONFIG, {"config": TEMPLATE}),  # tuned = base: the target's
        (OTHER_IN_CONFIG, IN_FILE, OTHER_IN_CONFIG, {"config": TEMPLATE}),  # where the target has it
        (OTHER_IN_CONFIG, IN_CONFIG, OTHER_IN_FILE, {"file": TEMPLATE}),
        (OTHER_IN_CONFIG, IN_FILE, OTHER_IN_JSON, {"json": TEMPLATE}),
        ({}, IN_FILE, OTHER_IN_CONFIG, {"config": TEMPLATE}),  # all three differ: the tuned model's
        (IN_FILE, IN_FILE, {}, {}),
        ({}, IN_FILE, IN_CONFIG, {"config": TEMPLATE}),
        (IN_FILE, {"chat_template__jinja": TEMPLATE + "\n"}, OTHER_IN_FILE, {"file": OTHER_TEMPLATE}),
        (
            IN_CONFIG,
            IN_CONFIG,
            OTHER_IN_CONFIG | IN_FILE,
            {"file": TEMPLATE},
        ),  # the file silently beats the config
    ],
)
def test_the_template_stands_in_exactly_one_place(
    base: dict[str, Any], tuned: dict[str, Any], target: dict[str, Any], expected: dict[str, str], tmp_path: Path
) -> None:
    sidecars = merge(tmp_path, model(**base), model(**tuned), model(**target))
    assert templates_of(sidecars) == expected
    folder = put(sidecars, tmp_path / "output")
    if "json" not in expected:
        assert AutoTokenizer.from_pretrained(folder).chat_template == next(iter(expected.values()), None)


def test_templates_by_name_stand_in_the_tokenizers_config(tmp_path: Path) -> None:
    named = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": OTHER_TEMPLATE}]
    tuned = model(tokenizer_config__json={"chat_template": named})
    sidecars = merge(tmp_path, model(), tuned, model(**OTHER_IN_FILE))
    assert templates_of(sidecars) == {"config": named}


def test_a_template_that_only_the_base_has_looks_like_swapped_roles(tmp_path: Path) -> None:
    sidecars = merge(tmp_path, model(**IN_FILE), model(), model(**IN_FILE))
    assert "swapped" in sidecars.warnings[0]
    assert templates_of(sidecars) == {"file": TEMPLATE}
    sidecars = merge(tmp_path / "2", model(**IN_FILE), model(), model(**IN_FILE), sidecar={"chat_template": "tuned"})
    assert templates_of(sidecars) == {}


def test_a_template_whose_tokens_the_output_lacks_warns(tmp_path: Path) -> None:
    tuned = model([*WORDS, "<|im_end|>"], ["<|im_end|>"], **OTHER_IN_FILE)
    sidecars = merge(tmp_path, model(), tuned, model(), tokenizers=True)
    assert "'<|im_end|>'" in sidecars.warnings[0] and "--sidecar chat_template=" in sidecars.warnings[0]


def test_a_folder_of_more_templates_is_told_and_left(tmp_path: Path) -> None:
    tuned = {**model(), "additional_chat_templates/tools.jinja": TEMPLATE}
    assert "additional_chat_templates" in merge(tmp_path, model(), tuned, model()).warnings[0]


# --- special tokens and the tokenizer's settings --------------------------------------------------------------


def test_special_tokens_are_written_in_the_targets_form_in_both_files(tmp_path: Path) -> None:
    entry = {"content": "</s>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    target = model(special_tokens_map__json={"eos_token": entry})
    tuned = model(tokenizer_config__json={"eos_token": "b"}, special_tokens_map__json={"eos_token": "b"})
    sidecars = merge(tmp_path, model(), tuned, target)
    assert json_of(sidecars, "tokenizer_config.json")["eos_token"] == "b"
    assert json_of(sidecars, "special_tokens_map.json")["eos_token"] == {**entry, "content": "b"}
    assert decided(sidecars, "tokenizer_config.eos_token") == "tuned"


def test_special_tokens_without_a_role_are_merged_one_by_one(tmp_path: Path) -> None:
    base = model(tokenizer_config__json={"additional_special_tokens": ["a", "b"]})
    tuned = model(tokenizer_config__json={"extra_special_tokens": ["b", "<unk>"]})
    target = model(tokenizer_config__json={"additional_special_tokens": ["a", "b", "<s>"]})
    output = json_of(merge(tmp_path, base, tuned, target), "tokenizer_config.json")
    assert output["additional_special_tokens"] == ["b", "<s>", "<unk>"]
    assert "extra_special_tokens" not in output


def test_special_tokens_have_the_name_that_both_versions_read_unless_the_target_has_the_new(
    tmp_path: Path,
) -> None:
    tuned = model(tokenizer_config__json={"extra_special_tokens": ["b"]})
    output = json_of(merge(tmp_path, model(), tuned, model()), "tokenizer_config.json")
    assert output["additional_special_tokens"] == ["b"] and "extra_special_tokens" not in output
    target = model(tokenizer_config__json={"extra_special_tokens": ["a"]})
    output = json_of(merge(tmp_path / "2", model(), tuned, target), "tokenizer_config.json")
    assert output["extra_special_tokens"] == ["a", "b"] and "additional_special_tokens" not in output


def test_a_special_token_that_the_output_lacks_is_never_written(tmp_path: Path) -> None:
    more = {"additional_special_tokens": ["<x>", "a"], "pad_token": "<x>"}
    tuned = model([*WORDS, "<x>"], ["<x>"], tokenizer_config__json=more, special_tokens_map__json=more)
    sidecars = merge(tmp_path, model(), tuned, model(), tokenizers=True)
    assert json_of(sidecars, "tokenizer_config.json")["additional_special_tokens"] == ["a"]
    assert "<x>" not in str(content_of(sidecars, "tokenizer_config.json"))
    assert "<x>" not in str(content_of(sidecars, "special_tokens_map.json"))
    assert "pad_token" in sidecars.warnings[0]
    assert "dropped" in {one.choice for one in sidecars.decisions}


def test_a_renamed_token_has_its_new_name_in_every_file(tmp_path: Path) -> None:
    words, new = [*WORDS, "<r0>"], [*WORDS, "<|im_end|>"]
    more = {"additional_special_tokens": ["<r0>"], "pad_token": "<r0>"}
    base = model(words, ["<r0>"], tokenizer_config__json=more, special_tokens_map__json=more)
    more = {"additional_special_tokens": ["<|im_end|>"], "pad_token": "<|im_end|>", "eos_token": "<|im_end|>"}
    tuned = model(new, ["<|im_end|>"], config__json={"eos_token_id": 5}, tokenizer_config__json=more)
    changes = TokenChanges(renamed=(("<r0>", "<|im_end|>"),))
    sidecars = merge(tmp_path, base, tuned, base, changes, tokenizers=True)
    assert not sidecars.refusals
    folder = put(sidecars, tmp_path / "output")
    assert not [name for name in sidecars.files if "<r0>" in str(content_of(sidecars, name))]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 5
    assert AutoConfig.from_pretrained(folder).eos_token_id == 5


def test_settings_are_merged_by_field_and_the_class_is_never_copied(tmp_path: Path) -> None:
    tuned = model(
        tokenizer_config__json={
            "tokenizer_class": "Other",
            "padding_side": "left",
            "model_max_length": 2048,
            "name_or_path": "x",
            "backend": "y",
        }
    )  # fmt: skip  (a table)
    output = json_of(merge(tmp_path, model(), tuned, model()), "tokenizer_config.json")
    assert output == {**model()["tokenizer_config.json"], "padding_side": "left", "model_max_length": 2048}


def test_no_limit_of_length_is_spelled_in_more_than_one_way(tmp_path: Path) -> None:
    tuned = model(tokenizer_config__json={"model_max_length": 1e30})
    assert isinstance(merge(tmp_path, model(), tuned, model()).files["tokenizer_config.json"], Path)


def test_a_whole_file_of_the_tuned_model_keeps_the_targets_class_and_tokens(tmp_path: Path) -> None:
    tuned = model(tokenizer_config__json={"tokenizer_class": "Other", "padding_side": "left", "eos_token": "b"})
    target = model(["<new>", *WORDS])
    sidecars = merge(tmp_path, model(), tuned, target, tokenizers=True, sidecar={"tokenizer_config.json": "tuned"})
    output = json_of(sidecars, "tokenizer_config.json")
    assert output["tokenizer_class"] == "PreTrainedTokenizerFast" and output["padding_side"] == "left"
    assert output["added_tokens_decoder"] == target["tokenizer_config.json"]["added_tokens_decoder"]
    assert output["eos_token"] == "b"


def test_a_whole_config_of_another_side_has_the_outputs_ids_and_rows(tmp_path: Path) -> None:
    tuned = model(config__json={"rms_norm_eps": 1e-3, "vocab_size": 99, "_name_or_path": "x"})
    target = model(["<new>", *WORDS])
    sidecars = merge(tmp_path, model(), tuned, target, tokenizers=True, sidecar={"config.json": "tuned"})
    output = json_of(sidecars, "config.json")
    assert (output["rms_norm_eps"], output["vocab_size"], output["eos_token_id"]) == (1e-3, 16, 3)
    assert "_name_or_path" not in output and not sidecars.refusals
    choices: dict[str, Any] = {"config": {"rms_norm_eps": "target"}, "sidecar": {"config.json": "tuned"}}
    sidecars = merge(tmp_path / "2", model(), tuned, target, tokenizers=True, **choices)
    assert "rms_norm_eps" not in json_of(sidecars, "config.json")


def test_a_tokenizer_saved_without_a_class_of_its_own_still_loads(tmp_path: Path) -> None:
    files = model()
    sidecars = merge(tmp_path, files, files, files)
    assert isinstance(AutoTokenizer.from_pretrained(put(sidecars, tmp_path / "output")), PreTrainedTokenizerFast)
