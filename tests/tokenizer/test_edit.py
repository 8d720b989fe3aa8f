"""Edited tokenizers are proved by AutoTokenizer and the tokenizers library: new ids hold, nothing else changes."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.pairing.vocabulary import VocabularyMatch, match_vocabulary, read_vocabularies
from tuneport.tokenizer.edit import edit_tokenizer, stale_files
from tuneport.tokenizer.token_changes import TokenChanges, edit_added_tokens_decoder, rename_everywhere
from tuneport.tokenizer.tokenizer import read_tokenizer

TEXT = [
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs",
    "die Katze schläft",
]
RESERVED = [f"<|reserved_{index}|>" for index in range(4)]
SPECIAL = ["<s>", "</s>", *RESERVED]
SAMPLES = [*TEXT, "<s>jumps</s>", "a[b]{c}", "<|reserved_3|>x", "naïve 猫 🐈"]


@functools.cache
def trained(kind: str) -> str:
    """A small tokenizer's JSON, trained by the tokenizers library; once, for training breaks ties at random."""
    model, trainer, splitter = {
        "BPE": (
            models.BPE(),
            trainers.BpeTrainer(vocab_size=320, show_progress=False),
            pre_tokenizers.ByteLevel(),
        ),
        "WordPiece": (
            models.WordPiece(unk_token="<s>"),
            trainers.WordPieceTrainer(vocab_size=120, show_progress=False),
            pre_tokenizers.Whitespace(),
        ),
        "WordLevel": (
            models.WordLevel(unk_token="<s>"),
            trainers.WordLevelTrainer(show_progress=False),
            pre_tokenizers.WhitespaceSplit(),
        ),
        "Unigram": (
            models.Unigram(),
            trainers.UnigramTrainer(vocab_size=80, show_progress=False, unk_token="<s>", special_tokens=["<s>"]),
            pre_tokenizers.Metaspace(),
        ),
    }[kind]
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = splitter
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return str(tokenizer.to_str())


def train(kind: str = "BPE", special: list[str] = SPECIAL) -> tokenizers.Tokenizer:
    """The trained pieces behind these special tokens."""
    document = json.loads(trained(kind))
    vocab = document["model"]["vocab"]
    if isinstance(vocab, list):
        document["model"]["vocab"] = [
            *([token, 0.0] for token in special),
            *(pair for pair in vocab if pair[0] != "<s>"),
        ]
    else:
        pieces = sorted(vocab, key=vocab.__getitem__)
        document["model"]["vocab"] = {token: id for id, token in enumerate([*special, *pieces])}
    document["added_tokens"] = []
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(document))
    tokenizer.add_special_tokens(special)
    return tokenizer


def copy(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Another tokenizer object of the same contents."""
    return tokenizers.Tokenizer.from_str(tokenizer.to_str())


def renamed(tokenizer: tokenizers.Tokenizer, names: dict[str, str], **properties: Any) -> tokenizers.Tokenizer:
    """The same tokenizer with tokens renamed wherever they stand."""
    text = tokenizer.to_str()
    for old, new in names.items():
        text = text.replace(json.dumps(old), json.dumps(new))
    document = json.loads(text)
    for entry in document["added_tokens"]:
        if entry["content"] in names.values():
            entry.update(properties)
    return tokenizers.Tokenizer.from_str(json.dumps(document))


def save(path: Path, tokenizer: tokenizers.Tokenizer, role: str, **options: Any) -> SidecarFolder:
    """Save as transformers saves it."""
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)  # type: ignore[no-untyped-call]
    wrapped.save_pretrained(path)
    return SidecarFolder(role, f"lab/{role}", path)


def transfer(
    path: Path, base: SidecarFolder, tuned: SidecarFolder, target: SidecarFolder, rows: int = 1000, **options: Any
) -> tuple[VocabularyMatch, Path]:
    """Match three folders and write the output's tokenizer files beside the target's others."""
    match = match_vocabulary(read_vocabularies((base, tuned, target)), (rows, rows, rows), **options)
    out = path / "out"
    shutil.copytree(target.path, out)
    for name, content in edit_tokenizer(target, match.changes, tuned).items():
        (out / name).write_bytes(content)
    config = edit_added_tokens_decoder(json.loads((out / "tokenizer_config.json").read_text()), match.changes)
    (out / "tokenizer_config.json").write_text(
        json.dumps(rename_everywhere(config, dict(match.changes.renamed), labels=False))
    )
    return match, out


def assert_proved(match: VocabularyMatch, out: Path, target: Path) -> None:
    """Both libraries give every token its id, and encode everything else as before."""
    readers: list[Callable[[Path], Any]] = [AutoTokenizer.from_pretrained]
    if (out / "tokenizer.json").exists():
        readers.append(lambda path: tokenizers.Tokenizer.from_file(str(path / "tokenizer.json")))
    names = dict(match.changes.renamed)
    for reader in readers:
        before, after = reader(target), reader(out)
        expected = {names.get(token, token): id for token, id in before.get_vocab().items()}
        expected |= {token.token: token.id for token in match.added}
        assert after.get_vocab() == expected
        for token in match.added:
            if token.entry:
                assert ids_of(after, f"the{token.token}dog").count(token.id) == 1
                assert bare(after, token.token) == [token.id]
        for rename in match.renamed:
            if rename.new in match.changes.entries:
                assert bare(after, rename.new) == [rename.target_id]
        own = {token.token for token in match.added if not token.entry}
        for sample in SAMPLES:
            if not any(old in sample for old in names) and not own:
                assert ids_of(after, sample) == ids_of(before, sample)
    assert read_tokenizer(SidecarFolder("out", "out", out)).ids == AutoTokenizer.from_pretrained(out).get_vocab()


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text, special tokens included."""
    found = tokenizer.encode(text)
    return found if isinstance(found, list) else list(found.ids)


def bare(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text without what the post-processor puts around it."""
    found = tokenizer.encode(text, add_special_tokens=False)
    return found if isinstance(found, list) else list(found.ids)


KINDS = ["BPE", "WordPiece", "WordLevel", "Unigram"]


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


def test_a_tokenizer_config_of_transformers_4_names_the_same_tokens(tmp_path: Path) -> None:
    def with_decoder(folder: SidecarFolder, **more: Any) -> SidecarFolder:
        config = json.loads((folder.path / "tokenizer_config.json").read_text())
        added = read_tokenizer(folder).added
        decoder = {
            str(entry["id"]): {name: value for name, value in entry.items() if name != "id"} for entry in added.values()
        }
        config |= {"added_tokens_decoder": decoder, "tokenizer_class": "PreTrainedTokenizerFast", **more}
        (folder.path / "tokenizer_config.json").write_text(json.dumps(config))
        return folder

    base = save(tmp_path / "base", train(), "base")
    tuned_tokenizer = renamed(train(), {"<|reserved_0|>": "<|im_start|>"})
    tuned_tokenizer.add_special_tokens(["<|tool|>"])
    tuned = with_decoder(save(tmp_path / "tuned", tuned_tokenizer, "tuned"))
    # The target's pad token is named by its config alone, and so has the id that the next token would get.
    target = with_decoder(save(tmp_path / "target", train(), "target"), pad_token="[PAD]")
    match, out = transfer(tmp_path, base, tuned, target)
    assert match.changes.renamed == (("<|reserved_0|>", "<|im_start|>"),)
    assert [(token.token, token.id) for token in match.added] == [("<|tool|>", train().get_vocab_size() + 1)]
    auto = AutoTokenizer.from_pretrained(out)
    size = train().get_vocab_size()
    assert auto.convert_tokens_to_ids(["[PAD]", "<|tool|>", "<|im_start|>"]) == [size, size + 1, 2]
    library = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    assert library.get_vocab() == auto.get_vocab() == read_tokenizer(SidecarFolder("out", "out", out)).ids
    config = json.loads((out / "tokenizer_config.json").read_text())
    assert {entry["content"]: int(id) for id, entry in config["added_tokens_decoder"].items()} == auto.get_added_vocab()


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


@pytest.mark.parametrize("rename", [False, True])
def test_vocab_json_with_merges_txt_gains_added_tokens_json(rename: bool, tmp_path: Path) -> None:
    folders = []
    for role in ("base", "tuned", "target"):
        path = tmp_path / role
        path.mkdir()
        tokenizer = train() if role != "tuned" or not rename else renamed(train(), {"<|reserved_1|>": "<|im_start|>"})
        tokenizer.model.save(str(path))
        config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<s>"}
        (path / "tokenizer_config.json").write_text(json.dumps(config))
        folders.append(SidecarFolder(role, f"lab/{role}", path))
    base, tuned, target = folders
    size = train().get_vocab_size()
    added = {"<|tool|>": size + 1, "<|im_end|>": size}
    (tuned.path / "added_tokens.json").write_text(json.dumps(added))
    match, out = transfer(tmp_path, base, tuned, target)
    assert [(token.token, token.id) for token in match.added] == [("<|im_end|>", size), ("<|tool|>", size + 1)]
    assert len(match.renamed) == int(rename)
    assert json.loads((out / "added_tokens.json").read_text()).items() >= added.items()
    assert_proved(match, out, target.path)


def test_vocab_txt_is_renamed_in_place_and_holds_what_it_gains(tmp_path: Path) -> None:
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "cat", "dog"]
    folders = []
    for role in ("base", "tuned", "target"):
        path = tmp_path / role
        path.mkdir()
        own = [line.replace("[unused0]", "[TOOL]") for line in lines] if role == "tuned" else lines
        (path / "vocab.txt").write_text("\n".join(own) + "\n")
        (path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
        folders.append(SidecarFolder(role, f"lab/{role}", path))
    match, out = transfer(tmp_path, folders[0], folders[1], folders[2])
    assert (out / "vocab.txt").read_text() == (folders[1].path / "vocab.txt").read_text()
    assert AutoTokenizer.from_pretrained(out).convert_tokens_to_ids("[TOOL]") == 5 == match.renamed[0].target_id

    (folders[1].path / "vocab.txt").write_text("\n".join([*lines, "zebra"]) + "\n")
    (folders[2].path / "added_tokens.json").write_text('{"[X]": 8}')
    shutil.rmtree(tmp_path / "out")
    match, out = transfer(tmp_path, folders[0], folders[1], folders[2])
    assert [(token.token, token.id) for token in match.added] == [("zebra", 9)]
    assert_proved(match, out, folders[2].path)
    assert bare(AutoTokenizer.from_pretrained(out), "cat [X] zebra") == [6, 8, 9]


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


def test_native_files_that_contradict_the_edited_tokenizer_are_named(tmp_path: Path) -> None:
    target = save(tmp_path / "target", train(), "target")
    (target.path / "tekken.json").write_text("{}")
    assert stale_files(target, TokenChanges(renamed=(("a", "b"),))) == ["tekken.json"]


def test_special_tokens_are_renamed_in_every_form_they_are_written_in() -> None:
    changes = TokenChanges(renamed=(("<|reserved_0|>", "<|im_end|>"),))
    before: dict[str, Any] = {"eos_token": "<|reserved_0|>", "pad_token": {"content": "<|reserved_0|>"}}
    before |= {"additional_special_tokens": ["<|reserved_0|>", "<s>", {"content": "<|reserved_0|>"}], "n": 1}
    assert "reserved" not in json.dumps(rename_everywhere(before, dict(changes.renamed), labels=False))
    assert rename_everywhere("<s>", dict(changes.renamed), labels=False) == "<s>"


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
