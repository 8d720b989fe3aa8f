"""What is taken from the cards of parents: licences, languages and tasks of the Hub's form, whatever else stands there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support import tiny_checkpoints as tiny

from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.output.licences import licence_of
from tuneport.output.model_card import front_matter
from tuneport.output.parent_cards import card_facts

HOSTILE = """---
license: "mit\\n- evil: true"
language: ["en", "x: y", "de-AT", {a: 1}, "zz\\n---\\n# owned"]
pipeline_tag: "text-generation\\ntags: [owned]"
base_model: !!python/object/apply:os.system ["true"]
---
"""


def facts_of(folder: Path, front: str | None) -> dict[str, object]:
    made = tiny.trio(folder)
    if front is not None:
        (made.target / "README.md").write_text(front)
    return card_facts([open_checkpoint(str(made.target), "target")])


def test_a_card_in_the_models_folder_is_read(tmp_path: Path) -> None:
    front = "---\nlicense: other\nlicense_name: llama3.1\nlanguage: [mg, tr]\npipeline_tag: text-generation\n---\n# x\n"
    told = facts_of(tmp_path, front)
    assert told == {"licences": {"target": "llama3.1"}, "languages": ["mg", "tr"], "pipeline_tag": "text-generation"}


@pytest.mark.parametrize(
    "front", [None, "", "---\n: [\n---\n", "---\n- a\n---\n", HOSTILE, f"---\n{'[' * 5000}\n---\n"]
)
def test_what_is_no_card_or_hostile_gives_nothing(tmp_path: Path, front: str | None) -> None:
    told = facts_of(tmp_path, front)
    assert told["licences"] == {"target": None} and set(told["languages"]) <= {"en", "de-AT"}
    lines = front_matter(["tuneport"], library="transformers", parents=[], relation="merge", facts=told)
    data = ModelCard("\n".join([*lines, ""])).data.to_dict()
    assert set(data) <= {"library_name", "language", "pipeline_tag", "tags"} and data["tags"] == ["tuneport"]


def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    made = tiny.trio(tmp_path / "models")
    (tmp_path / "secret.md").write_text("---\nlicense: mit\n---\n")
    os.symlink(tmp_path / "secret.md", made.target / "README.md")
    assert card_facts([open_checkpoint(str(made.target), "target")])["licences"] == {"target": None}


@pytest.mark.parametrize(
    ("licences", "given", "said"),
    [
        (("mit", "mit", "mit"), "mit", "All parents"),
        (("apache-2.0", "apache-2.0", "llama3.1"), "llama3.1", "the other terms still apply"),
        (("mit", "apache-2.0", "bsd-3-clause"), "apache-2.0", "differ"),
        (("llama3", "llama3", "gemma"), None, "differ"),
        (("mit", None, "mit"), None, "not all of them are known"),
        (("mit", "other", "mit"), None, "not all of them are known"),
        (("mit", "cc-by-nc-nd-4.0", "mit"), None, "not allow sharing derivatives"),
    ],
)
def test_a_licence_is_named_where_the_parents_agree_and_else_said_to_differ(
    licences: tuple[str | None, ...], given: str | None, said: str
) -> None:
    found, words = licence_of(dict(zip(("base", "tuned", "target"), licences, strict=True)))
    assert found == given and said in words and words.endswith(".")
