"""No text of a study ever becomes markup, a script, or a formula in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser
from urllib.parse import unquote

import hypothesis.strategies as st
from hypothesis import given

from tuneport.reporting.render.html_tables import download
from tuneport.reporting.render.markup import clean, script_data, tag


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
    page = Reader(tag("p", words, title=attribute))
    assert page.elements == [("p", {"title": clean(attribute)})]
    # A parser reads carriage returns as line ends.
    assert page.text.replace("\r\n", "\n").replace("\r", "\n") == clean(words).replace("\r\n", "\n").replace("\r", "\n")


@given(st.recursive(texts | st.integers() | st.none(), lambda e: st.lists(e) | st.dictionaries(texts, e), max_leaves=8))
def test_data_for_a_script_is_read_back_and_cannot_end_its_element(value: object) -> None:
    data = script_data(value)
    assert not set("<>&") & set(data) and data.isascii()
    assert json.loads(data) == value


def test_markup_inside_markup_is_kept_and_none_is_nothing() -> None:
    assert tag("p", tag("b", "a < b"), None, [" and ", 3]) == "<p><b>a &lt; b</b> and 3</p>"
    assert tag("a", "x", href="#y", hidden=False, title=None, download=True) == '<a href="#y" download>x</a>'


@given(st.lists(st.lists(texts, min_size=2, max_size=2), max_size=4))
def test_a_download_holds_the_rows_and_no_formula(rows: list[list[str]]) -> None:
    (_, attributes), *more = Reader(download("name", ["=one", "two"], rows)).elements
    assert not more
    kind, _, data = str(attributes["href"]).partition(",")
    text = unquote(data, errors="surrogatepass").removeprefix("\ufeff")
    assert kind == "data:text/csv;charset=utf-8" and attributes["download"] == "name.csv"
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read[0] == ["'=one", "two"]
    for wanted, got in zip(rows, read[1:], strict=True):
        assert [cell.removeprefix("'") for cell in got] == [clean(cell).removeprefix("'") for cell in wanted]
        assert not any(cell[:1] in ("=", "+", "-", "@", "\t") for cell in got)


def test_nothing_on_a_page_moves_a_cursor_or_turns_the_direction_of_writing() -> None:
    shown = str(tag("p", "a\x1b[2J\x9b\x85\u202eb\u2066\r\nc\ud800", title="\x7f"))
    assert shown == '<p title="\ufffd">a\ufffd[2J\ufffd\ufffd\ufffdb\ufffd\nc\ufffd</p>'
