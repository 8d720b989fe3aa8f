"""The inputs that a coverage-guided fuzzer has found (`make fuzz-readers`), read again: a value, or an error in words."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from support.fuzzed_readers import READ, corpus_of, seeds

from tuneport.errors import TuneportError

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", READ)
def test_whatever_the_fuzzer_found_is_read_or_told_in_words(name: str, tmp_path: Path) -> None:
    found = corpus_of(name, CORPUS)
    assert len(found) > 20, "the corpus is there"
    for number, data in enumerate(found):
        place = tmp_path / str(number)
        place.mkdir()
        with suppress(TuneportError):
            READ[name](data, place)


@pytest.mark.parametrize("name", READ)
def test_what_the_fuzzer_begins_with_is_read(name: str, tmp_path: Path) -> None:
    for number, data in enumerate(seeds(name)):
        place = tmp_path / str(number)
        place.mkdir()
        READ[name](data, place)
