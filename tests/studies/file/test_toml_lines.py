"""Where something stands in a TOML file: what tomllib read, found again in the text."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneport.studies.file.toml_lines import lines_of, unquoted

TEXT = '''# a comment with [brackets] and a = sign
top = 1
"quoted key" = "a # no comment"

[study] # [not.a.table]
name = """
[inside]
text = 1
"""
other.dotted.key = 2

[[version]]
name = 'M1'
pairs = [
  ["M1", "M2"], # ] = [
  # [[version]]
  ["M2", "M3"],
]
inline = { a = 1, b = "]" }

[version.tuned]
sft = "x"

[[version]]
name = "M2"
[version.tuned]
sft = "y"
'''


def paths_of(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every table and key that tomllib knows, apart from those in inline tables and arrays."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield (*path, key)
            yield from paths_of(entry, (*path, key))
    elif isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        for place, entry in enumerate(value):
            yield (*path, place)
            yield from paths_of(entry, (*path, place))


def test_every_table_and_key_has_the_line_on_which_it_begins() -> None:
    found = lines_of(TEXT)
    assert found["top",] == 2
    assert found["quoted key",] == 3
    assert found["study",] == 5
    assert found["study", "name"] == 6
    assert found["study", "other", "dotted", "key"] == 10
    assert found["version", 0] == 12
    assert found["version", 0, "pairs"] == 14
    assert found["version", 0, "inline"] == 19
    assert found["version", 0, "tuned"] == 21
    assert found["version", 1, "name"] == 25
    assert found["version", 1, "tuned", "sft"] == 27
    known = {path for path in paths_of(tomllib.loads(TEXT)) if "inline" not in path[:-1]}
    assert known == set(found)


def test_windows_line_ends_count_as_one_line() -> None:
    assert lines_of(TEXT.replace("\n", "\r\n")) == lines_of(TEXT)


NAMES = st.sampled_from(["a", "b", "c-d", "e_f"])
VALUES = st.sampled_from(["1", '"x # y"', "'[z]'", "[1,\n2, # ]\n]", '"""\n[a]\nb = 1\n"""', "{ q = [1] }", "true"])


@given(st.lists(st.tuples(NAMES, st.booleans(), st.lists(st.tuples(NAMES, VALUES), max_size=3)), max_size=5))
def test_a_line_is_that_of_the_statement_whatever_values_hold(
    tables: list[tuple[str, bool, list[tuple[str, str]]]],
) -> None:
    text, wanted, counts = "", {}, {}
    seen: dict[str, bool] = {}
    for name, repeated, entries in tables:
        if seen.setdefault(name, repeated) != repeated or (not repeated and name in counts):
            continue
        line = text.count("\n") + 1
        text += f"[[{name}]]\n" if repeated else f"[{name}]\n"
        place: tuple[str | int, ...] = (name, counts.get(name, 0)) if repeated else (name,)
        counts[name] = counts.get(name, 0) + 1
        wanted[place] = line
        for key, value in dict(entries).items():
            wanted[*place, key] = text.count("\n") + 1
            text += f"{key} = {value}\n"
    tomllib.loads(text)
    found = lines_of(text)
    assert {path: found[path] for path in wanted} == wanted


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[study]\nname = my study", ' Strings need quotes: write name = "my study".'),
        ("[a]\nmodel = org/name  # here", ' Strings need quotes: write model = "org/name".'),
        ("a = 1..2", ""),
        ("[study", ""),
    ],
)
def test_a_string_without_quotes_is_named_with_its_quotes(text: str, hint: str) -> None:
    with pytest.raises(tomllib.TOMLDecodeError) as caught:
        tomllib.loads(text)
    assert unquoted(text, str(caught.value)) == hint
