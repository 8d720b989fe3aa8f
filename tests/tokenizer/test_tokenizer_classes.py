"""The table of what transformers' tokenizer classes build by themselves is that of the installed classes."""

from __future__ import annotations

import json

import pytest
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from experiments.tables import make_tokenizer_classes
from tuneport.tokenizer.tokenizer_classes import built_by_class, named_by_class


@pytest.mark.parametrize(
    "name", ["LlamaTokenizer", "GemmaTokenizer", "Qwen2Tokenizer", "BertTokenizer", "GPT2Tokenizer"]
)
def test_the_committed_table_is_that_of_the_installed_class(name: str) -> None:
    # All 52 take five seconds: `python -m experiments.tables.make_tokenizer_classes` writes them, an upgrade changes all alike.
    committed = json.loads(make_tokenizer_classes.TABLE.read_text(encoding="utf-8"))[name]
    assert committed == json.loads(json.dumps(make_tokenizer_classes._entry(tokenizer_class_from_name(name))))


def test_a_class_builds_its_sections_of_the_settings_that_it_reads() -> None:
    def scheme(**settings: bool) -> str:
        return str(built_by_class("LlamaTokenizer", settings)["pre_tokenizer"]["prepend_scheme"])

    assert (scheme(), scheme(legacy=True), scheme(add_prefix_space=False)) == ("first", "always", "never")
    assert built_by_class("BertTokenizer", {"do_lower_case": False})["normalizer"]["lowercase"] is False
    assert built_by_class("PreTrainedTokenizer", {}) == built_by_class(None, {}) == {}
    assert named_by_class("GemmaTokenizer")["mask_token"] == "<mask>"
