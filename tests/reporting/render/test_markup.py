"""No text of a study ever becomes markup, a script, or a formula in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser
from urllib.parse import unquote

import hypothesis.strategies as st
import pytest
from hypothesis import given
from jinja2 import UndefinedError

from tuneport.reporting.render.page import clean, environment, saved, script_data
from tuneport.reporting.sections.parts import Csv

ONE = environment().from_string('<p title="{{ attribute }}">{{ words }}</p>')


class Reader(HTMLParser):
    """Elements and text, as a browser's parser finds them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


texts = st.text(st.characters(codec=None), max_size=60) | st.sampled_from(
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "</script><b>",
        "<!--",
        "]]>",
        "&lt;",
        "%{x}",
        "a\x00b",
    ]
)


@given(texts, texts)
def test_a_text_and_an_attribute_are_read_back_as_they_were(words: str, attribute: str) -> None:
    page = Reader(ONE.render(words=words, attribute=attribute))
    assert page.elements == [("p", {"title": clean(attribute)})]
    # A parser reads carriage returns as line ends.
    assert page.text.replace("\r\n", "\n").replace("\r", "\n") == clean(words).replace("\r\n", "\n").replace("\r", "\n")


@given(st.recursive(texts | st.integers() | st.none(), lambda e: st.lists(e) | st.dictionaries(texts, e), max_leaves=8))
def test_data_for_a_script_is_read_back_and_cannot_end_its_element(value: object) -> None:
    data = script_data(value)
    assert not set("<>&") & set(data) and data.isascii()
    assert json.loads(data) == value


def test_a_text_that_is_missing_is_nothing_and_a_name_that_is_not_there_is_an_error() -> None:
    assert ONE.render(words=None, attribute="#y") == '<p title="#y"></p>'
    with pytest.raises(UndefinedError):
        ONE.render(words="x")


@given(st.lists(st.lists(texts, min_size=2, max_size=2), max_size=4))
def test_a_download_holds_the_rows_and_no_formula(rows: list[list[str]]) -> None:
    kind, _, data = saved(Csv("name", ["=one", "two"], rows)).partition(",")
    text = unquote(data, errors="surrogatepass").removeprefix("\ufeff")
    assert kind == "data:text/csv;charset=utf-8"
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read[0] == ["'=one", "two"]
    for wanted, got in zip(rows, read[1:], strict=True):
        assert [cell.removeprefix("'") for cell in got] == [clean(cell).removeprefix("'") for cell in wanted]
        assert not any(cell[:1] in ("=", "+", "-", "@", "\t") for cell in got)


def test_nothing_on_a_page_moves_a_cursor_or_turns_the_direction_of_writing() -> None:
    shown = ONE.render(words="a\x1b[2J\x9b\x85\u202eb\u2066\r\nc\ud800", attribute="\x7f")
    assert shown == '<p title="\ufffd">a\ufffd[2J\ufffd\ufffd\ufffdb\ufffd\nc\ufffd</p>'
