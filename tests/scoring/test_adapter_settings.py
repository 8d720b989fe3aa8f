"""What an adapter's file asks of peft is looked at first: expressions are tried with limits, sizes and modules refused."""

from __future__ import annotations

from typing import Any

import pytest

from tuneport.errors import CheckpointError
from tuneport.files import expressions
from tuneport.scoring.adapter_settings import check_expressions, check_settings

MODULES = [f"model.layers.{n}.self_attn.{part}_proj" for n in range(30) for part in "qkvo"] + ["model.embed_tokens"]
# What unsloth writes for models with a vision tower (shortened).
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:k_proj|v_proj|q_proj|o_proj).*?)"
    r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:k_proj|v_proj|q_proj|o_proj)))"
)
ENDLESS = "([a-z_.0-9]+)+!"


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": UNSLOTH, "rank_pattern": {r"layers\.\d+\.self_attn.q_proj": 4}},
        {"target_modules": r".*\.(q|v)_proj", "exclude_modules": r".*vision.*", "layers_pattern": "layers"},
        {"target_modules": None, "base_model_name_or_path": "([a-z]+)+!"},
        {},
    ],
)
def test_what_people_write_is_matched(settings: dict[str, Any]) -> None:
    check_expressions(settings, MODULES, "tuned")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ENDLESS},
        {"exclude_modules": ENDLESS},
        {"modules_to_save": [ENDLESS]},
        {"rank_pattern": {ENDLESS: 4}},
        {"alpha_pattern": {ENDLESS: 4}},
        {"layers_pattern": [ENDLESS]},
        {"feedforward_modules": ENDLESS},
        {"a_field_of_tomorrow": {"a": [{"b": ENDLESS}]}},
    ],
)
def test_an_expression_without_an_end_is_refused_in_whatever_field(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expressions, "SECONDS", 0.3)
    field = next(iter(settings))
    words = rf"model tuned: adapter_config.json: matching its expressions \(`{field}`\) with 121 names takes more than 0.3 seconds"
    with pytest.raises(CheckpointError, match=words):
        check_expressions(settings, MODULES, "tuned")


def test_what_is_no_expression_or_too_many_ends_in_words() -> None:
    with pytest.raises(CheckpointError, match=r"`target_modules`: '\(' is not a valid regular expression: "):
        check_expressions({"target_modules": "("}, MODULES, "tuned")
    with pytest.raises(CheckpointError, match=r"`target_modules` has 1,000,000 entries and the model 121 names"):
        check_expressions({"target_modules": [f"a{n}" for n in range(1_000_000)]}, MODULES, "tuned")
    with pytest.raises(
        CheckpointError, match=r"there are 100,000 expressions \(`rank_pattern`\) to match with 121 names"
    ):
        check_expressions({"rank_pattern": {f"a{n}*": 4 for n in range(100_000)}}, MODULES, "tuned")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"r": 2**30}, "the rank 1073741824 does not match a matrix in its file, whose largest dimension is 64"),
        ({"r": 8, "rank_pattern": {"q_proj": 65}}, "the rank 65 does not match a matrix"),
        ({"r": "8"}, "the rank 8 does not match"),
        ({"r": 8, "megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "import a module named in the file"),
        ({"r": 8, "layer_replication": [[0, 10**9]]}, "`layer_replication` creates 1,000,000,000 layers"),
        ({"r": 8, "layer_replication": [3]}, "`layer_replication` is not a list of pairs"),
    ],
)
def test_what_no_adapter_needs_is_refused_before_peft_makes_it(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        check_settings(settings, 64, "tuned")
    check_settings({"r": 8, "rank_pattern": {"q_proj": 64}, "layer_replication": [[0, 4], [2, 6]]}, 64, "tuned")
