"""The chat template: the tuned model's, in exactly one place, the target's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.merged_sidecars import OTHER_TEMPLATE, TEMPLATE, WORDS, content_of, json_of, merge, model, put
from transformers import AutoTokenizer

from tuneport.errors import FLAGS
from tuneport.sidecars.chat_behaviour import behaviour_in_words
from tuneport.sidecars.merge import Sidecars

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
    assert "'<|im_end|>'" in sidecars.warnings[0] and "--sidecar chat_template=" in FLAGS.message(sidecars.warnings[0])


def test_a_template_that_both_versions_changed_is_the_tuned_models_with_a_warning(tmp_path: Path) -> None:
    third = {"chat_template__jinja": "{{ messages }}"}
    sidecars = merge(tmp_path, model(**IN_FILE), model(**OTHER_IN_FILE), model(**third))
    assert templates_of(sidecars) == {"file": OTHER_TEMPLATE}
    assert "--sidecar chat_template=tuned" in FLAGS.message(sidecars.warnings[0]) and len(sidecars.warnings) == 1
    for side, template in (("tuned", OTHER_TEMPLATE), ("target", "{{ messages }}")):
        choice = {"chat_template": side}
        sidecars = merge(tmp_path / side, model(**IN_FILE), model(**OTHER_IN_FILE), model(**third), sidecar=choice)
        assert templates_of(sidecars) == {"file": template} and not sidecars.warnings
    assert not merge(tmp_path / "2", model(**IN_FILE), model(**OTHER_IN_FILE), model(**IN_FILE)).warnings


def test_words_of_a_template_that_become_control_tokens_are_told(tmp_path: Path) -> None:
    words = {"chat_template__jinja": "{% for m in messages %}[INST] {{ m.content }}</s>{% endfor %}"}
    target = model([*WORDS, "[INST]"], ["[INST]"])
    sidecars = merge(tmp_path, model(), model(**words), target, tokenizers=True)
    assert "'[INST]'" in sidecars.warnings[0] and "'</s>'" not in sidecars.warnings[0]
    target |= words
    sidecars = merge(tmp_path / "2", model(), model(), target, tokenizers=True)
    assert not sidecars.warnings  # the target's template was written for the target's tokens
    own = model([*WORDS, "[INST]"], ["[INST]"], **words)
    assert not merge(tmp_path / "3", own, own, own, tokenizers=True).warnings


def test_whose_template_and_which_end_token_the_output_has_is_recorded(tmp_path: Path) -> None:
    generation = {"generation_config__json": {"eos_token_id": [2, 4]}}
    sidecars = merge(tmp_path, model(), model(**IN_FILE, **generation), model(**IN_FILE))
    ends = [{"id": 2, "token": "</s>"}, {"id": 4, "token": None}]
    assert sidecars.noted["behaviour"] == {
        "template": ["target", "tuned"],
        "end_tokens": ends,
        "tokenizer_end_token": "</s>",
    }
    assert (
        behaviour_in_words(sidecars.noted["behaviour"])
        == "chat template of the target and the tuned model; end token </s>, id 4"
    )
    sidecars = merge(tmp_path / "2", model(), model(**generation), model(["x", *WORDS]), tokenizers=True)
    words = "no chat template; end token </s>, b"
    assert behaviour_in_words(sidecars.noted["behaviour"]) == words
    other = model(tokenizer_config__json={"eos_token": "b"}, special_tokens_map__json=None)
    assert "(the tokenizer's is b)" in behaviour_in_words(merge(tmp_path / "3", other, other, other).noted["behaviour"])


def test_an_end_token_that_both_versions_changed_is_the_tuned_models_with_one_warning(tmp_path: Path) -> None:
    def ending(id: int) -> dict[str, Any]:
        return model(
            config__json={"eos_token_id": id},
            generation_config__json={"eos_token_id": id},
            tokenizer_config__json={"eos_token": WORDS[id]},
            special_tokens_map__json={"eos_token": WORDS[id]},
        )

    sidecars = merge(tmp_path, ending(2), ending(3), ending(4))
    assert json_of(sidecars, "generation_config.json")["eos_token_id"] == 3
    assert len(sidecars.warnings) == 1 and "end token" in sidecars.warnings[0]
    for side in ("tuned", "target"):
        flags = [f"{word.split('=')[0]}={side}" for word in sidecars.warnings[0].split() if word.endswith("=tuned")]
        assert len(flags) == 3
        config = dict(flag.split("=") for flag in flags)
        assert not merge(tmp_path / side, ending(2), ending(3), ending(4), config=config).warnings


def test_a_folder_of_more_templates_is_told_and_left(tmp_path: Path) -> None:
    tuned = {**model(), "additional_chat_templates/tools.jinja": TEMPLATE}
    assert "additional_chat_templates" in merge(tmp_path, model(), tuned, model()).warnings[0]
