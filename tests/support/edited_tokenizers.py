"""Trained tokenizers of three models, their transfer, and the proof that what was written is what was meant."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.pairing.vocabulary import VocabularyMatch, match_vocabulary, read_vocabularies
from tuneport.tokenizer.edit import edit_tokenizer
from tuneport.tokenizer.token_changes import edit_added_tokens_decoder, rename_everywhere
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
