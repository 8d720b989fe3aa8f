"""Every special token that a written tokenizer names is one of its tokens, or it is a reason to stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sidecars.tokenizer_json.test_section_merge import tokenizer, unigram
from support.merged_sidecars import merge, model, put

from tuneport.errors import FLAGS
from tuneport.tokenizer.consistency import tokenizer_faults, tokenizer_in_a_folder


def words(*arguments: Any) -> list[str]:
    return [fault.in_words() for fault in tokenizer_faults(*arguments)]


def files(document: dict[str, Any] | None = None, **more: Any) -> dict[str, bytes]:
    contents = {"tokenizer.json": document or tokenizer(), **{k.replace("__", "."): v for k, v in more.items()}}
    return {name: json.dumps(content).encode() for name, content in contents.items()}


@pytest.mark.parametrize(
    "document",
    [tokenizer(), unigram([("<unk>", 0.0), ("a", -1.0), ("b", -1.0), ("c", -1.0)])],
    ids=["words", "unigram"],
)
def test_a_named_token_is_an_added_one_or_stands_in_the_vocabulary(document: dict[str, Any]) -> None:
    named = {"eos_token": "</s>", "pad_token": {"content": "a"}, "additional_special_tokens": ["<s>", "b"]}
    assert tokenizer_faults(files(document, tokenizer_config__json=named, special_tokens_map__json=named)) == []
    faults = words(files(document, tokenizer_config__json={**named, "eos_token": "<gone>"}))
    assert len(faults) == 1 and "'<gone>'" in faults[0] and "--config tokenizer.eos_token=" in FLAGS.message(faults[0])
    faults = words(files(document, special_tokens_map__json={"additional_special_tokens": ["<gone>"]}))
    assert len(faults) == 1 and "special_tokens_map.json" in faults[0]


def test_tokens_that_older_files_add_are_there_and_have_one_id() -> None:
    entry = {"content": "<more>", "special": True}
    named = {"pad_token": "<more>", "added_tokens_decoder": {"6": entry}}
    assert tokenizer_faults(files(tokenizer_config__json=named)) == []
    assert (
        tokenizer_faults(files(tokenizer_config__json={"pad_token": "<more>"}, added_tokens__json={"<more>": 6})) == []
    )
    faults = words(files(tokenizer_config__json=named, added_tokens__json={"<more>": 7}))
    assert faults == ["the token '<more>' has another id in added_tokens.json than in tokenizer_config.json"]


def test_a_plain_token_may_not_be_named() -> None:
    named = {"additional_special_tokens": ["<s>"]}
    assert tokenizer_faults(files(tokenizer_config__json=named)) == []
    assert "'<s>'" in words(files(tokenizer_config__json=named), {"<s>"})[0]


def test_what_the_target_itself_names_and_lacks_is_noted_and_stops_nothing(tmp_path: Path) -> None:
    wart = {"tokenizer_config__json": {"mask_token": "<mask>"}}
    sidecars = merge(tmp_path, model(**wart), model(**wart), model(**wart))
    noted = [{"kind": "not there", "token": "<mask>", "file": "tokenizer_config.json", "place": "mask_token"}]
    assert not sidecars.refusals and not sidecars.warnings and sidecars.noted["tokenizer_faults"] == noted
    folder = put(sidecars, tmp_path / "out")
    assert tokenizer_in_a_folder(folder, noted) == []
    assert "'<mask>'" in tokenizer_in_a_folder(folder, None)[0]
