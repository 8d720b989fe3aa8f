"""Tokenizers as large as real ones: 128,000 byte-level BPE tokens, 280,147 merges, 256 reserved special tokens.

In comes a seed, out come tokenizer.json and tokenizer_config.json as the tokenizers library itself writes them. The
tokens are random strings; their number, lengths and the sizes of the files are those of Llama 3.2. `inserted` makes the
next version's tokenizer: some tokens new in the middle, so that every later id moves, and as many placeholders fewer.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

MERGED = 128_000  # ids of bytes and merges
MERGES = 280_147
SIZE = 128_256
INSERTED_AT = (50_000, 90_000, 120_000)  # ids of the next version's new tokens
LONGEST = 14
_NAMED = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}


def write_tokenizer(folder: Path, seed: int, inserted: bool = False) -> None:
    """Write the tokenizer's files into ``folder``; ``inserted`` gives the next version's."""
    tokens, merges = _merges(seed)
    reserved = SIZE - MERGED
    if inserted:
        for id in INSERTED_AT:
            tokens.insert(id, f"{tokens[id]}Ċnew{id}")
        reserved -= len(INSERTED_AT)
    specials = [f"<|{_NAMED.get(i, f'reserved_special_token_{i}')}|>" for i in range(reserved)]
    tokenizer = Tokenizer(
        models.BPE({token: id for id, token in enumerate(tokens)}, merges, ignore_merges=True, fuse_unk=False)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    assert tokenizer.get_vocab_size() == SIZE
    tokenizer.save(str(folder / "tokenizer.json"), pretty=True)
    config = {
        "added_tokens_decoder": {
            str(len(tokens) + i): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for i, token in enumerate(specials)
        },
        "bos_token": specials[0],
        "clean_up_tokenization_spaces": True,
        "eos_token": specials[1],
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _merges(seed: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Token strings in the order of their ids, and merges: every token has one, many have several, as in Llama 3."""
    chance = random.Random(seed)
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    known = set(tokens)
    while len(tokens) < MERGED:
        left = tokens[int(len(tokens) * chance.random() ** 4)]  # the earlier a token, the more is built on it
        right = tokens[int(len(tokens) * chance.random() ** 40)]
        token = left + right
        if len(token) <= LONGEST and token not in known:
            known.add(token)
            tokens.append(token)
            merges.append((left, right))
    first = set(merges)
    for token in tokens:
        for cut in range(1, len(token)):
            pair = token[:cut], token[cut:]
            if len(merges) == MERGES:
                return tokens, merges
            if pair not in first and pair[0] in known and pair[1] in known:
                merges.append(pair)
    raise AssertionError(f"only {len(merges)} merges were found")
