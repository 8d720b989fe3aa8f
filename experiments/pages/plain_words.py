"""Phrases that must not come back: readers who are not native speakers stumble over them.

``python -m experiments.pages.plain_words`` prints every place of one in the source (string literals, docstrings, comments) and in the
pages, with words to use instead, and exits with status 1 where there is one. The house's rule is STYLE's Plain English.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs")
# Each phrase as a regular expression, in lower case, and what to write instead.
PHRASES = {
    r"(?<!there )\bis no (?!longer\b|more\b|better\b|worse\b)": "is not a valid …, must be a …",
    r"\bthings?\(s\)": "problems found",
    r"\bstands? (?:there|against|beside|twice|on|in|at)\b": "is in, depends on, is listed twice",
    r"\btold (?:in words|apart|by)\b|\bcannot be told\b|\bis told\b|\bare told\b": "is shown, is unknown, distinguish",
    r"\b(?:ends?|says?|stops?) in words\b": "with a message",
    r"\bmend(?:s|ed)?\b": "fix, correct",
    r"\blet go\b|\blets go\b": "discarded, released",
    r"\banew\b": "again, recomputed",
    r"\bappears when it is whole\b|\bonce it is whole\b": "created when complete",
    r"\bcarr(?:y|ies|ied) over\b": "transfer",
    r"\bwhat travels\b|\bfiles that travel\b": "what is copied",
    r"\bcannot be meant\b|\bif it is meant\b|\bnot meant\b": "is not valid; that you need",
    r"\bin comes?\b|\bout comes?\b|\bcomes? in:|\bgoes out:": "what the module is for",
    r"\bsteps fewer\b": "steps saved",
    r"\bwhat is clear\b|\bnothing that is clear\b": "significant",
    r"\bto be had\b": "found, available",
    r"\ball the same\b": "anyway",
    r"\bgoes on (?:from|where)\b": "resumes",
    r"\bwhat is (?:done|finished) stays\b": "finished work is kept",
    r"\bsomething looks wrong\b": "because of these warnings",
    r"\bdoes without\b": "does not install, does not need",
    r"\bworks? it out\b|\bworks the field out\b": "computes",
    r"\bother(?:wise)? than it\b|\bin another way than\b": "differently from",
    r"\bof no kind\b|\bno kind of\b": "of an unknown type",
}
# Lines break anywhere, so a blank may be several. (Those that end a look-behind stay one: its width is fixed.)
_WIDER = (re.sub(r" (?!\))", " ++", phrase) for phrase in PHRASES)
_FORBIDDEN = re.compile("|".join(f"(?P<p{number}>{phrase})" for number, phrase in enumerate(_WIDER)))


def found_in(text: str) -> Iterator[tuple[int, str, str]]:
    """Line (from 1), words found and words to use instead, for every phrase in a text whose lines may break anywhere."""
    better = list(PHRASES.values())
    for match in _FORBIDDEN.finditer(re.sub(r"\s", " ", text).lower()):
        assert match.lastgroup is not None, "each phrase is a group"
        line = text[: match.start()].count("\n") + 1
        yield line, " ".join(match[0].split()), better[int(match.lastgroup[1:])]


def prose_of(source: str) -> str:
    """A Python source with everything but its strings and comments blanked, so that lines keep their numbers."""
    lines = [[" "] * len(line) for line in source.splitlines()]
    inside = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    written = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in inside:
            continue
        (first, begin), (last, end) = token.start, token.end
        for number in range(first, last + 1):
            line = written[number - 1]
            at, to = begin if number == first else 0, end if number == last else len(line)
            lines[number - 1][at:to] = line[at:to]
    text = "\n".join("".join(line) for line in lines)
    # Pieces of one literal, and lines of one comment, read as one text.
    return re.sub(r"(?m)^(\s*)# ", r"\1  ", re.sub(r"""["']( *\n *)[rf]*["']""", r"\1  ", text))


def places(files: Iterable[Path], root: Path) -> list[str]:
    """A line for every phrase in the files: where it is, and what to write instead."""
    lines = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        prose = prose_of(text) if file.suffix == ".py" else text
        lines += [f"{file.relative_to(root)}:{line}: {words!r}: {instead}" for line, words, instead in found_in(prose)]
    return lines


def main() -> int:
    pages = [ROOT / name for name in PAGES]
    files = [*sorted((ROOT / "src").rglob("*.py"))]
    for page in pages:
        files += sorted(page.rglob("*.md")) if page.is_dir() else [page]
    lines = places(files, ROOT)
    if lines:
        print("\n".join(lines), file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
