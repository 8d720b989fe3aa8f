"""Rows are matched by token string; what is renamed, added, kept or lost is listed, and doubt stops the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.matched_vocabularies import ROLES, WORDS, match, matched, table

from tuneport.checkpoint.small_files import SidecarFolder
from tuneport.errors import CheckpointError, PairingError
from tuneport.pairing.vocabulary import is_placeholder


def empty(path: Path, **files: str) -> list[SidecarFolder]:
    """Three folders with the same files, `__` standing for the dot."""
    folders = []
    for role in ROLES:
        (path / role).mkdir(parents=True)
        for name, content in files.items():
            (path / role / name.replace("__", ".")).write_text(content)
        folders.append(SidecarFolder(role, f"lab/{role}", path / role))
    return folders


# Positions


def test_identical_tokenizers_match_by_position_and_are_not_parsed(tmp_path: Path) -> None:
    found = matched(empty(tmp_path, tokenizer__json="no JSON at all"), (5, 6, 8))
    assert found.how == "identical" and found.tokenizers is None and not found.changes
    assert table(found.rows(5, 6, 8)) == [(row, row, row) if row < 5 else (row, -1, -1) for row in range(8)]
    assert table(found.rows(9, 9, 2)) == [(0, 0, 0), (1, 1, 1)]


def test_unreadable_tokenizers_match_by_position_where_files_and_shapes_agree(tmp_path: Path) -> None:
    folders = empty(tmp_path, tokenizer__model="spm")
    found = matched(folders, (3, 3, 3))
    assert found.how == "identical" and found.matched == 3
    with pytest.raises(PairingError, match=r'3 \(base\), 3 \(tuned\), 4 \(target\).*strings.*vocabulary="positions"'):
        matched(folders, (3, 3, 4))
    with pytest.raises(PairingError, match=r"(?s)3 tokenizers.*base.*only tokenizer\.model.*tuned.*target"):
        matched(folders, (3, 3, 3), vocabulary="strings")
    (tmp_path / "target" / "tokenizer.model").write_text("another")
    with pytest.raises(PairingError, match=r'vocabulary="strings".*vocabulary="positions"'):
        matched(folders, (3, 3, 3))
    forced = matched(folders, (3, 3, 4), vocabulary="positions")
    assert forced.how == "positions" and table(forced.rows(3, 3, 4))[2:] == [(2, 2, 2), (3, -1, -1)]


def test_folders_of_weights_only_match_by_position_where_shapes_agree(tmp_path: Path) -> None:
    folders = empty(tmp_path)
    assert matched(folders, (3, 3, 3)).how == "positions"
    with pytest.raises(PairingError, match="None of the three folders has tokenizer files"):
        matched(folders, (3, 4, 3))


def test_a_tokenizer_that_only_one_model_lacks_stops_the_run(tmp_path: Path) -> None:
    folders = empty(tmp_path, tokenizer__json=json.dumps({"model": {"type": "WordLevel", "vocab": {"a": 0}}}))
    (tmp_path / "tuned" / "tokenizer.json").unlink()
    with pytest.raises(PairingError, match=r"tuned lab/tuned has no tokenizer files"):
        matched(folders, (3, 3, 3))


def test_every_tokenizer_that_cannot_be_read_is_listed_at_once(tmp_path: Path) -> None:
    folders = empty(tmp_path, tokenizer__json="{}")
    (tmp_path / "tuned" / "tokenizer.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"(?s)3 tokenizers.*lab/base.*lab/tuned.*lab/target"):
        matched(folders, (3, 3, 3))


# Strings


def test_tokens_inserted_in_the_middle_shift_the_rows_and_keep_their_own(tmp_path: Path) -> None:
    found = match(tmp_path, ["a", "b", "c"], ["a", "b", "c"], ["a", "new", "b", "c"])
    assert table(found.rows(3, 3, 4)) == [(0, 0, 0), (1, -1, -1), (2, 1, 1), (3, 2, 2)]
    assert (found.how, found.matched, found.kept, found.lost) == ("strings", 3, ("new",), ())
    assert found.target_size == 4


def test_a_release_that_prepends_tokens_is_matched_behind_them(tmp_path: Path) -> None:
    """mergekit #328: Mistral v0.3 prepends 768 control tokens."""
    control = [f"[control_{index}]" for index in range(8, 776)]
    words = [f"w{index}" for index in range(1000)]
    found = match(tmp_path, ["<s>", *words], ["<s>", *words], ["<s>", *control, *words], rows=(1001, 1001, 1792))
    rows = found.rows(1001, 1001, 1792)
    assert table(rows)[769:1769] == [(row, row - 768, row - 768) for row in range(769, 1769)]
    assert (rows.base[1769:] == -1).all() and (rows.target == np.arange(1792)).all()
    assert set(found.kept) == set(control)


def test_padded_rows_stay_as_the_target_has_them_and_no_matrix_is_trimmed(tmp_path: Path) -> None:
    """mergekit #425: Qwen 2.5 pads 151665 tokens to 152064 rows, or to 151936 in smaller models."""
    found = match(tmp_path, WORDS, WORDS, ["new", *WORDS], rows=(32, 32, 40))
    rows = found.rows(32, 32, 40)
    assert rows.rows == 40 and table(rows)[21:] == [(row, -1, -1) for row in range(21, 40)]


def test_reserved_placeholders_are_paired_by_string_and_listed(tmp_path: Path) -> None:
    """Llama 3.1 put three tokens in places that 3.0 reserved, and renumbered the placeholders."""

    def reserved(names: dict[int, str], count: int) -> list[str]:
        numbers = iter(range(count))
        return [names.get(id) or f"<|reserved_special_token_{next(numbers)}|>" for id in range(256)]

    shared = {
        0: "<|begin_of_text|>",
        1: "<|end_of_text|>",
        6: "<|start_header_id|>",
        7: "<|end_header_id|>",
        9: "<|eot_id|>",
    }
    old = reserved(shared, 256)
    new = reserved(shared | {4: "<|finetune_right_pad_id|>", 8: "<|eom_id|>", 10: "<|python_tag|>"}, 256)
    found = match(tmp_path, WORDS, WORDS, WORDS, added=(old, old, new))
    place = {token: id for id, token in enumerate(new)}
    rows = table(found.rows(276, 276, 276))
    for id, token in enumerate(old):
        if token in place:
            assert rows[20 + place[token]] == (20 + place[token], 20 + id, 20 + id)
    assert set(found.kept) == {"<|finetune_right_pad_id|>", "<|eom_id|>", "<|python_tag|>"}
    assert len(found.lost) == 3 and all(token in found.lost for token in old[-3:])
    assert found.placeholders == tuple(token for id, token in enumerate(old) if place.get(token, id) != id)
    assert len(found.placeholders) > 200 and not found.renamed and not found.added


@pytest.mark.parametrize(
    "token",
    [
        "<|reserved_special_token_7|>",
        "<reserved_106>",
        "<unused0>",
        "[unused1]",
        "[control_8]",
        "<SPECIAL_20>",
        "<extra_id_0>",
        "<|extra_0|>",
        "<|dummy_85|>",
        "<|placeholder1|>",
        ">>UNUSED_261<<",
        "<｜place▁holder▁no▁0｜>",
    ],
)
def test_slots_that_makers_hold_free_are_placeholders(token: str) -> None:
    assert is_placeholder(token)


@pytest.mark.parametrize(
    "token", ["▁reserved", "Ġunused", "placeholder", "_unused_", "<reserve", "special_1", "<|user|>"]
)
def test_words_of_the_vocabulary_are_no_placeholders(token: str) -> None:
    assert not is_placeholder(token)


def test_chat_tokens_on_reserved_slots_are_renames_in_place(tmp_path: Path) -> None:
    base = [*WORDS, "<r0>", "<r1>"]
    found = match(tmp_path, base, [*WORDS, "<im_start>", "<im_end>"], ["<r1>", *WORDS, "<r0>"])
    assert [(rename.old, rename.new, rename.target_id) for rename in found.renamed] == [
        ("<r0>", "<im_start>", 21),
        ("<r1>", "<im_end>", 0),
    ]
    rows = table(found.rows(22, 22, 22))
    assert rows[21] == (21, 20, 20) and rows[0] == (0, 21, 21)
    assert found.matched == 22 and found.changes.renamed == (("<r0>", "<im_start>"), ("<r1>", "<im_end>"))
    assert not found.added and not found.kept and not found.lost


def test_a_rename_whose_old_name_the_target_lacks_becomes_a_new_token(tmp_path: Path) -> None:
    found = match(tmp_path, [*WORDS, "<r0>"], [*WORDS, "<im_end>"], WORDS)
    assert not found.renamed and [(token.token, token.id) for token in found.added] == [("<im_end>", 20)]
    assert table(found.rows(21, 21, 20))[20] == (-1, -1, 20)
    dropped = match(tmp_path, [*WORDS, "<r0>"], [*WORDS, "<im_end>"], WORDS, new_tokens="drop")
    assert dropped.dropped == ("<im_end>",) and not dropped.added and dropped.rows(21, 21, 20).rows == 20


def test_a_rename_whose_new_name_the_target_has_leaves_the_targets_rows(tmp_path: Path) -> None:
    found = match(tmp_path, [*WORDS, "<r0>"], [*WORDS, "<im_end>"], [*WORDS, "<im_end>", "<r0>"])
    assert not found.renamed and not found.added and found.kept == ("<im_end>", "<r0>")
    assert table(found.rows(21, 21, 22))[20:] == [(20, -1, -1), (21, -1, -1)]


def test_new_tokens_take_padded_rows_first_and_the_matrix_grows_only_when_they_run_out(tmp_path: Path) -> None:
    tuned = [*WORDS, "n1", "n2", "n3"]
    found = match(tmp_path, WORDS, tuned, ["t", *WORDS], rows=(20, 23, 23))
    assert [(token.token, token.id) for token in found.added] == [("n1", 21), ("n2", 22), ("n3", 23)]
    assert found.target_size is not None and found.target_size + len(found.added) == 24
    rows = table(found.rows(20, 23, 23))
    assert rows[21:] == [(-1, -1, 20), (-1, -1, 21), (-1, -1, 22)]
    assert len(table(found.rows(20, 23, 64))) == 64


def test_a_token_of_tuned_and_target_that_base_lacks_stays_the_targets(tmp_path: Path) -> None:
    found = match(tmp_path, WORDS, [*WORDS, "both"], ["both", *WORDS])
    assert found.kept == ("both",) and not found.added
    assert table(found.rows(20, 21, 21))[0] == (0, -1, -1)


def test_tokens_without_a_row_carry_nothing_and_are_listed(tmp_path: Path) -> None:
    """Llama 2 fine-tunings often have a pad token whose id is beyond the matrix."""
    found = match(tmp_path, WORDS, [*WORDS, "<pad>"], ["t", *WORDS], rows=(20, 20, 21))
    assert found.without_row == ("<pad>",) and not found.added and found.rows(20, 20, 21).rows == 21
    found = match(tmp_path, [*WORDS, "<pad>"], [*WORDS, "<pad>"], ["<pad>", *WORDS], rows=(20, 20, 21))
    assert found.kept == ("<pad>",) and found.matched == 20
    found = match(tmp_path, ["<pad>", *WORDS], ["<pad>", *WORDS], [*WORDS, "<pad>"], rows=(21, 21, 20))
    assert found.lost == ("<pad>",)


def test_a_row_that_nothing_gives_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(PairingError, match=r'20 rows for a tokenizer of 21 tokens.*new_tokens="drop"'):
        match(tmp_path, WORDS, [*WORDS, "new"], [*WORDS, "<pad>"], rows=(20, 21, 20))


def test_vocabularies_of_different_kinds_stop_the_run(tmp_path: Path) -> None:
    sentencepiece, byte_level = [f"▁{word}" for word in ["the", *WORDS]], [f"Ġ{word}" for word in ["the", *WORDS]]
    with pytest.raises(PairingError, match=r'▁the.*Ġthe.*vocabulary="positions"'):
        match(tmp_path, sentencepiece, sentencepiece, byte_level)
    forced = match(tmp_path, sentencepiece, sentencepiece, byte_level, vocabulary="positions")
    assert forced.how == "positions" and forced.matched == 21


def test_a_small_vocabulary_inside_a_large_one_is_no_doubt(tmp_path: Path) -> None:
    found = match(tmp_path, WORDS, WORDS, [*(f"new{index}" for index in range(100)), *WORDS])
    assert found.matched == 20


def test_a_permuted_head_of_other_rows_than_the_embedding_follows_its_own_rows(tmp_path: Path) -> None:
    found = match(tmp_path, WORDS, WORDS, WORDS[::-1], rows=(20, 20, 20))
    assert table(found.rows(18, 20, 19)) == [
        (row, 19 - row, 19 - row) if row > 1 else (row, -1, -1) for row in range(19)
    ]


# Against a slow reference


# Bounds
