"""An added token keeps the flags of the side it came from, in every file that spells them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.merged_sidecars import content_of, decided, json_of, put
from transformers import AutoTokenizer

from sidecars.tokenizer_json.test_section_merge import merged, tokenizer
from tuneport import errors
from tuneport.sidecars.merge import Sidecars

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def flagged(special: list[str], flags: dict[str, dict[str, bool]], **more: Any) -> dict[str, Any]:
    """A tokenizer whose special tokens have other flags."""
    document = tokenizer(special=special, **more)
    for entry in document["added_tokens"]:
        entry |= flags.get(entry["content"], {})
    return document


def settings(document: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A tokenizer_config.json of version 4 beside it."""
    decoder = {str(one["id"]): {k: v for k, v in one.items() if k != "id"} for one in document["added_tokens"]}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": decoder, **more}


def flags_of(sidecars: Sidecars, token: str) -> list[dict[str, bool]]:
    """A token's flags as each file spells them."""
    entries = json_of(sidecars, "tokenizer.json")["added_tokens"]
    entries += json_of(sidecars, "tokenizer_config.json").get("added_tokens_decoder", {}).values()
    return [{flag: entry[flag] for flag in FLAGS} for entry in entries if entry["content"] == token]


def test_a_token_that_takes_a_special_ones_slot_stays_plain_in_every_file(tmp_path: Path) -> None:
    old, new = tokenizer(special=["</s>", "<box>"]), flagged(["</s>", "<think>"], {"<think>": {"special": False}})
    listed = {"additional_special_tokens": ["<box>"], "eos_token": "</s>"}
    before, after = settings(old, **listed), settings(new, eos_token="</s>")
    sidecars = merged(tmp_path, old, new, old, (before, after, before))
    assert json_of(sidecars, "tokenizer_config.json")["additional_special_tokens"] == []
    assert [one["special"] for one in flags_of(sidecars, "<think>")] == [False, False]
    out, tuned = (AutoTokenizer.from_pretrained(path) for path in (put(sidecars, tmp_path / "out"), tmp_path / "tuned"))
    assert out.decode([5, 1, 4], skip_special_tokens=True) == tuned.decode([5, 1, 4], skip_special_tokens=True)
    assert "<think>" in out.decode([5], skip_special_tokens=True)


def test_a_choice_that_makes_a_plain_token_special_is_refused_and_the_named_one_is_not(tmp_path: Path) -> None:
    old, new = tokenizer(special=["</s>", "<box>"]), flagged(["</s>", "<think>"], {"<think>": {"special": False}})
    before, after = settings(old, additional_special_tokens=["<box>"]), settings(new)
    name = "tokenizer.additional_special_tokens"
    refused = merged(tmp_path, old, new, old, (before, after, before), config={name: "target"})
    assert "'<think>'" in refused.refusals[0] and f"--config {name}=tuned" in errors.FLAGS.message(refused.refusals[0])
    assert not merged(tmp_path / "2", old, new, old, (before, after, before), config={name: "tuned"}).refusals
    role = settings(old, pad_token="<box>")
    refused = merged(tmp_path / "3", old, new, old, (role, after, role))
    assert "--config tokenizer.pad_token=tuned" in errors.FLAGS.message(refused.refusals[0])
    sidecars = merged(tmp_path / "4", old, new, old, (role, after, role), config={"tokenizer.pad_token": "tuned"})
    assert not sidecars.refusals and "pad_token" not in json_of(sidecars, "tokenizer_config.json")


def test_flags_that_the_fine_tuning_changed_come_and_those_of_the_target_stay(tmp_path: Path) -> None:
    old = tokenizer()
    new, target = (
        flagged(["<s>", "</s>"], {"</s>": {"lstrip": True}}),
        flagged(["<s>", "</s>"], {"</s>": {"rstrip": True}}),
    )
    sidecars = merged(tmp_path, old, new, target, (settings(old), settings(new), settings(target)))
    both = {"single_word": False, "lstrip": True, "rstrip": True, "normalized": False, "special": True}
    assert flags_of(sidecars, "</s>") == [both, both]
    assert decided(sidecars, "tokenizer.added_tokens") == "tuned" and not sidecars.refusals
    kept = {"tokenizer.added_tokens": "target"}
    sidecars = merged(tmp_path / "2", old, new, target, (settings(old), settings(new), settings(target)), config=kept)
    assert sidecars.files["tokenizer.json"] == tmp_path / "2" / "target" / "tokenizer.json"


def test_flags_that_only_tokenizer_config_changed_come_with_a_tokenizer_json_of_the_same_bytes(tmp_path: Path) -> None:
    old = tokenizer()
    after = settings(flagged(["<s>", "</s>"], {"</s>": {"special": False}}))
    sidecars = merged(tmp_path, old, old, old, (settings(old), after, settings(old)))
    assert [one["special"] for one in flags_of(sidecars, "</s>")] == [False, False]
    silent = merged(tmp_path / "2", old, old, old, (settings(old), {}, settings(old)))
    assert all(isinstance(content, Path) for content in silent.files.values())


def test_a_token_that_a_list_makes_special_is_not_changed_by_a_file_that_says_so_itself(tmp_path: Path) -> None:
    old, new = flagged(["<s>", "</s>"], {"</s>": {"special": False}}), tokenizer()
    listed = settings(old, additional_special_tokens=["</s>"])
    sidecars = merged(tmp_path, old, new, old, (listed, {"tokenizer_class": "PreTrainedTokenizerFast"}, listed))
    assert all(isinstance(content, Path) for content in sidecars.files.values()), sidecars.decisions
    unlisted = merged(tmp_path / "2", old, new, old, (settings(old), settings(new), settings(old)))
    assert [one["special"] for one in flags_of(unlisted, "</s>")] == [True, True]


def test_a_piece_that_the_fine_tuning_made_an_added_token_is_one_in_the_output(tmp_path: Path) -> None:
    new = tokenizer()
    new["added_tokens"].insert(0, new["added_tokens"][0] | {"id": 3, "content": "c", "special": False})
    target = tokenizer(["<new>", "<unk>", "a", "b", "c"])
    sidecars = merged(tmp_path, tokenizer(), new, target)
    entry = next(one for one in json_of(sidecars, "tokenizer.json")["added_tokens"] if one["content"] == "c")
    assert (entry["id"], entry["special"]) == (4, False)
    back = merged(tmp_path / "2", new, tokenizer(), new)
    assert "no longer lists" in back.warnings[0] and isinstance(back.files["tokenizer.json"], Path)


def test_a_token_that_both_versions_added_with_other_flags_stops_and_the_choice_decides(tmp_path: Path) -> None:
    names = ["<s>", "</s>", "<x>"]
    new, target = flagged(names, {"<x>": {"special": False}}), flagged(names, {})
    refused = merged(tmp_path, tokenizer(), new, target)
    assert "'<x>'" in refused.refusals[
        0
    ] and "--config tokenizer.added_tokens=base|tuned|target" in errors.FLAGS.message(refused.refusals[0])
    for side, special in (("tuned", False), ("target", True)):
        choice = {"tokenizer.added_tokens": side}
        sidecars = merged(tmp_path / side, tokenizer(), new, target, config=choice)
        assert not sidecars.refusals and [one["special"] for one in flags_of(sidecars, "<x>")] == [special]


def test_objects_that_spell_a_special_token_keep_their_flags_in_step(tmp_path: Path) -> None:
    old, new = tokenizer(special=["</s>", "<r0>"]), flagged(["</s>", "<end>"], {"<end>": {"rstrip": True}})
    entry = {"content": "<r0>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    before = settings(old, pad_token=entry)
    sidecars = merged(tmp_path, old, new, old, (before, settings(new), before))
    assert json_of(sidecars, "tokenizer_config.json")["pad_token"] == entry | {"content": "<end>", "rstrip": True}
    assert "<r0>" not in content_of(sidecars, "tokenizer_config.json").decode()
