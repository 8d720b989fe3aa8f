"""Every page for people: its links lead somewhere, its commands and flags exist, its code compiles, what it quotes is said."""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import tuneport
from tuneport.cli import build_parser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
# Whose flags are not ours to check.
OTHERS = {"accelerate", "docker", "hf", "pip", "python", "zensical"}


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCED.findall(page.read_text(encoding="utf-8")) if language in languages]


def anchors(page: Path) -> set[str]:
    """What GitHub, and the site, call the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.M):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)]\([^)]*\)", r"\1", heading).lower()).strip().replace(" ", "-")
        found.add(slug)
    return found


def shell_commands(page: Path) -> Iterator[list[str]]:
    """The words of every call of tuneport in the page's shell blocks; lines that are only hinted at (…) are left out."""
    for text in blocks(page, "sh", "console", "shell"):
        for line in text.splitlines():
            words = (
                shlex.split(line.removeprefix("$ "), comments=True) if "tuneport " in line and "…" not in line else []
            )
            if words and words[0] == "tuneport":
                yield words[1:]


@functools.cache
def command_line() -> argparse.ArgumentParser:
    return build_parser()


def parsers() -> Mapping[str, argparse.ArgumentParser]:
    commands = next(a for a in command_line()._actions if isinstance(a, argparse._SubParsersAction))
    return commands.choices


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{named(page)} links to {target}"
        assert not anchor or anchor in anchors(place), f"{named(page)} links to {target}"


def test_links_between_pages_of_the_site_stay_in_it() -> None:
    for page in DOCS.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:\s]+)", prose(page)):
            assert (page.parent / target).resolve().is_relative_to(DOCS), f"{named(page)} links to {target}"


def test_every_page_is_in_the_navigation_once() -> None:
    def pages_in(entries: Any) -> Iterator[str]:
        if isinstance(entries, str):
            yield entries
        else:
            for entry in entries.values() if isinstance(entries, dict) else entries:
                yield from pages_in(entry)

    listed = list(pages_in(tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]))
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_shell_lines_are_what_the_command_line_takes() -> None:
    tried = 0
    for page in PAGES:
        for words in shell_commands(page):
            try:
                command_line().parse_args(words)
            except SystemExit as stop:
                assert stop.code == 0, f"{named(page)}: tuneport {shlex.join(words)}"
            tried += 1
    assert tried > 40


def test_flags_named_in_prose_exist() -> None:
    known = {flag for command in parsers().values() for action in command._actions for flag in action.option_strings}
    known |= {flag for action in command_line()._actions for flag in action.option_strings}
    known |= {"--extra-index-url"}  # pip's, told as something to add to its line
    tried = 0
    for page in PAGES:
        if page.name == "CHANGELOG.md":  # what was renamed is still called by its name there
            continue
        for code in re.findall(r"`([^`\n]*[^`\s][^`\n]*)`", prose(page)):
            if code.split()[0] in OTHERS:
                continue
            for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code):
                assert flag in known, f"{named(page)}: `{code}`"
                tried += 1
    assert tried > 100


def test_python_blocks_compile_and_call_what_there_is() -> None:
    tried = 0
    for page in PAGES:
        for text in blocks(page, "python"):
            for node in ast.walk(ast.parse(text)):
                if not (isinstance(node, ast.Call) and ast.unparse(node.func).startswith("tuneport.")):
                    continue
                function = getattr(tuneport, ast.unparse(node.func).removeprefix("tuneport."))
                keywords = {keyword.arg: ... for keyword in node.keywords if keyword.arg}
                inspect.signature(function).bind(*node.args, **keywords)
                tried += 1
    assert tried > 6


def test_toml_blocks_are_toml() -> None:
    found = [text for page in PAGES for text in blocks(page, "toml")]
    assert found and all(map(tomllib.loads, found))


def test_messages_in_troubleshooting_are_said() -> None:
    said = [" ".join(text.split()) for file in (ROOT / "src").rglob("*.py") for text in _texts(file)]
    messages = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.M)
    assert len(messages) > 30
    for message in messages:
        pattern = re.compile(".*?".join(re.escape(part.strip()) for part in message.split("…")))
        assert any(map(pattern.search, said)), f"nothing says: {message}"


def _texts(file: Path) -> Iterator[str]:
    """Every text of a source file, joined as Python joins it; … for what is filled in."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(map(_part, node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _part(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    match part:
        case ast.FormattedValue(ast.Call(ast.Name("named"), [ast.Constant(str(option)), *_])):
            return f"--{option.replace('_', '-')}"  # as the command line writes it
    return "…"


def test_files_that_pages_name_are_there() -> None:
    """Paths in code spans that begin with a folder of the repository."""
    tops = ("src/", "docs/", "tests/", "experiments/", "bench/", "studies/", ".github/", ".ci/")
    for page in PAGES:
        if page.name in {"CHANGELOG.md", "results.md"}:
            continue
        for path in re.findall(r"`([\w./-]+)`", prose(page)):
            if path.startswith(tops):
                assert (ROOT / path).exists() or (ROOT / "src/tuneport" / path).exists(), f"{named(page)} names {path}"


def test_the_readme_is_short() -> None:
    words = [word for word in (ROOT / "README.md").read_text(encoding="utf-8").split() if re.search(r"\w", word)]
    assert len(words) <= 900
