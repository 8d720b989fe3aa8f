"""Whatever a study's file holds, it is a study or an error in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.declared_studies import PLACE, versions

from tuneport.errors import StudyError
from tuneport.studies.file.study_file import study_of

KEYS = st.sampled_from(
    [
        "study",
        "version",
        "tune",
        "evaluate",
        "paths",
        "do",
        "expected",
        "resources",
        "cost",
        "transfer",
        "adapt",
        "prompts",
        "rungs",
        "heal",
        "pairs",
        "name",
        "model",
        "seeds",
        "families",
        "lab",
        "keep",
        "notes",
        "tuned",
        "recipe",
        "data",
        "steps",
        "from",
        "mix",
        "lora",
        "reward",
        "tasks",
        "suite",
        "validation",
        "loss",
        "text",
        "points",
        "recycle",
        "scales",
        "carry",
        "table",
        "columns",
        "rows",
        "kind",
        "tuning",
        "cpus",
        "flops",
        "sft",
        "target-only",
        "transfer-then-tune",
        "eval-every",
        "chat-template",
    ]
)


TEXTS = st.sampled_from(
    ["all", "M1", "M2", "lab:M1", "lab:", "org/model@x", "sft", "dpo", "a\x00b", "x" * 5000, "", "~", "/"]
)


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        TEXTS,
        st.text(max_size=8),
        st.integers(),
        st.floats(),
        st.booleans(),
        st.dates(),
        st.times(),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=6,
)


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return (
            json.dumps(value).replace("\x7f", "\\u007f")
            if value.isprintable()
            else json.dumps("".join(filter(str.isprintable, value)))
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, int | float):
        return repr(value)
    return str(value.isoformat())


@given(st.dictionaries(KEYS, VALUES, max_size=8))
def test_any_tables_are_a_study_or_an_error_in_words(tables: dict[str, Any]) -> None:
    text = "".join(f"{key} = {toml(value)}\n" for key, value in tables.items())
    try:
        study = study_of(text, PLACE)
    except StudyError as error:
        assert "study.toml" in str(error)
    else:
        assert study_of(text, PLACE) == study


@given(
    st.dictionaries(st.sampled_from(["name", "seeds", "families", "lab", "keep", "notes"]), VALUES, max_size=4),
    st.data(),
)
@pytest.mark.slow
def test_any_values_in_the_right_places_are_a_study_or_an_error_in_words(
    head: dict[str, Any], data: st.DataObject
) -> None:
    def section(name: str, *keys: str) -> str:
        drawn = data.draw(st.dictionaries(st.sampled_from(keys), VALUES, max_size=5))
        return f"[{name}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in drawn.items())

    text = (
        "[study]\n"
        + "".join(f"{key} = {toml(value)}\n" for key, value in head.items())
        + versions(["M1", "M2"])
        + section("[version]", "name", "model", "tuned", "target-only", "parameters")
        + section(
            "tune", "recipe", "data", "mix", "steps", "learning-rate", "schedule", "lora", "eval-every", "reward", "x"
        )
        + section(
            "evaluate", "tasks", "suite", "loss", "validation", "match", "limit", "batch-size", "chat-template", "sft"
        )
        + section("paths", "text", "data", "points", "threshold", "match")
        + section("do", "transfer", "adapt", "transfer-then-tune", "recycle", "paths", "distances", "compare", "scales")
        + section(
            "adapt", "prompts", "select", "up-to", "rungs", "steps", "lora", "match", "device", "keep-diff", "sft"
        )
        + section("transfer", "drop", "rule", "config", "vocabulary", "new-tokens")
        + section("resources", "tune", "transfer")
        + section("cost", "gpu", "flops", "utilisation")
        + section("[expected]", "table", "task", "columns", "rows", "kind", "target", "tasks")
    )
    try:
        study = study_of(text, PLACE)
    except StudyError as error:
        assert "study.toml" in str(error)
    else:
        assert study_of(text, PLACE) == study


@given(st.text(alphabet=st.sampled_from("[]{}=.\"'#\n \\ab1,\t-"), max_size=60))
def test_any_text_is_a_study_or_an_error_in_words(text: str) -> None:
    with pytest.raises(StudyError, match=r"study\.toml"):
        study_of(text, PLACE)
