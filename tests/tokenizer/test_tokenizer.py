"""Tokenizers are read as the tokenizers library and AutoTokenizer read them, or refused in one clear error."""

from __future__ import annotations

import functools
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.errors import CheckpointError, PairingError
from tuneport.tokenizer.json_sections import locate_sections, parse_json
from tuneport.tokenizer.tokenizer import is_readable, read_tokenizer, tokenizer_fingerprint, tokenizer_text

TEXT = [
    "the quick brown fox jumps over the lazy dog",
    'a "quoted" [bracketed] {braced} \\ back\\\\slashed, comma: colon',
    "die Katze schläft, 猫は眠る, 고양이 🐈 zzz",
]
SPECIAL = ["<s>", "</s>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"]


@functools.cache
def train(kind: str) -> tokenizers.Tokenizer:
    """A small tokenizer of one kind, trained by the tokenizers library, once: ties are broken at random."""
    model, trainer, splitter = {
        "BPE": (
            models.BPE(),
            trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False),
            pre_tokenizers.ByteLevel(),
        ),
        "WordPiece": (
            models.WordPiece(unk_token="<s>"),
            trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIAL, show_progress=False),
            pre_tokenizers.Whitespace(),
        ),
        "WordLevel": (
            models.WordLevel(unk_token="<s>"),
            trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False),
            pre_tokenizers.WhitespaceSplit(),
        ),
        "Unigram": (
            models.Unigram(),
            trainers.UnigramTrainer(vocab_size=80, special_tokens=SPECIAL, unk_token="<s>", show_progress=False),
            pre_tokenizers.Metaspace(),
        ),
    }[kind]
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = splitter
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    return tokenizer


def save(path: Path, tokenizer: tokenizers.Tokenizer, **options: Any) -> SidecarFolder:
    """Save as transformers saves it."""
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)  # type: ignore[no-untyped-call]
    wrapped.save_pretrained(path)
    return SidecarFolder("target", "lab/tiny", path)


def written(path: Path, **files: Any) -> SidecarFolder:
    """A folder with these files; `__` in a name stands for the dot, what is no text is written as JSON."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return SidecarFolder("target", "lab/tiny", path)


def word_level(vocab: Any, added: Any = ()) -> dict[str, Any]:
    """A tokenizer.json by hand."""
    return {
        "version": "1.0",
        "added_tokens": list(added) if isinstance(added, tuple) else added,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "a"},
    }


def token(id: Any, content: Any, **properties: Any) -> dict[str, Any]:
    """An entry of added_tokens."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id, "content": content, **flags, "special": True, **properties}


@pytest.mark.parametrize("kind", ["BPE", "WordPiece", "WordLevel", "Unigram"])
def test_every_kind_of_tokenizer_json_is_read_as_auto_tokenizer_reads_it(kind: str, tmp_path: Path) -> None:
    folder = save(tmp_path, train(kind), eos_token="</s>", pad_token="<new pad>")
    tokenizer = read_tokenizer(folder)
    reference = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.ids == reference.get_vocab()
    assert tokenizer.size == len(reference)
    assert {token: entry["id"] for token, entry in tokenizer.added.items()} == reference.get_added_vocab()
    assert all(tokenizer.token(id) == token for token, id in reference.get_vocab().items())
    assert tokenizer.token(10**6) is None


def test_tokens_that_only_tokenizer_config_adds_are_read_as_auto_tokenizer_reads_them(tmp_path: Path) -> None:
    folder = save(tmp_path, train("BPE"), eos_token="</s>")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    size = read_tokenizer(folder).size
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    config |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {
            str(size + 1): {"content": "<|im_end|>", **flags},
            str(size): {"content": "<|im_start|>", **flags},
            "1": {"content": "</s>", **flags},
        },
        "pad_token": "<pad>",
        "eot_token": "<eot>",
        "additional_special_tokens": ["<|im_start|>", "<|tool|>"],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert read_tokenizer(folder).ids == AutoTokenizer.from_pretrained(tmp_path).get_vocab()
    assert read_tokenizer(folder).ids["<|im_start|>"] == size


def test_vocab_json_with_merges_and_added_tokens_is_read_as_auto_tokenizer_reads_it(tmp_path: Path) -> None:
    tokenizer = train("BPE")
    tokenizer.model.save(str(tmp_path))
    size = tokenizer.get_vocab_size()
    folder = written(
        tmp_path,
        added_tokens__json={"<|im_end|>": size + 1, "<|im_start|>": size},
        tokenizer_config__json={"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>", "bos_token": "<s>"}
        | {"unk_token": "<s>"},
    )
    assert not (tmp_path / "tokenizer.json").exists()
    assert read_tokenizer(folder).ids == AutoTokenizer.from_pretrained(tmp_path).get_vocab()


def test_vocab_txt_is_read_line_by_line(tmp_path: Path) -> None:
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "##s", "\u2028", "dog"]
    folder = written(
        tmp_path, vocab__txt="\n".join(lines) + "\n", tokenizer_config__json={"tokenizer_class": "BertTokenizer"}
    )
    assert read_tokenizer(folder).ids == {line: index for index, line in enumerate(lines)}
    assert read_tokenizer(folder).ids["dog"] == AutoTokenizer.from_pretrained(tmp_path).convert_tokens_to_ids("dog")


@pytest.mark.parametrize(
    ("vocab", "added"),
    [
        ({"a": 0, "b": 5}, [token(6, "<x>")]),  # gaps
        ({"a": 0, "b": 1}, [token(10, "<x>"), token(4, "<y>")]),  # ids that are written beside tokens do not count
        ({"a": 0, "b": 1}, [token(7, "b"), token(1, "<z>")]),
        ({"a": 0, "b": 1}, [token(2, "<x>"), token(3, "")]),
        ({"a": 0, "b": 9}, [token(9, "b"), token(10, "<x>")]),
    ],
)
def test_added_tokens_get_the_ids_that_the_tokenizers_library_gives_them(
    vocab: dict[str, int], added: list[dict[str, Any]], tmp_path: Path
) -> None:
    folder = written(tmp_path, tokenizer__json=word_level(vocab, added))
    reference = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert read_tokenizer(folder).ids == reference.get_vocab()


@pytest.mark.parametrize("name", ["tokenizer.model", "tekken.json", "qwen.tiktoken", "vocab.json"])
def test_kinds_that_cannot_be_read_name_both_ways_out(name: str, tmp_path: Path) -> None:
    folder = written(tmp_path, **{name.replace(".", "__"): "{}"})
    assert not is_readable(folder)
    with pytest.raises(PairingError, match=r'target lab/tiny has only .*vocabulary="strings".*vocabulary="positions"'):
        read_tokenizer(folder)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        "{}",
        '{"model": []}',
        '{"model": {}}',
        '{"model": null}',
        '{"added_tokens": []}',
        '{"model": {"vocab": "x"}}',
        '{"model": {"vocab": [["a"]]}}',
        '{"model": {"vocab": [["a", "b"]]}}',
        '{"model": {"vocab": [[1, 2]]}}',
        '{"model": {"vocab": ["a"]}}',
        '{"model": {"vocab": {"a": 0}}',
        '{"model": {"vocab": {"a": 0}}} x',
        '{"model": {"vocab": {"a": NaN}}}',
        '{"model": {"vocab": {"\\ud800": 0}}}',
        '{"model": {"vocab": {"a": ' + "9" * 5000 + "}}}",
        '{"model": {"vocab": ' + DEEP + "}}",
        DEEP,
        word_level({"a": -1}),
        word_level({"a": 1.0}),
        word_level({"a": True}),
        word_level({"a": "0"}),
        word_level({"a": None}),
        word_level({"a": 0, "b": 0}),
        word_level({"a": 10**12}),
        word_level({"a": 2**40, "b": 0}),
        word_level({"a": 0}, {"x": 1}),
        word_level({"a": 0}, "x"),
        word_level({"a": 0}, ["x"]),
        word_level({"a": 0}, [{"id": 1}]),
        word_level({"a": 0}, [token(1, 7)]),
        word_level({"a": 0}, [token(-1, "x")]),
        word_level({"a": 0}, [token("1", "x")]),
        word_level({"a": 0}, [token(10**30, "x")]),
        word_level({"a": 0}, [token(1, "x"), token(1, "y")]),
        word_level({"a": 0, "b": 2}, [token(1, "x"), token(2, "y"), token(3, "z")]) | {"model": None},
    ],
)
def test_malformed_tokenizers_end_in_one_clear_error(content: Any, tmp_path: Path) -> None:
    folder = written(tmp_path, tokenizer__json=content)
    with pytest.raises(CheckpointError, match="target lab/tiny") as caught:
        read_tokenizer(folder)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "config",
    [
        {"added_tokens_decoder": []},
        {"added_tokens_decoder": {"x": {"content": "y"}}},
        {"added_tokens_decoder": {"-1": {"content": "y"}}},
        {"added_tokens_decoder": {"1": "y"}},
        {"added_tokens_decoder": {"1": {}}},
        {"added_tokens_decoder": {"9" * 5000: {"content": "y"}}},
    ],
)
def test_malformed_lists_of_added_tokens_end_in_one_clear_error(config: Any, tmp_path: Path) -> None:
    folder = written(tmp_path, tokenizer__json=word_level({"a": 0}), tokenizer_config__json=config)
    with pytest.raises(CheckpointError, match="added_tokens_decoder"):
        read_tokenizer(folder)


def test_an_id_far_beyond_the_vocabulary_allocates_nothing(tmp_path: Path) -> None:
    folder = written(tmp_path, tokenizer__json=word_level({"a": 0, "b": 2**31 - 1}))
    assert read_tokenizer(folder).size == 2**31


def test_fingerprints_agree_when_only_the_chat_template_differs(tmp_path: Path) -> None:
    one = save(tmp_path / "one", train("BPE"), eos_token="</s>")
    two = save(tmp_path / "two", train("BPE"), eos_token="<s>", chat_template="{{ messages }}")
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(two)
    (tmp_path / "two" / "merges.txt").write_text("older formats decide nothing beside tokenizer.json")
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(two)
    assert set(tokenizer_fingerprint(one)) == {"tokenizer.json"}


def test_fingerprints_differ_when_one_byte_or_one_added_token_differs(tmp_path: Path) -> None:
    one = save(tmp_path / "one", train("BPE"))
    two = save(tmp_path / "two", train("BPE"))
    (tmp_path / "two" / "tokenizer_config.json").write_text('{"pad_token": "<new pad>"}')
    assert tokenizer_fingerprint(one) != tokenizer_fingerprint(two)
    three = save(tmp_path / "three", train("BPE"))
    file = tmp_path / "three" / "tokenizer.json"
    file.write_text(file.read_text() + " ")
    assert tokenizer_fingerprint(one) != tokenizer_fingerprint(three)
    assert tokenizer_fingerprint(SidecarFolder("base", "empty", tmp_path / "none")) == {}


@pytest.mark.parametrize("layout", [{"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": True}])
def test_merges_are_read_one_by_one_however_they_are_written(layout: dict[str, Any], tmp_path: Path) -> None:
    document = json.loads(train("BPE").to_str())
    expected = [tuple(merge) for merge in document["model"]["merges"]]
    assert len(expected) > 20
    for merges in (document["model"]["merges"], [" ".join(merge) for merge in document["model"]["merges"]]):
        document["model"]["merges"] = merges
        text = locate_sections(json.dumps(document, **layout).encode(), "here")
        assert list(text.merges()) == expected
        for piece in (expected[3][0], "".join(expected[5]), "no such piece"):
            about = [(left, right) for left, right in expected if piece in (left, right, left + right)]
            assert list(text.merges({piece})) == about


def test_a_piece_is_found_among_merges_however_it_is_escaped() -> None:
    start = b'{"model": {"vocab": {}, "merges": ['
    for merges, piece in (
        (b'["<", "\\u007c"]', "<|"),
        (b'"\\u003c |"', "<"),
        (b'["\\/", "a"]', "/"),
        (b'"\\\\ u"', "\\u"),
    ):
        assert len(list(locate_sections(start + merges + b"]}}", "here").merges({piece}))) == 1, merges


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)
LAYOUTS: list[Callable[[Any], str]] = [
    lambda value: json.dumps(value, ensure_ascii=False, indent=2),
    lambda value: json.dumps(value, separators=(",", ":")),
    lambda value: " \n" + json.dumps(value, indent=1) + "\r\n\t",
]


@settings(max_examples=300, deadline=None)
@given(
    outer=st.dictionaries(st.text(max_size=4), JSON, max_size=4),
    model=st.dictionaries(st.text(max_size=4), JSON, max_size=4),
    vocab=JSON,
    layout=st.sampled_from(LAYOUTS),
)
def test_sections_are_where_a_full_parse_finds_them(
    outer: dict[str, Any], model: dict[str, Any], vocab: Any, layout: Callable[[Any], str]
) -> None:
    document = {**outer, "model": {**model, "vocab": vocab}}
    text = locate_sections(layout(document).encode(), "here")
    assert {name: text.member(name) for name in text.members} == document
    assert {name: text.model_member(name) for name in text.model} == document["model"]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_broken_json_is_refused_or_read_as_the_full_parser_reads_it(data: st.DataObject) -> None:
    document = {
        "a": ["x", {"]": 1}],
        "model": {"vocab": {'"': 0, "\\": 1}, "merges": [['"', "\\"], "[ ]"]},
        "b": 1.5,
    }
    content = bytearray(json.dumps(document).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 1))] = data.draw(st.sampled_from([b"", *map(bytes, _BYTES)]))
    try:
        text = locate_sections(bytes(content), "here")
        vocab = text.model_member("vocab")
    except CheckpointError:
        return
    try:
        expected = parse_json(bytes(content), "here")["model"]["vocab"]
    except CheckpointError:
        return  # broken in a section that nobody parses
    assert vocab == expected


_BYTES = [[byte] for byte in b'"\\[]{},: 1ex\x00\xff']


def test_a_member_that_stands_twice_counts_as_the_library_counts_it(tmp_path: Path) -> None:
    second = '{"type": "WordLevel", "vocab": {"a": 0, "a": 1}, "unk_token": "a"}'
    content = '{"model": {"vocab": {"x": 3}}, "model": ' + second + "}"
    folder = written(tmp_path, tokenizer__json=content)
    assert read_tokenizer(folder).ids == {"a": 1}
    text = tokenizer_text(folder)
    assert text is not None and text.model_member("unk_token") == "a"


def test_a_tokenizer_model_alone_is_read_after_what_its_refusal_advises(tmp_path: Path) -> None:
    """With sentencepiece and protobuf, which are part of the models extra."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox", "jumps over the lazy dog"] * 20),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    place = tmp_path / "DIR"
    place.mkdir()
    (place / "tokenizer.model").write_bytes(model.getvalue())
    (place / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    folder = SidecarFolder("base", "m", place)
    with pytest.raises(PairingError) as refused:
        read_tokenizer(folder)
    assert "AutoTokenizer.from_pretrained(DIR).save_pretrained(NEW)" in str(refused.value)
    AutoTokenizer.from_pretrained(place).save_pretrained(tmp_path / "NEW")
    shutil.copy(tmp_path / "NEW" / "tokenizer.json", place)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    assert read_tokenizer(folder).ids == {pieces.id_to_piece(id): id for id in range(300)}
    said = AutoTokenizer.from_pretrained(place).encode("the lazy fox", add_special_tokens=False)
    assert said == pieces.encode("the lazy fox")


@pytest.mark.parametrize(("option", "value"), [("unk_token", ["a"]), ("byte_fallback", "yes"), ("dropout", "0.1")])
def test_an_option_that_no_tokenizer_has_there_is_told(option: str, value: Any, tmp_path: Path) -> None:
    made = json.loads(train("BPE").to_str())
    made["model"][option] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(made))
    with pytest.raises(CheckpointError, match=rf"`model\.{option}` is .*, which is not valid there"):
        read_tokenizer(SidecarFolder("base", "x", tmp_path))
