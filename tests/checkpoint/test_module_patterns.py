"""Patterns match modules as peft matches them, and none of them can hold the run up."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from tuneport.checkpoint.module_patterns import first_matches
from tuneport.errors import CheckpointError

MODULES = [
    f"model.layers.{layer}.{part}"
    for layer in (0, 1, 2, 10, 11)
    for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj", "mlp.xdown_proj")
] + ["lm_head", "model.embed_tokens"]  # fmt: skip

piece = st.sampled_from(
    ["q_proj", "k_proj", "down_proj", "self_attn", "layers", "1", "0", "10", ".", r"\.", ".*", "(0|1)", "(q|k)", "[0-9]",
     r"\d", r"\d+", "^", "$", "|", "model", "_proj", "?", "(?:mlp)", "[qk]"]
)  # fmt: skip


@given(st.lists(st.lists(piece, min_size=1, max_size=6).map("".join), min_size=1, max_size=4, unique=True))
def test_what_is_matched_at_all_is_matched_as_peft_does(patterns: list[str]) -> None:
    try:
        found = first_matches(patterns, MODULES, "adapter")
    except CheckpointError:
        return  # refused in words: no regular expression, or not one whose worst case is known
    for module in MODULES:
        key = get_pattern_key(patterns, module)
        assert found.get(module, module) == key or (key == module and module not in found)


@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj",
        "model.layers.1.self_attn.q_proj",
        r".*\.layers\.(0|1)\.self_attn\.(q|k)_proj",
        r"layers\.\d+\.mlp\.down_proj",
        "down_proj|k_proj",
        "^lm_head$",
        rf"layers\.({'|'.join(map(str, range(126)))})\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)",
    ],
)
def test_patterns_that_people_write_are_matched(pattern: str) -> None:
    found = first_matches([pattern], MODULES, "adapter")
    assert found, pattern
    assert set(found) == {module for module in MODULES if re.match(rf"(.*\.)?({pattern})$", module)}


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*b",
        "(.*)*x",
        "(?=a)b",
        r"(q)\1",
        "(?i)q",
        "a{1,99999}",
        "|".join(["a"] * 40) + "(a|a)" * 60,
        ".*" * 12 + "x",
        "x?" * 50,
        "(",
        "[",
        "*a",
        "\\",
        "a)(b",
        r"\." * 2**20,
    ],
)
@pytest.mark.timeout(60)  # one that ran would take years
def test_a_pattern_that_could_run_for_ever_or_is_none_is_refused_at_once(pattern: str) -> None:
    with pytest.raises(CheckpointError, match="pattern"):
        first_matches([pattern], ["model." + "a" * 60 + f".{number}.q_proj" for number in range(300)], "adapter")


@pytest.mark.timeout(60)
def test_many_plain_names_are_matched_quickly() -> None:
    modules = [f"model.layers.{layer}.self_attn.{part}_proj" for layer in range(126) for part in "qkvo"]
    assert first_matches(list(reversed(modules)), modules, "adapter") == {module: module for module in modules}


@given(
    st.lists(st.text("ab.-", min_size=1, max_size=5), min_size=1, max_size=8),
    st.lists(st.text("ab.", min_size=1, max_size=7), max_size=8),
)
def test_names_in_which_a_dot_stands_for_any_character_are_matched_as_peft_does(
    patterns: list[str], modules: list[str]
) -> None:
    found = first_matches(patterns, modules, "adapter")
    for module in modules:
        expected = [pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", module)]
        assert found.get(module) == (expected[0] if expected else None)


@pytest.mark.timeout(60)  # each with each would be ten thousand million looks
def test_a_name_for_each_of_a_hundred_thousand_modules_is_found() -> None:
    modules = [f"model.layers.{n // 1000}.mlp.experts.{n % 1000}.up_proj" for n in range(100_000)]
    assert first_matches(list(reversed(modules)), modules, "adapter") == {module: module for module in modules}
