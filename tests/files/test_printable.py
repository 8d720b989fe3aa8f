"""No text of others moves the cursor, and nothing that people read in their languages is changed."""

from __future__ import annotations

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from tuneport.files.printable import printable, printable_json, printable_line


def test_control_characters_are_shown_as_escapes() -> None:
    assert printable("a\x1b[31mb\x07\x7f\x9b\r") == "a\\x1b[31mb\\x07\\x7f\\x9b\\x0d"
    assert printable("two\nlines\tand a tab") == "two\nlines\tand a tab"
    assert printable_line("two\nlines\tand a tab") == "two\\nlines\\tand a tab"
    assert printable("left\u202eright\u2066\u2028") == "left\\u202eright\\u2066\\u2028"
    assert printable("half \ud800 and a byte \udcff") == "half \\ud800 and a byte \\udcff"


def test_every_script_stays_as_it_is() -> None:
    text = "‖Δ‖ Ġthe ▁the ünïcode 日本語 हिन्दी العربية 👩‍👩‍👧 '$HOME' <b> \\x1b"
    assert printable_line(text) == text


@given(st.text(st.characters()))
def test_what_is_printed_holds_no_control_character(text: str) -> None:
    assert not [c for c in printable_line(text) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    printable(text).encode()


@given(st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_keeps_its_value(value: object) -> None:
    shown = printable_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(shown) == value
    assert not [c for c in shown if unicodedata.category(c) == "Cc"]
