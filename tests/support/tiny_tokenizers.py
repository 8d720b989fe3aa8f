"""Real tokenizers of a few hundred tokens, laid out as those of model families are.

In come the special tokens of a version, out comes a tokenizer.json document: byte-level (Llama 3, Qwen, OLMo 2, GPT-2),
with special tokens behind the vocabulary, or SentencePiece-like (Mistral, Gemma, Phi-3), with special tokens before it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = [
    "the quick brown fox jumps over the lazy dog",
    "a model of language is carried from one version to another version of the model",
    "subtract, add, evaluate, fine-tune, repeat",
]
SAMPLES = [*TEXT, "naïve 猫 🐈\n\t two  spaces", "THE QUICK", ""]
SPACE = "\u2581"


@functools.cache
def _byte_level_pieces() -> str:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return str(tokenizer.to_str())


@functools.cache
def _sentencepiece_like_pieces() -> str:
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    trainer = trainers.BpeTrainer(vocab_size=120, show_progress=False)
    tokenizer.train_from_iterator([text.replace(" ", SPACE) for text in TEXT * 3], trainer)
    return str(tokenizer.to_str())


def byte_level(special: Sequence[str], start: str | None = None, *, first: bool = False) -> dict[str, Any]:
    """Special tokens get the ids behind the pieces; ``first``: those before them, as GPT-NeoX and OLMo have some."""
    document: dict[str, Any] = json.loads(_byte_level_pieces())
    pieces = document["model"]["vocab"]
    shift = len(special) if first else 0
    document["model"]["vocab"] = {piece: id + shift for piece, id in pieces.items()}
    if first:
        document["model"]["vocab"] |= {token: id for id, token in enumerate(special)}
    offset = 0 if first else len(pieces)
    document["added_tokens"] = [_entry(token, offset + place) for place, token in enumerate(special)]
    if start is not None:
        template = processors.TemplateProcessing(
            single=f"{start} $A", pair=f"{start} $A {start} $B", special_tokens=[(start, offset + special.index(start))]
        )
        document["post_processor"] = _as_json(template)
    return document


def sentencepiece_like(special: Sequence[str], start: str = "<s>", unlisted: Sequence[str] = ()) -> dict[str, Any]:
    """Special tokens stand before the byte pieces; ``unlisted`` ones are in the vocabulary only."""
    document: dict[str, Any] = json.loads(_sentencepiece_like_pieces())
    pieces = sorted(document["model"]["vocab"], key=document["model"]["vocab"].__getitem__)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    everything = [*special, *unlisted, *bytes_, *pieces]
    document["model"]["vocab"] = {piece: id for id, piece in enumerate(everything)}
    document["added_tokens"] = [_entry(token, id) for id, token in enumerate(special)]
    template = processors.TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A {start} $B", special_tokens=[(start, special.index(start))]
    )
    document["post_processor"] = _as_json(template)
    decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(document))
    tokenizer.decoder = decoder
    return dict(json.loads(tokenizer.to_str()))


def write_tokenizer(folder: Path, document: dict[str, Any], config: dict[str, Any], *, plain: bool = False) -> None:
    """tokenizer.json and tokenizer_config.json as the makers upload them; ``plain``: vocab.json and merges.txt too."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False, indent=2), encoding="utf-8")
    listed = {
        str(entry["id"]): {key: value for key, value in entry.items() if key != "id"}
        for entry in document["added_tokens"]
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": listed, **config}, ensure_ascii=False, indent=2), encoding="utf-8"
    )
    if plain:
        model = document["model"]
        (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
        merges = [" ".join(merge) for merge in model["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def vocabulary(document: dict[str, Any]) -> dict[str, int]:
    """Ids by string, as the tokenizers library has them."""
    return dict(tokenizers.Tokenizer.from_str(json.dumps(document)).get_vocab())


def _entry(token: str, id: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": id, "content": token, **flags}


def _as_json(part: Any) -> dict[str, Any]:
    carrier = tokenizers.Tokenizer(models.BPE())
    carrier.post_processor = part
    return dict(json.loads(carrier.to_str())["post_processor"])
