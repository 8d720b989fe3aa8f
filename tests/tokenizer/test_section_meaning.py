"""Two sections mean the same where the tokenizers library gives every text the same ids, and only there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tuneport.sidecars.three_way import same
from tuneport.tokenizer.section_meaning import in_brief, map_tokens, meaning

VOCABULARY = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "▁a": 5, "Ġa": 6, "▁": 7, "A": 8}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPACES = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
PAD = {"strategy": "BatchLongest", "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"}
A, B = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
CUT = {"max_length": 3, "strategy": "LongestFirst", "stride": 0}


def template(label: str = "<s>", id: int = 1, **more: Any) -> dict[str, Any]:
    """Texts that begin with one token."""
    first = {"SpecialToken": {"id": label, "type_id": 0}}
    tokens = {label: {"id": label, "ids": [id], "tokens": ["<s>"]}}
    return {"type": "TemplateProcessing", "single": [first, A], "pair": [first, A, B], "special_tokens": tokens | more}


def sequence(*parts: Any, of: str) -> dict[str, Any]:
    return {"type": "Sequence", of: list(parts)}


UNUSED = {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}
PLAIN = {"type": "TemplateProcessing", "single": [A], "pair": [A, B], "special_tokens": {}}
PARENTS: dict[str, Any] = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]}

ALIKE = [
    ("normalizer", None, sequence(of="normalizers")),
    ("normalizer", {"type": "NFC"}, sequence(sequence({"type": "NFC"}, of="normalizers"), of="normalizers")),
    ("pre_tokenizer", BYTES, BYTES | {"trim_offsets": False}),
    ("pre_tokenizer", BYTES, {name: value for name, value in BYTES.items() if name != "use_regex"}),
    ("pre_tokenizer", SPACES, {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True, "str_rep": "▁"}),
    ("pre_tokenizer", {"type": "Punctuation"}, {"type": "Punctuation", "behavior": "Isolated"}),
    ("post_processor", None, PLAIN),
    ("post_processor", None, BYTES),
    ("post_processor", template(), sequence(BYTES, template(), of="processors")),
    ("post_processor", template(), template(**UNUSED)),
    ("post_processor", template(), template("begin")),
    (
        "post_processor",
        PARENTS | {"trim_offsets": True, "add_prefix_space": True},
        PARENTS | {"trim_offsets": False, "add_prefix_space": False},
    ),
    ("decoder", BYTES, BYTES | {"add_prefix_space": True, "trim_offsets": False, "use_regex": False}),
    ("padding", PAD, PAD | {"pad_to_multiple_of": None}),
    ("truncation", CUT, CUT | {"direction": "Right"}),
]
UNLIKE = [
    ("normalizer", None, {"type": "Lowercase"}),
    (
        "normalizer",
        sequence({"type": "NFC"}, {"type": "Lowercase"}, of="normalizers"),
        sequence({"type": "Lowercase"}, {"type": "NFC"}, of="normalizers"),
    ),
    ("pre_tokenizer", BYTES, BYTES | {"add_prefix_space": True}),
    ("pre_tokenizer", BYTES, BYTES | {"use_regex": False}),
    ("pre_tokenizer", SPACES, SPACES | {"prepend_scheme": "never"}),
    ("pre_tokenizer", SPACES, SPACES | {"split": False}),
    ("post_processor", None, template()),
    ("post_processor", template(), template(id=2)),
    ("post_processor", template(), template() | {"single": [A]}),
    ("post_processor", PARENTS, PARENTS | {"sep": ["<s>", 1]}),
    ("post_processor", PARENTS, PARENTS | {"type": "BertProcessing"}),
    ("padding", PAD, PAD | {"strategy": {"Fixed": 8}}),
    ("padding", PAD, PAD | {"pad_id": 1}),
    ("truncation", CUT, CUT | {"max_length": 2}),
]


def plainly(section: str, value: Any) -> Any:
    return meaning(section, value, lambda id, string: id)


def ids(section: str, value: Any) -> list[Any]:
    """What the library makes of some texts, and pairs of texts, with this section."""
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "<unk>"},
        section: value,
    }
    tokenizer = Tokenizer.from_str(json.dumps(document))
    texts = ["a", " a", "a b", "A", "a, b", ["a", "b"], ["a b", "b"]]
    found = [tokenizer.encode(*([text] if isinstance(text, str) else text)) for text in texts]
    return [one.ids for one in found] + [one.type_ids for one in found] + [tokenizer.decode(list(range(1, 9)))]


@pytest.mark.parametrize(("section", "one", "other"), ALIKE)
def test_what_gives_the_same_ids_is_the_same(section: str, one: Any, other: Any) -> None:
    assert same(plainly(section, one), plainly(section, other))
    if "trim_offsets" in str(one) or not str(one).startswith("{'type': 'RobertaProcessing'"):
        assert ids(section, one) == ids(section, other)


@pytest.mark.parametrize(("section", "one", "other"), UNLIKE)
def test_what_gives_other_ids_is_not(section: str, one: Any, other: Any) -> None:
    assert not same(plainly(section, one), plainly(section, other))


def test_a_section_is_told_by_its_parts_and_their_tokens() -> None:
    told = in_brief("post_processor", sequence({"type": "Fuse"}, template(), of="processors"))
    assert told == "Fuse + TemplateProcessing(<s> A)"
    assert in_brief("truncation", None) == "null" and in_brief("normalizer", sequence(of="normalizers")) == "nothing"


def test_tokens_are_compared_by_name() -> None:
    shifted = {1: "<s>", 11: "<s>"}
    one, other = (meaning("post_processor", template(id=id), lambda id, _: shifted[id]) for id in (1, 11))
    assert same(one, other)


@pytest.mark.parametrize(
    "value",
    [template(), sequence(BYTES, template(), of="processors"), PARENTS, PARENTS | {"type": "BertProcessing"}, PAD],
)
def test_every_id_of_a_section_is_changed_with_its_string(value: dict[str, Any]) -> None:
    before = json.dumps(value)
    moved = map_tokens(value, lambda id, string: (id + 10, string + "!"))
    assert json.dumps(value) == before
    assert map_tokens(moved, lambda id, string: (id - 10, string.removesuffix("!"))) == value
    assert moved != value


NESTED = st.recursive(
    st.none() | st.integers() | st.text() | st.sampled_from(["TemplateProcessing", "Sequence", "ByteLevel"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "ids", "sep", "single", "special_tokens", "processors", "pad_id", "pad_token", "id"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(section=st.sampled_from(["normalizer", "post_processor", "padding"]), value=NESTED)
def test_a_section_of_any_shape_is_the_same_as_itself(section: str, value: Any) -> None:
    assert in_brief(section, value)
    assert same(plainly(section, value), plainly(section, json.loads(json.dumps(value))))
