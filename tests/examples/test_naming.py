"""What a name of data stands for: a file, a data set on the Hub, or neither."""

from __future__ import annotations

import pytest

from tuneport.errors import DataError
from tuneport.examples.naming import find_data


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, f"org/{'x' * 300}.jsonl", "a\0b"])
def test_a_name_that_no_file_can_have_is_told_in_words(name: str) -> None:
    with pytest.raises(DataError):
        find_data([name])
