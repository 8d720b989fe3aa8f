"""Special tokens and the tokenizer's settings: merged one by one, in the target's form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.merged_sidecars import WORDS, content_of, decided, json_of, merge, model, put
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from tuneport.tokenizer.token_changes import TokenChanges


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


def test_settings_of_another_tokenizer_class_stay_behind_unless_somebody_chose_them(tmp_path: Path) -> None:
    of_llama = {"tokenizer_class": "LlamaTokenizerFast", "legacy": False, "padding_side": "left"}
    parents = model(), model(tokenizer_config__json=of_llama), model()
    sidecars = merge(tmp_path, *parents)
    output = json_of(sidecars, "tokenizer_config.json")
    assert "legacy" not in output and output["padding_side"] == "left"
    assert decided(sidecars, "tokenizer_config.legacy") == "target"
    chosen = merge(tmp_path / "2", *parents, config={"tokenizer.legacy": "tuned"})
    assert json_of(chosen, "tokenizer_config.json")["legacy"] is False
    slow = model(tokenizer_config__json={"tokenizer_class": "LlamaTokenizer", "legacy": True})
    same_class = merge(tmp_path / "3", slow, model(tokenizer_config__json=of_llama), slow)
    assert json_of(same_class, "tokenizer_config.json")["legacy"] is False


def test_an_explicit_null_is_said_and_silence_is_not(tmp_path: Path) -> None:
    padded = model(tokenizer_config__json={"pad_token": "a"}, special_tokens_map__json={"pad_token": "a"})
    taken = model(tokenizer_config__json={"pad_token": None})
    sidecars = merge(tmp_path, padded, taken, padded)
    assert json_of(sidecars, "tokenizer_config.json")["pad_token"] is None
    assert "pad_token" not in json_of(sidecars, "special_tokens_map.json")
    assert decided(sidecars, "tokenizer_config.pad_token") == "tuned" and not sidecars.warnings
    assert isinstance(merge(tmp_path / "2", padded, model(), padded).files["tokenizer_config.json"], Path)
    nothing = merge(tmp_path / "3", model(), taken, model())
    assert isinstance(nothing.files["tokenizer_config.json"], Path)
    endless = model(tokenizer_config__json={"eos_token": None}, special_tokens_map__json=None)
    sidecars = merge(tmp_path / "4", model(), endless, model())
    assert "never stops" in sidecars.warnings[0]
    assert json_of(sidecars, "tokenizer_config.json")["eos_token"] is None


def test_roles_of_a_models_own_are_one_in_the_spellings_of_both_versions(tmp_path: Path) -> None:
    top = model(tokenizer_config__json={"image_token": "a"})
    old = model(tokenizer_config__json={"extra_special_tokens": {"image_token": "a"}})
    new = model(tokenizer_config__json={"model_specific_special_tokens": {"image_token": "a"}})
    for place, (base, tuned) in enumerate(((top, new), (old, new), (old, top))):
        sidecars = merge(tmp_path / str(place), base, tuned, base)
        assert isinstance(sidecars.files["tokenizer_config.json"], Path), sidecars.decisions
    changed = model(tokenizer_config__json={"model_specific_special_tokens": {"image_token": "b"}})
    output = json_of(merge(tmp_path / "changed", old, changed, old), "tokenizer_config.json")
    assert output["extra_special_tokens"] == {"image_token": "b"} and "model_specific_special_tokens" not in output


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
