"""Generation settings: what tuning changed comes along, and no end token is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.merged_sidecars import WORDS, content_of, decided, json_of, merge, model

from tuneport.errors import FLAGS


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
    assert all(any(flag in FLAGS.message(refusal) for refusal in sidecars.refusals) for flag in flags)
    config = {"eos_token_id": "target", "generation.eos_token_id": "target", "tokenizer.eos_token": "target"}
    sidecars = merge(tmp_path / "2", model(), tuned, model(), tokenizers=True, config=config)
    assert not sidecars.refusals
    assert "im_end" not in "".join(str(content_of(sidecars, name)) for name in sidecars.files)


@pytest.mark.parametrize(
    ("before", "without_row", "kept_by"),
    [(WORDS, (), "append"), ([*WORDS, "<|im_end|>"], (), "all"), (WORDS, ("<|im_end|>",), None)],
    ids=["only the tuned model has it", "the base has it too", "it has no row"],
)
def test_a_lost_end_token_is_refused_with_the_choice_that_would_keep_it(
    tmp_path: Path, before: list[str], without_row: tuple[str, ...], kept_by: str | None
) -> None:
    tuned = model([*WORDS, "<|im_end|>"], ["<|im_end|>"], config__json={"eos_token_id": 5})
    told = {"eos_token": "<|im_end|>"}
    tuned["tokenizer_config.json"] = {**tuned["tokenizer_config.json"], **told}
    sidecars = merge(tmp_path, model(before), tuned, model(), tokenizers=True, without_row=without_row)
    assert len(sidecars.refusals) == 2
    for refusal in map(FLAGS.message, sidecars.refusals):
        assert ("--new-tokens" in refusal) == (kept_by is not None)
        assert kept_by is None or f"--new-tokens {kept_by}" in refusal


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


ENDS = {"eos_token_id": 2, "top_p": 0.9}


@pytest.mark.parametrize("settings", [{"top_p": 0.9}, {"eos_token_id": None, "top_p": 0.9}])
def test_a_tuned_generation_config_without_an_end_token_warns_with_the_flag_that_keeps_it(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    base, tuned = model(generation_config__json=ENDS), model(generation_config__json=settings)
    sidecars = merge(tmp_path, base, tuned, base)
    (warning,) = sidecars.warnings
    assert "never stops" in warning and "--config generation.eos_token_id=target" in FLAGS.message(warning)
    assert json_of(sidecars, "generation_config.json").get("eos_token_id") is None
    kept = merge(tmp_path / "2", base, tuned, base, config={"generation.eos_token_id": "target"})
    assert json_of(kept, "generation_config.json") == ENDS and not kept.warnings and not kept.refusals


def test_an_end_token_that_a_tuned_config_sets_to_null_is_said_where_no_generation_config_stands(
    tmp_path: Path,
) -> None:
    tuned = model(config__json={"eos_token_id": None})
    sidecars = merge(tmp_path, model(), tuned, model())
    assert "--config eos_token_id=target" in FLAGS.message(sidecars.warnings[0]) and len(sidecars.warnings) == 1
    kept = merge(tmp_path / "2", model(), tuned, model(), config={"eos_token_id": "target"})
    assert json_of(kept, "config.json")["eos_token_id"] == 2 and not kept.warnings


def test_an_explicit_null_is_said_with_what_it_takes_away(tmp_path: Path) -> None:
    base = model(config__json={"pad_token_id": 0}, generation_config__json={**ENDS, "temperature": 0.6})
    tuned = model(config__json={"pad_token_id": None}, generation_config__json={**ENDS, "temperature": None})
    sidecars = merge(tmp_path, base, tuned, base)
    assert ["`pad_token_id`" in warning for warning in sidecars.warnings] == [True, False]
    assert ["`temperature`" in warning for warning in sidecars.warnings] == [False, True]
    assert "the target has 0.6" in sidecars.warnings[1]
    sides = {"pad_token_id": "target", "generation.temperature": "target"}
    assert not merge(tmp_path / "2", base, tuned, base, config=sides).warnings


def test_switches_of_training_do_not_travel_in_a_generation_config_either(tmp_path: Path) -> None:
    base = model(generation_config__json=ENDS)
    sidecars = merge(tmp_path, base, model(generation_config__json={**ENDS, "use_cache": False}), base)
    assert json_of(sidecars, "generation_config.json") == ENDS and not sidecars.warnings


def test_a_choice_in_config_json_that_generation_config_json_decides_is_an_error(tmp_path: Path) -> None:
    base = model(generation_config__json={"eos_token_id": 2})
    tuned = model(config__json={"eos_token_id": 3}, generation_config__json={"eos_token_id": 3})
    refused = merge(tmp_path, base, tuned, base, config={"eos_token_id": "target"})
    assert "--config eos_token_id=target has no effect" in FLAGS.message(refused.refusals[0])
    assert "--config generation.eos_token_id=target" in FLAGS.message(refused.refusals[0])
    both = {"eos_token_id": "target", "generation.eos_token_id": "target"}
    sidecars = merge(tmp_path / "2", base, tuned, base, config=both)
    assert json_of(sidecars, "generation_config.json") == {"eos_token_id": 2} and not sidecars.refusals
    agreed = merge(tmp_path / "3", base, tuned, base, config={"eos_token_id": "tuned"})
    assert not agreed.refusals and json_of(agreed, "config.json")["eos_token_id"] == 3
    only = model(config__json={"eos_token_id": 3})
    alone = merge(tmp_path / "4", model(), only, model(), config={"eos_token_id": "target"})
    assert not alone.refusals  # without a generation config, config.json decides


def test_other_choices_without_effect_are_errors(tmp_path: Path) -> None:
    plain = model()
    file = merge(tmp_path, plain, plain, plain, sidecar={"generation_config.json": "target"})
    assert "none of the three models has a generation_config.json" in file.refusals[0]
    dtype = merge(tmp_path / "2", plain, plain, plain, config={"torch_dtype": "tuned"}, dtype="F32")
    assert "--dtype sets this field" in FLAGS.message(dtype.refusals[0])
