"""Edits of vocab.json, vocab.txt and the settings beside tokenizer.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from support.edited_tokenizers import assert_proved, bare, renamed, save, train, transfer
from transformers import AutoTokenizer

from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.tokenizer.edit import stale_files
from tuneport.tokenizer.token_changes import TokenChanges, rename_everywhere
from tuneport.tokenizer.tokenizer import read_tokenizer


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
