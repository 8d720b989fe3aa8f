"""Which tokens of a prompt and its answers are measured, on tokenizers laid out as those of model families are."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_tokenizers import byte_level, sentencepiece_like
from transformers import PreTrainedTokenizerFast

from tuneport.scoring.measured_tokens import Pairing

BEGIN, END = "<|begin|>", "<|end|>"


@functools.cache
def tokenizer_of(kind: str) -> Any:
    """Byte-level with a beginning, or with an end behind every text; or SentencePiece-like, with a blank before the first word."""
    if kind == "metaspace":
        document = sentencepiece_like(["<unk>", "<s>", "</s>"])
        document["normalizer"] = None
        document["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
        named = {"bos_token": "<s>", "eos_token": "</s>"}
    else:
        document = byte_level([BEGIN, END], BEGIN if kind == "beginning" else None)
        named = {"bos_token": BEGIN, "eos_token": END}
        if kind == "ending":
            pieces = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": END, "type_id": 0}}]
            id = len(document["model"]["vocab"]) + 1
            special = {END: {"id": END, "ids": [id], "tokens": [END]}}
            document["post_processor"] = {
                "type": "TemplateProcessing",
                "single": pieces,
                "pair": pieces,
                "special_tokens": special,
            }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(document)), **named)


def pairing_of(kind: str) -> Pairing:
    tokenizer = tokenizer_of(kind)
    return Pairing.of(tokenizer, lambda text: list(tokenizer.encode(text, add_special_tokens=False)))


@pytest.mark.parametrize(
    ("kind", "rendered", "prompt", "answers", "before", "measured", "join"),
    [
        # A line end that a template writes before an answer is the prompt's.
        ("beginning", True, "the\n", ["the fox"], ["the", "Ċ"], [["the", "Ġf", "ox"]], None),
        ("beginning", False, "the\n", [" fox"], [BEGIN, "the", "Ċ"], [["Ġf", "ox"]], None),
        ("beginning", False, BEGIN + "the", [" fox"], [BEGIN, "the"], [["Ġf", "ox"]], None),
        ("beginning", True, BEGIN + "the", [" fox"], [BEGIN, "the"], [["Ġf", "ox"]], None),
        # Choices of several tokens, of which one begins the other; a blank alone is one too.
        ("beginning", False, "the:", [" f", " fox", " "], [BEGIN, "the", ":"], [["Ġf"], ["Ġf", "ox"], ["Ġ"]], None),
        # "ick" is one token: prompt and answer have their own, and the other choice stands after the same prompt.
        ("beginning", False, "the qui", ["ck", "t"], [BEGIN, "the", "Ġ", "qu", "i"], [["ck"], ["t"]], "split"),
        # Words begin with their blank, and "Ġf" is one token: so it is scored with the word, for all choices alike.
        ("beginning", False, "the ", ["fox", "1"], [BEGIN, "the"], [["Ġf", "ox"], ["Ġ", "1"]], "blank"),
        ("beginning", False, "the ", ["1"], [BEGIN, "the", "Ġ"], [["1"]], None),
        ("ending", False, "the", [" fox"], ["the"], [["Ġf", "ox"]], None),
        ("ending", True, "", ["fox"], [BEGIN], [["f", "ox"]], None),
        # Alone, "ck" would be "▁", "ck": no blank stands between the two.
        ("metaspace", False, "qui", ["ck", "t"], ["<s>", "▁", "qu", "i"], [["ck"], ["t"]], "split"),
        ("metaspace", True, "fox\n", ["fox"], ["▁", "fo", "x", "<0x0A>"], [["fo", "x"]], None),
    ],
)  # fmt: skip
def test_what_is_measured_is_the_answer_and_no_other(
    kind: str, rendered: bool, prompt: str, answers: list[str], before: list[str], measured: list[list[str]], join: str
) -> None:
    found = pairing_of(kind).paired(prompt, answers, rendered=rendered)
    names = tokenizer_of(kind).convert_ids_to_tokens
    assert [names(pair.prompt) for pair in found.pairs] == [before] * len(answers)
    assert [names(pair.answer) for pair in found.pairs] == measured
    assert found.join == join
    assert found.token == {"split": "ick", "blank": " f"}.get(join or "", "")


TEXTS = st.text("quick fox\n:1é", min_size=1, max_size=12)


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=4, unique=True))
def test_all_of_an_answer_is_measured_after_one_prompt(prompt: str, answers: list[str]) -> None:
    tokenizer = tokenizer_of("beginning")
    found = pairing_of("beginning").paired(prompt, answers, rendered=False)
    for pair, answer in zip(found.pairs, answers, strict=True):
        assert pair.prompt == found.pairs[0].prompt
        assert tokenizer.decode(pair.prompt + pair.answer) == BEGIN + prompt + answer
        assert tokenizer.decode(pair.answer).lstrip(" ") == answer.lstrip(" ")
        if found.join is None:
            assert pair.prompt == tokenizer.encode(prompt)
            assert pair.prompt + pair.answer == tokenizer.encode(prompt + answer)
        elif found.join == "split":
            assert pair.prompt == tokenizer.encode(prompt)


def test_with_an_encoder_the_prompt_is_a_text_of_its_own() -> None:
    tokenizer = tokenizer_of("ending")
    plain = pairing_of("ending").encode
    (pair,) = Pairing.of(tokenizer, plain, encoder=True).paired("the qui", ["ck"], rendered=False).pairs
    assert tokenizer.convert_ids_to_tokens(pair.prompt) == ["the", "Ġ", "qu", "i", END]
    assert tokenizer.convert_ids_to_tokens(pair.answer) == ["ck"]
