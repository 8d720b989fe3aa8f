"""Edited tokenizers are proved by AutoTokenizer and the tokenizers library: new ids hold, nothing else changes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from support.edited_tokenizers import KINDS, RESERVED, TEXT, assert_proved, copy, renamed, save, train, transfer
from tokenizers import AddedToken, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from tuneport.tokenizer.edit import edit_tokenizer, stale_files
from tuneport.tokenizer.token_changes import TokenChanges, edit_added_tokens_decoder
from tuneport.tokenizer.tokenizer import read_tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_an_added_token_encodes_to_its_id_and_nothing_else_changes(kind: str, tmp_path: Path) -> None:
    base = save(tmp_path / "base", train(kind), "base")
    tuned_tokenizer = copy(train(kind))
    tuned_tokenizer.add_special_tokens(["<|im_start|>"])
    tuned_tokenizer.add_tokens([AddedToken("<tool>", lstrip=True)])
    tuned = save(tmp_path / "tuned", tuned_tokenizer, "tuned")
    target_tokenizer = train(kind, special=["<s>", "</s>", "<|new in the target|>", *RESERVED])
    target = save(tmp_path / "target", target_tokenizer, "target", eos_token="</s>")
    match, out = transfer(tmp_path, base, tuned, target)
    assert [token.token for token in match.added] == ["<|im_start|>", "<tool>"]
    assert match.added[0].id == match.target_size == len(AutoTokenizer.from_pretrained(target.path))
    assert_proved(match, out, target.path)
    reference = {token.content: token for token in tuned_tokenizer.get_added_tokens_decoder().values()}
    written = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json")).get_added_tokens_decoder()
    assert all(
        str(written[token.id].__getstate__()) == str(reference[token.token].__getstate__()) for token in match.added
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_renamed_token_keeps_its_id_wherever_it_stands(kind: str, tmp_path: Path) -> None:
    base = save(tmp_path / "base", train(kind), "base")
    names = {"<|reserved_1|>": "<|im_start|>", "<|reserved_2|>": '<|"im"_end|>'}
    tuned = save(tmp_path / "tuned", renamed(train(kind), names, lstrip=True), "tuned")
    target_tokenizer = train(kind, special=["<s>", "</s>", "<|new|>", *reversed(RESERVED)])
    place = target_tokenizer.get_vocab()["<|reserved_1|>"]
    target_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|reserved_1|> $A", special_tokens=[("<|reserved_1|>", place)]
    )
    target_tokenizer.enable_padding(pad_token="<|reserved_2|>", pad_id=target_tokenizer.token_to_id("<|reserved_2|>"))
    target = save(tmp_path / "target", target_tokenizer, "target")
    match, out = transfer(tmp_path, base, tuned, target)
    assert {(rename.old, rename.new) for rename in match.renamed} == set(names.items())
    assert all(target_tokenizer.token_to_id(rename.old) == rename.target_id for rename in match.renamed)
    assert_proved(match, out, target.path)
    text = (out / "tokenizer.json").read_text()
    assert "<|reserved_1|>" not in text and "<|reserved_2|>" not in text
    after = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    assert after.encode("the dog").tokens[0] == "<|im_start|>"
    assert after.padding is not None and after.padding["pad_token"] == '<|"im"_end|>'
    assert after.get_added_tokens_decoder()[place].lstrip


@pytest.mark.parametrize("family", ["LlamaTokenizer", "Qwen2Tokenizer", "GPT2Tokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("decoder", [False, True])
def test_the_tokenizer_classes_of_families_read_what_was_written(family: str, decoder: bool, tmp_path: Path) -> None:
    special = ["<unk>", "<s>", "</s>", "<|endoftext|>", "[control_8]", "[control_9]"]
    tuned_tokenizer = renamed(train(special=special), {"[control_9]": "[TOOL]"})
    tuned_tokenizer.add_special_tokens(["<|im_start|>"])
    tuned_tokenizer.add_tokens(["<think>"])
    base = save(tmp_path / "base", train(special=special), "base")
    tuned = save(tmp_path / "tuned", tuned_tokenizer, "tuned")
    target_tokenizer = train(special=["<unk>", "<s>", "</s>", "[new]", *special[3:]])
    target_tokenizer.add_tokens(["<new>"])
    target = save(tmp_path / "target", target_tokenizer, "target", unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    config = json.loads((target.path / "tokenizer_config.json").read_text()) | {"tokenizer_class": family}
    if decoder:
        added = read_tokenizer(target).added.values()
        config["added_tokens_decoder"] = {
            str(entry["id"]): {name: value for name, value in entry.items() if name != "id"} for entry in added
        }
    (target.path / "tokenizer_config.json").write_text(json.dumps(config))
    match, out = transfer(tmp_path, base, tuned, target)
    assert [token.token for token in match.added] == ["<|im_start|>", "<think>"]
    assert [rename.new for rename in match.renamed] == ["[TOOL]"]
    assert type(AutoTokenizer.from_pretrained(out)) is type(AutoTokenizer.from_pretrained(target.path))
    assert_proved(match, out, target.path)


def test_a_vocabulary_with_gaps_still_gives_the_ids_that_were_said(tmp_path: Path) -> None:
    def gaps(names: list[str]) -> tokenizers.Tokenizer:
        vocab = {"a": 0, "b": 3, "c": 7, "<s>": 9}
        tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="a"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.add_special_tokens(["<s>", "<x>", *names])
        return tokenizer

    base = save(tmp_path / "base", gaps([]), "base")
    tuned = save(tmp_path / "tuned", gaps(["<y>", "<z>"]), "tuned")
    target = save(tmp_path / "target", gaps([]), "target")
    match, out = transfer(tmp_path, base, tuned, target)
    assert [(token.token, token.id) for token in match.added] == [("<y>", 10), ("<z>", 11)]
    assert_proved(match, out, target.path)


@pytest.mark.parametrize("kind", ["BPE", "WordLevel", "WordPiece", "Unigram"])
@pytest.mark.parametrize("beyond", [[], ["<extra 1>", "<extra 2>"]])
def test_pieces_of_an_extended_vocabulary_come_along_with_their_merges(
    kind: str, beyond: list[str], tmp_path: Path
) -> None:
    short = train(kind)
    document = json.loads(short.to_str())
    vocab = document["model"]["vocab"]
    word = {"BPE": ["zz", "zzz"], "WordLevel": ["zebra"], "WordPiece": ["zz", "##zz"], "Unigram": ["▁zz", "zzz"]}[kind]
    if isinstance(vocab, list):
        vocab += [[piece, -2.5] for piece in word]
    else:
        vocab |= {piece: len(vocab) + place for place, piece in enumerate(word)}
    if kind == "BPE":
        document["model"]["merges"] += [["z", "z"], ["zz", "z"]]
    extended = tokenizers.Tokenizer.from_str(json.dumps(document))
    target_tokenizer = copy(short)
    target_tokenizer.add_special_tokens(beyond)
    base = save(tmp_path / "base", short, "base")
    tuned = save(tmp_path / "tuned", extended, "tuned")
    target = save(tmp_path / "target", target_tokenizer, "target")
    match, out = transfer(tmp_path, base, tuned, target)
    assert [token.token for token in match.added] == word
    assert_proved(match, out, target.path)
    auto, reference = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(tuned.path)
    for sample in [*TEXT, "zzz zz zebra", "the dog zzzz"]:
        assert auto.tokenize(sample) == reference.tokenize(sample)


def test_a_piece_that_merges_use_is_never_renamed_under_them(tmp_path: Path) -> None:
    tokenizer = train()
    document = json.loads(tokenizer.to_str())
    place = document["model"]["vocab"].pop("Ġthe")
    document["model"]["vocab"]["qq"] = place
    document["model"]["merges"] = [merge for merge in document["model"]["merges"] if "".join(merge) != "Ġthe"]
    document["model"]["merges"].append(["q", "q"])
    base = save(tmp_path / "base", tokenizer, "base")
    tuned = save(tmp_path / "tuned", tokenizers.Tokenizer.from_str(json.dumps(document)), "tuned")
    target = save(tmp_path / "target", tokenizer, "target")
    match, out = transfer(tmp_path, base, tuned, target)
    assert match.renamed == () and [token.token for token in match.added] == ["qq"] and "Ġthe" in match.kept
    after, before = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(target.path)
    assert before.tokenize("over the dog") == after.tokenize("over the dog")


@pytest.mark.parametrize("style", [{"indent": 2}, {"separators": (",", ":")}, {"indent": 4}, {}])
def test_every_byte_outside_the_changed_sections_stays(style: dict[str, Any], tmp_path: Path) -> None:
    base = save(tmp_path / "base", train(), "base")
    tuned_tokenizer = copy(train())
    tuned_tokenizer.add_special_tokens(["<|tööl|>"])
    tuned = save(tmp_path / "tuned", tuned_tokenizer, "tuned")
    target = save(tmp_path / "target", train(), "target")
    document = json.loads((target.path / "tokenizer.json").read_text())
    document["model"]["merges"] = [" ".join(merge) for merge in document["model"]["merges"]]
    original = json.dumps(document, ensure_ascii=False, **style)
    (target.path / "tokenizer.json").write_text(original, encoding="utf-8")
    match, out = transfer(tmp_path, base, tuned, target)
    document["added_tokens"].append({**match.added[0].entry, "id": match.added[0].id, "content": "<|tööl|>"})
    edited = (out / "tokenizer.json").read_text(encoding="utf-8")
    assert json.loads(edited) == document
    cut = original.index('"normalizer"')
    assert edited.endswith(original[cut:]) and len(edited) > len(original)
    assert edited.count("\n") == json.dumps(document, ensure_ascii=False, **style).count("\n")


def test_no_changes_change_no_file(tmp_path: Path) -> None:
    target = save(tmp_path / "target", train(), "target")
    config = {"added_tokens_decoder": {"1": {"content": "x"}}}
    assert edit_tokenizer(target, TokenChanges(), target) == {}
    assert edit_added_tokens_decoder(config, TokenChanges()) == config
    assert not TokenChanges() and stale_files(target, TokenChanges()) == []


WORDS = [f"w{index}" for index in range(12)]
TOKENS = ["<a>", "<b>", "<c>", "[d]", "<e f>"]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_mixture_of_renames_and_new_tokens_is_what_the_tokenizers_library_reads(data: st.DataObject) -> None:
    def tokenizer(words: list[str], added: list[str]) -> tokenizers.Tokenizer:
        made = tokenizers.Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[0]))
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        made.add_special_tokens(added)
        return made

    added = data.draw(st.permutations(TOKENS).map(lambda tokens: tokens[:3]))
    new = data.draw(st.lists(st.sampled_from(["<n1>", "<n2>", "<n3>"]), unique=True))
    changed = [f"<renamed {token}>" if data.draw(st.booleans()) else token for token in added]
    more = data.draw(st.lists(st.sampled_from(["x1", "x2"]), unique=True))
    theirs = data.draw(st.permutations(WORDS))[: data.draw(st.integers(10, 12))]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        base = save(path / "base", tokenizer(WORDS, added), "base")
        tuned = save(path / "tuned", tokenizer([*WORDS, *more], [*changed, *new]), "tuned")
        target = save(path / "target", tokenizer(theirs, data.draw(st.permutations(added))), "target")
        match, out = transfer(path, base, tuned, target)
        assert_proved(match, out, target.path)
        assert set(AutoTokenizer.from_pretrained(out).get_vocab()) >= {*new, *more, *changed}
