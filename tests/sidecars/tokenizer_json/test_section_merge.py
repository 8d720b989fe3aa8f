"""tokenizer.json is merged section by section; the tokenizers library and AutoTokenizer read what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from support.merged_sidecars import content_of, decided, json_of, put, write
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaTokenizer

from tuneport.errors import FLAGS
from tuneport.pairing.vocabulary import NewTokens, match_vocabulary, read_vocabularies
from tuneport.sidecars.merge import Sidecars, merge_sidecars
from tuneport.sidecars.three_way import Three
from tuneport.tokenizer.json_sections import locate_sections

PIECES = ["<unk>", "a", "b", "c"]
SPECIAL = ["<s>", "</s>"]
A, B = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}
PAD = {
    "strategy": "BatchLongest",
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 4,
    "pad_type_id": 0,
    "pad_token": "<s>",
}
CUT = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
LOWER, WORDS = {"type": "Lowercase"}, {"type": "WhitespaceSplit"}
SPLIT = {"type": "Split", "pattern": {"String": ","}, "behavior": "Removed", "invert": False}


def tokenizer(
    pieces: list[str] = PIECES, special: list[str] = SPECIAL, model: Mapping[str, Any] | None = None, **sections: Any
) -> dict[str, Any]:
    """A tokenizer.json of whole words, its special tokens behind them."""
    ids = {piece: id for id, piece in enumerate([*pieces, *special])}
    entry = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[token], "content": token, **entry} for token in special],
        "normalizer": None,
        "pre_tokenizer": WORDS,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {p: ids[p] for p in pieces}, "unk_token": "<unk>", **(model or {})},
        **sections,
    }


def ending(id: int, token: str = "</s>") -> dict[str, Any]:
    """A post-processor that ends every text with one token."""
    last = {"SpecialToken": {"id": token, "type_id": 0}}
    tokens = {token: {"id": token, "ids": [id], "tokens": [token]}}
    return {"type": "TemplateProcessing", "single": [A, last], "pair": [A, B, last], "special_tokens": tokens}


def merged(
    root: Path,
    base: dict[str, Any],
    tuned: dict[str, Any],
    target: dict[str, Any],
    settings: tuple[Mapping[str, Any], ...] = ({}, {}, {}),
    config: Mapping[str, str] | None = None,
    sidecar: Mapping[str, str] | None = None,
    vocabulary: Literal["strings", "positions"] | None = None,
    new_tokens: NewTokens = "append",
) -> Sidecars:
    """Three tokenizers, matched and merged as a transfer does."""
    base_folder, tuned_folder, target_folder = (
        write(root / name, {"config.json": {}, "tokenizer.json": document, "tokenizer_config.json": dict(more)})
        for name, document, more in zip(("base", "tuned", "target"), (base, tuned, target), settings, strict=True)
    )
    folders = base_folder, tuned_folder, target_folder
    match = match_vocabulary(read_vocabularies(folders, vocabulary), (64, 64, 64), new_tokens)
    return merge_sidecars(Three(*folders), match.names, config or {}, sidecar or {}, None, {})


def written(sidecars: Sidecars) -> Tokenizer:
    """The output's tokenizer, as the library reads it."""
    return Tokenizer.from_str(content_of(sidecars, "tokenizer.json").decode())


def test_a_post_processor_that_the_fine_tuning_added_comes_with_the_outputs_ids(tmp_path: Path) -> None:
    target = tokenizer(["<new>", *PIECES], truncation=None)
    sidecars = merged(tmp_path, tokenizer(), tokenizer(post_processor=ending(5)), target)
    assert written(sidecars).encode("a b").tokens == ["a", "b", "</s>"]
    assert written(sidecars).encode("a b").ids == [2, 3, 6]
    assert AutoTokenizer.from_pretrained(put(sidecars, tmp_path / "out"))("a b")["input_ids"] == [2, 3, 6]
    assert decided(sidecars, "tokenizer.post_processor") == "tuned" and not sidecars.warnings


def test_only_the_section_changes_where_nothing_else_does(tmp_path: Path) -> None:
    sidecars = merged(tmp_path, tokenizer(), tokenizer(post_processor=ending(5)), tokenizer())
    assert json_of(sidecars, "tokenizer.json") == tokenizer(post_processor=ending(5))
    before, after = (content_of(sidecars, "tokenizer.json"), (tmp_path / "target" / "tokenizer.json").read_bytes())
    assert before.split(b'"post_processor"')[0] == after.split(b'"post_processor"')[0]


@pytest.mark.parametrize("kind", ["BertProcessing", "RobertaProcessing"])
def test_pairs_of_token_and_id_are_carried_by_the_token(kind: str, tmp_path: Path) -> None:
    pairs = {"sep": ["</s>", 5], "cls": ["<s>", 4]} | (
        {"trim_offsets": True, "add_prefix_space": False} if kind == "RobertaProcessing" else {}
    )
    target = tokenizer(["<new>", *PIECES])
    sidecars = merged(tmp_path, tokenizer(), tokenizer(post_processor={"type": kind, **pairs}), target)
    assert written(sidecars).encode("a").ids == [5, 2, 6]


def test_padding_is_carried_by_its_token_and_told_where_it_has_a_fixed_length(tmp_path: Path) -> None:
    target = tokenizer(["<new>", *PIECES])
    sidecars = merged(tmp_path, tokenizer(), tokenizer(padding=PAD), target)
    assert [one.ids for one in written(sidecars).encode_batch(["a b", "a"])] == [[2, 3], [2, 5]]
    assert not sidecars.warnings
    fixed = tokenizer(padding=PAD | {"strategy": {"Fixed": 4}})
    sidecars = merged(tmp_path / "2", tokenizer(), fixed, target)
    assert written(sidecars).encode("a").ids == [2, 5, 5, 5]
    assert "--config tokenizer.padding=target" in FLAGS.message(sidecars.warnings[0])


def test_a_truncation_left_by_a_training_run_comes_with_a_warning_that_says_how_to_leave_it(tmp_path: Path) -> None:
    parents = tokenizer(), tokenizer(truncation=CUT), tokenizer()
    sidecars = merged(tmp_path, *parents)
    assert written(sidecars).encode("a b c").tokens == ["a", "b"]
    assert "after 2 tokens" in sidecars.warnings[0]
    for side, length in (("target", 3), ("tuned", 2)):
        sidecars = merged(tmp_path / side, *parents, config={"tokenizer.truncation": side})
        assert len(written(sidecars).encode("a b c")) == length and not sidecars.warnings


def test_what_the_target_changed_stays_and_what_the_fine_tuning_changed_comes(tmp_path: Path) -> None:
    target = tokenizer(pre_tokenizer=SPLIT)
    sidecars = merged(tmp_path, tokenizer(), tokenizer(normalizer=LOWER, post_processor=ending(5)), target)
    assert written(sidecars).encode("A,b").tokens == ["a", "b", "</s>"]
    choices = {name: decided(sidecars, f"tokenizer.{name}") for name in ("normalizer", "pre_tokenizer")}
    assert choices == {"normalizer": "tuned", "pre_tokenizer": "target"}


def test_a_section_that_the_fine_tuning_took_away_goes(tmp_path: Path) -> None:
    old = tokenizer(normalizer=LOWER, post_processor=ending(5))
    sidecars = merged(tmp_path, old, tokenizer(), old | {"decoder": {"type": "Fuse"}})
    assert written(sidecars).encode("A b").tokens == ["<unk>", "b"]


def test_two_changes_of_one_section_stop_and_the_choice_that_is_named_decides(tmp_path: Path) -> None:
    parents = tokenizer(), tokenizer(pre_tokenizer=SPLIT), tokenizer(pre_tokenizer={"type": "Whitespace"})
    refusal = merged(tmp_path, *parents).refusals[0]
    assert "base WhitespaceSplit; tuned Split" in refusal and "target Whitespace." in refusal
    assert "`pre_tokenizer`" in refusal and "--config tokenizer.pre_tokenizer=base|tuned|target" in FLAGS.message(
        refusal
    )
    for side, tokens in (("tuned", ["a", "b"]), ("target", ["a", "<unk>", "b"]), ("base", ["<unk>"])):
        sidecars = merged(tmp_path / side, *parents, config={"tokenizer.pre_tokenizer": side})
        assert not sidecars.refusals and written(sidecars).encode("a,b").tokens == tokens
        whole = merged(tmp_path / "whole" / side, *parents, sidecar={"tokenizer.json": side})
        assert not whole.refusals and written(whole).encode("a,b").tokens == tokens


def test_the_same_change_on_both_sides_is_no_conflict(tmp_path: Path) -> None:
    with_bytes = {"type": "Sequence", "processors": [{**ending(6)}]}
    sidecars = merged(
        tmp_path,
        tokenizer(),
        tokenizer(post_processor=ending(5)),
        tokenizer(["<new>", *PIECES], post_processor=with_bytes),
    )
    assert isinstance(sidecars.files["tokenizer.json"], Path) and not sidecars.refusals


def test_a_section_may_name_a_token_that_only_the_tuned_model_has(tmp_path: Path) -> None:
    tuned = tokenizer(special=[*SPECIAL, "<end>"], post_processor=ending(6, "<end>"))
    target = tokenizer(["<new>", *PIECES])
    assert written(merged(tmp_path, tokenizer(), tuned, target)).encode("a").ids == [2, 7]
    dropped = merged(tmp_path / "2", tokenizer(), tuned, target, new_tokens="drop")
    assert "'<end>'" in dropped.refusals[0] and "--config tokenizer.post_processor=target" in FLAGS.message(
        dropped.refusals[0]
    )
    choice = {"tokenizer.post_processor": "target"}
    dropped = merged(tmp_path / "3", tokenizer(), tuned, target, new_tokens="drop", config=choice)
    assert not dropped.refusals and written(dropped).encode("a").ids == [2]


def test_a_token_renamed_in_place_is_no_change_of_the_sections_that_name_it(tmp_path: Path) -> None:
    base = tokenizer(special=["<s>", "<r0>"], post_processor=ending(5, "<r0>"))
    tuned = tokenizer(special=["<s>", "<end>"], post_processor=ending(5, "<end>"))
    target = tokenizer(special=["<s>", "<r0>"], post_processor=ending(5, "<r0>"), normalizer=LOWER)
    sidecars = merged(tmp_path, base, tuned, target)
    assert written(sidecars).encode("A").tokens == ["a", "<end>"]
    assert not sidecars.refusals
    assert "tokenizer.post_processor" not in {one.subject for one in sidecars.decisions}


def bpe(merges: Any = (("a", "b"),), pieces: tuple[str, ...] = ("a", "b", "c", "ab"), **options: Any) -> dict[str, Any]:
    return tokenizer(
        pre_tokenizer=None,
        model={
            "type": "BPE",
            "vocab": {piece: id for id, piece in enumerate(["<unk>", *pieces, "<0x21>"])},
            "merges": [list(merge) if isinstance(merge, tuple) else merge for merge in merges],
            **options,
        },
        pieces=["<unk>", *pieces, "<0x21>"],
    )


def test_options_of_the_model_are_merged_one_by_one(tmp_path: Path) -> None:
    base = bpe(unk_token="<unk>")
    tuned = bpe(unk_token="<unk>", byte_fallback=True)
    target = bpe(unk_token="<unk>", fuse_unk=True)
    sidecars = merged(tmp_path, base, tuned, target)
    assert written(sidecars).encode("ab!??").tokens == ["ab", "<0x21>", "<unk>"]
    assert decided(sidecars, "tokenizer.model.byte_fallback") == "tuned"
    assert decided(sidecars, "tokenizer.model.fuse_unk") == "target"
    choice = {"tokenizer.model.byte_fallback": "target"}
    assert written(merged(tmp_path / "2", base, tuned, target, config=choice)).encode("!").tokens == ["<unk>"]


def test_an_option_that_the_targets_file_does_not_spell_is_written_into_it(tmp_path: Path) -> None:
    sidecars = merged(tmp_path, bpe(), bpe(ignore_merges=True, merges=()), bpe(normalizer=LOWER))
    assert json.loads(written(sidecars).to_str())["model"]["ignore_merges"] is True
    assert locate_sections(content_of(sidecars, "tokenizer.json"), "out").model_member("ignore_merges") is True


def test_defaults_written_out_and_merges_spelled_in_another_way_are_no_change(tmp_path: Path) -> None:
    spelled = bpe(
        merges=("a b",),
        dropout=None,
        unk_token=None,
        continuing_subword_prefix="",
        end_of_word_suffix=None,
        fuse_unk=False,
        byte_fallback=False,
        ignore_merges=False,
    )
    old = bpe()
    del old["model"]["unk_token"]
    sidecars = merged(tmp_path, old, spelled, old)
    assert sidecars.files["tokenizer.json"] == tmp_path / "target" / "tokenizer.json" and not sidecars.warnings


def test_merges_that_the_fine_tuning_changed_are_told_new_ones_of_new_pieces_are_carried(tmp_path: Path) -> None:
    old = bpe((("a", "b"), ("b", "c")), ("a", "b", "c", "ab", "bc"))
    turned = bpe((("b", "c"), ("a", "b")), ("a", "b", "c", "ab", "bc"))
    assert "changed the merges" in merged(tmp_path, old, turned, old).warnings[0]
    assert not merged(tmp_path / "2", old, turned, turned | {"normalizer": LOWER}).warnings
    more = bpe((("ab", "c"), ("a", "b"), ("b", "c")), ("a", "b", "c", "ab", "bc", "abc"))
    assert not merged(tmp_path / "3", old, more, old).warnings


def unigram(pieces: list[tuple[str, float]], unk_id: int | None = 0, **options: Any) -> dict[str, Any]:
    vocab = [list(pair) for pair in pieces]
    return tokenizer(
        [piece for piece, _ in pieces],
        pre_tokenizer=None,
        model={"type": "Unigram", "vocab": vocab, "unk_id": unk_id, "byte_fallback": False, **options},
    )


def test_the_unknown_piece_of_a_unigram_model_is_carried_by_its_string(tmp_path: Path) -> None:
    pieces = [("<unk>", 0.0), ("a", -1.0), ("?", -2.0)]
    base, tuned = unigram(pieces), unigram(pieces, unk_id=2)
    target = unigram([("b", -3.0), *pieces])
    sidecars = merged(tmp_path, base, tuned, target | {"model": target["model"] | {"unk_id": 1}})
    assert json_of(sidecars, "tokenizer.json")["model"]["unk_id"] == 3
    sidecars = merged(tmp_path / "2", base, base, target | {"model": target["model"] | {"unk_id": 1}})
    assert json_of(sidecars, "tokenizer.json")["model"]["unk_id"] == 1
    rescored = unigram([("<unk>", 0.0), ("a", -9.0), ("?", -2.0)])
    assert "changed the scores" in merged(tmp_path / "3", base, rescored, base).warnings[0]


def test_a_model_of_another_kind_has_other_options_and_says_so(tmp_path: Path) -> None:
    pieces = ["<unk>", "a", "b", "c", "ab", "<0x21>"]
    assert "'tuned'" not in str(merged(tmp_path, tokenizer(pieces), tokenizer(pieces), bpe()).warnings)
    warnings = merged(tmp_path / "2", tokenizer(pieces), bpe(), tokenizer(pieces)).warnings
    assert "different kinds" in warnings[0] and '"BPE"' in warnings[0]


def test_a_target_without_tokenizer_json_loses_what_the_fine_tuning_changed_with_a_warning(tmp_path: Path) -> None:
    vocabulary = {**{piece: id for id, piece in enumerate(PIECES)}, "<s>": 4, "</s>": 5}
    folders = (
        write(tmp_path / "base", {"config.json": {}, "tokenizer.json": tokenizer()}),
        write(tmp_path / "tuned", {"config.json": {}, "tokenizer.json": tokenizer(post_processor=ending(5))}),
        write(tmp_path / "target", {"config.json": {}, "vocab.json": vocabulary, "merges.txt": ""}),
    )
    match = match_vocabulary(read_vocabularies(folders), (64, 64, 64))
    sidecars = merge_sidecars(Three(*folders), match.names, {}, {}, None, {})
    assert "post_processor" in sidecars.warnings[0]


def test_positions_merge_sections_by_their_ids(tmp_path: Path) -> None:
    tuned = tokenizer(post_processor=ending(5))
    sidecars = merged(tmp_path, tokenizer(), tuned, tokenizer(normalizer=LOWER), vocabulary="positions")
    assert written(sidecars).encode("A").tokens == ["a", "</s>"]


def test_a_tokenizer_that_a_class_of_transformers_5_saved_again_is_not_changed(tmp_path: Path) -> None:
    pieces = ["<unk>", "<s>", "</s>", "▁", "a", "▁a"]
    prepend = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    old = tokenizer(
        pieces,
        special=["<unk>", "<s>", "</s>"],
        pre_tokenizer=None,
        normalizer={"type": "Sequence", "normalizers": prepend},
        model={
            "type": "BPE",
            "vocab": {piece: id for id, piece in enumerate(pieces)},
            "merges": ["▁ a"],
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
        },
    )
    for entry in old["added_tokens"]:
        entry["id"] = pieces.index(entry["content"])
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "bos_token": "<s>", "eos_token": "</s>"}
    folder = write(tmp_path / "old", {"tokenizer.json": old, "tokenizer_config.json": settings}).path
    saved = AutoTokenizer.from_pretrained(folder)
    assert isinstance(saved, LlamaTokenizer)
    saved.save_pretrained(tmp_path / "new")
    new = json.loads((tmp_path / "new" / "tokenizer.json").read_text())
    assert new["normalizer"] != old["normalizer"] and new["pre_tokenizer"] != old["pre_tokenizer"]
    theirs = json.loads((tmp_path / "new" / "tokenizer_config.json").read_text())
    target = old | {"decoder": {"type": "Fuse"}}
    sidecars = merged(tmp_path, old, new, target, (settings, theirs, settings))
    assert sidecars.files["tokenizer.json"] == tmp_path / "target" / "tokenizer.json"
    assert sidecars.files["tokenizer_config.json"] == tmp_path / "target" / "tokenizer_config.json"
    tuned_on = new | {"normalizer": LOWER}
    assert (
        decided(merged(tmp_path / "2", old, tuned_on, target, (settings, theirs, settings)), "tokenizer.normalizer")
        == "tuned"
    )


def test_a_lowercase_that_the_fine_tuning_switched_comes_in_both_files(tmp_path: Path) -> None:
    def bert(lowercase: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        strip = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
        normalizer = {"type": "BertNormalizer", "lowercase": lowercase, **strip}
        model = {"type": "WordPiece", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
        return tokenizer(["<unk>", "a", "b", "A"], normalizer=normalizer, model=model), {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": lowercase,
            "backend": "tokenizers",
        }

    (old, before), (new, after) = bert(True), bert(False)
    sidecars = merged(tmp_path, old, new, old | {"decoder": {"type": "Fuse"}}, (before, after, before))
    assert written(sidecars).encode("A b").tokens == ["A", "b"]
    assert json_of(sidecars, "tokenizer_config.json")["do_lower_case"] is False


def test_a_post_processor_comes_with_the_settings_that_would_replace_it(tmp_path: Path) -> None:
    old = {"add_bos_token": True, "add_eos_token": False, "eos_token": "</s>"}
    tuned = tokenizer(post_processor=ending(5))
    sidecars = merged(tmp_path, tokenizer(), tuned, tokenizer(), (old, {"eos_token": "</s>"}, old))
    assert json_of(sidecars, "tokenizer_config.json") == {"eos_token": "</s>"}
    said = {**old, "add_bos_token": False, "add_eos_token": True}
    sidecars = merged(tmp_path / "2", tokenizer(), tuned, tokenizer(), (old, said, old))
    assert json_of(sidecars, "tokenizer_config.json") == said


def test_a_section_nested_without_end_is_an_error_in_words(tmp_path: Path) -> None:
    deep: Any = {"type": "NFC"}
    for _ in range(100):
        deep = {"type": "Sequence", "normalizers": [deep]}
    with pytest.raises(Exception, match="nested more than"):
        merged(tmp_path, tokenizer(), tokenizer(normalizer=deep), tokenizer())
