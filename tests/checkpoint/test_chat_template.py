"""The chat template: the tuned model's, in exactly one place, the target's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tuneport.checkpoint.sidecars import Sidecars

from .merging import OTHER_TEMPLATE, TEMPLATE, WORDS, content_of, json_of, merge, model, put

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
