"""The script in lint that looks for phrases which must not come back."""

from pathlib import Path

from experiments.pages import plain_words

PLANTED = '''"""A module."""

is_no_text = 1  # the name of a variable is no prose of ours


def check(value: object) -> None:
    """In comes a value."""
    raise ValueError(
        f"{value!r} stands "
        "there twice"
    )  # mend it
'''


def words_in(text: str) -> list[tuple[int, str]]:
    return [(line, words) for line, words, _ in plain_words.found_in(text)]


def test_a_phrase_is_found_in_strings_docstrings_and_comments_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "planted.py"
    file.write_text(PLANTED, encoding="utf-8")
    found = [line.split(":")[:3] for line in plain_words.places([file], tmp_path)]
    assert [int(line) for _, line, _ in found] == [3, 7, 9, 11]
    assert "stands there" in found[2][2] and {name for name, _, _ in found} == {"planted.py"}


def test_a_phrase_is_found_in_a_page_across_lines(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\nThe folder appears when it\nis whole.\n", encoding="utf-8")
    assert [line.split(":")[1] for line in plain_words.places([page], tmp_path)] == ["3"]


def test_code_and_plain_english_are_left_alone() -> None:
    assert words_in(plain_words.prose_of("is_no_text = anew(mend)\n")) == []
    assert words_in("There is no file. It is no longer there. It must be a string.") == []


def test_every_phrase_has_words_to_use_instead() -> None:
    assert plain_words.PHRASES and all(plain_words.PHRASES.values())


def test_a_planted_phrase_fails_the_script(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/planted.py").write_text(PLANTED, encoding="utf-8")
    monkeypatch.setattr(plain_words, "PAGES", ())
    monkeypatch.setattr(plain_words, "ROOT", tmp_path)
    assert plain_words.main() == 1
    (tmp_path / "src/planted.py").write_text('"""A module."""\n', encoding="utf-8")
    assert plain_words.main() == 0
