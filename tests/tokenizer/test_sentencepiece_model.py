"""The pieces of a tokenizer.model are read without sentencepiece, and anything else in its place is nothing."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuneport.tokenizer.sentencepiece_model import pieces


def test_the_pieces_are_those_of_sentencepiece(tmp_path: Path) -> None:
    import sentencepiece

    written = io.BytesIO()
    lines = iter(["the cat sat on the mat", "größe und 東京", "a dog ran to the red hat"] * 20)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=written, vocab_size=25, hard_vocab_limit=False, minloglevel=2
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    assert pieces(written.getvalue()) == [model.id_to_piece(id) for id in range(model.get_piece_size())]


@pytest.mark.parametrize("data", [b"", b"\n", b"\xff" * 30, b"\n\x05abc", b'{"model": 1}', b"\n\x03\n\x01\xff"])
def test_what_is_no_such_file_has_no_pieces(data: bytes) -> None:
    assert pieces(data) is None


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_end_without_an_exception(data: bytes) -> None:
    found = pieces(data)
    assert found is None or all(isinstance(piece, str) for piece in found)
