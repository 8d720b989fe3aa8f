"""A card that the Hub's client reads, and a section in it that belongs to the user."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard, metadata_load
from hypothesis import given
from hypothesis import strategies as st

from tuneport.errors import OutputError
from tuneport.output.model_card import card_digest, document, front_matter, own_section, own_text, own_text_in, with_own

CARD = document(["---", "tags:", "- tuneport", "---", "# A model", *own_section(), "", "made by"])
SCORE = {"metric": "exact_match", "value": 0.5, "interval": None, "n": 10}


def test_all_that_the_hub_reads_is_where_it_looks(tmp_path: Path) -> None:
    facts = {
        "licences": {"base": "mit", "target": "mit"},
        "languages": ["mg"],
        "pipeline_tag": "text-generation",
        "repository": "org/carried",
        "scores": [{"task": 'a"b: c\n---', **SCORE}, {"task": "plain", **SCORE}],
    }
    lines = front_matter(
        ["tuneport"], library="transformers", parents=["org/a", "folder"], relation="merge", facts=facts
    )
    (tmp_path / "README.md").write_bytes(document([*lines, "# x"]))
    told = metadata_load(tmp_path / "README.md")
    assert told is not None
    assert (told["license"], told["language"], told["pipeline_tag"]) == ("mit", ["mg"], "text-generation")
    assert (told["base_model"], told["base_model_relation"]) == (["org/a"], "merge")
    (index,) = told["model-index"]
    assert index["name"] == "carried" and [each["dataset"]["name"] for each in index["results"]] == [
        'a"b: c\n---',
        "plain",
    ]
    assert len(ModelCard.load(tmp_path / "README.md").data.eval_results) == 2


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_the_users_section_comes_back_as_it_was_and_no_digest_covers_it(text: str) -> None:
    card = with_own(CARD, text)
    assert own_text_in(card) == text and card_digest(card) == card_digest(CARD)
    assert with_own(with_own(CARD, "before"), text) == card


def test_a_change_outside_the_section_changes_the_digest() -> None:
    assert card_digest(CARD.replace(b"A model", b"My model")) != card_digest(CARD)
    assert card_digest(CARD.replace(b"text begins", b"text starts")) != card_digest(CARD)


def test_a_card_that_cannot_be_read_stops_and_one_that_is_not_there_does_not(tmp_path: Path) -> None:
    assert own_text(tmp_path / "README.md") == ""
    (tmp_path / "README.md").mkdir()
    with pytest.raises(OutputError):
        own_text(tmp_path / "README.md")
