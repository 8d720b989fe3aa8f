"""Find the tokens that a chat template writes as text, in its source; the template is not run.

It finds the text between tags, the strings of expressions that are written or assigned, and what is adjacent or joined
by ``+`` and ``~``. An expression between two strings may be a role (``'<|' + message['role'] + '|>'``). It does not
find text that a template combines over several tags, by filters, or from the messages. The time is linear in the
source.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# Longer templates are no templates; the longest published ones have some 20 kB.
_LONGEST = 2**20
_ROLES = ("system", "user", "assistant", "tool", "model", "developer")
# What stands between texts that do not touch.
_APART = "\0"

# A run of what is written side by side: strings, and None for an expression whose value is not known.
Run = list[str | None]

_TAG = re.compile(r"\{#.*?(?:#\}|\Z)|\{\{|\{%", re.DOTALL)
_RAW = re.compile(r"\{%[-+]?\s*raw\s*[-+]?%\}(.*?)(?:\{%[-+]?\s*endraw\s*[-+]?%\}|\Z)", re.DOTALL)
_SPACE = re.compile(r"\s*+")
_FIRST_WORD = re.compile(r"[-+]?\s*+(\w*+)")
_PART = re.compile(
    r"""(?P<string>'(?:[^'\\]++|\\.)*+'|"(?:[^"\\]++|\\.)*+")"""
    r"""|(?P<end>[-+]?%\}|-?\}\})"""
    r"""|(?P<name>[^\W\d]\w*+)"""
    r"""|(?P<compare>==|!=|<=|>=|<|>)"""
    r"""|(?P<mark>[^\s\w])""",
    re.DOTALL,
)
_COMPARED_NEXT = re.compile(r"\s*+(?:==|!=|(?:not\s++)?in\b|is\b)")
# Tags that only look at what they hold, words that end a run, and calls whose strings are not written.
_LOOKING = {"if", "elif", "for"}
_BREAKS = {"if", "else", "and", "or", "not", "in", "is", "set"}
_JOINTS = {"+", "~", "-", "=", ".", "|", ",", ":"}
_ASKING = {"raise_exception", "strftime_now", "startswith", "endswith", "split", "strip", "lstrip", "rstrip", "find"}


def tokens_written(source: str, tokens: Iterable[str], others: Iterable[str] = ()) -> list[str]:
    """Those of ``tokens`` that a template writes as text; where a longer one of ``others`` stands, it is that one."""
    runs = list(_runs(source[:_LONGEST]))
    sure = _APART.join("".join(part if part is not None else _APART for part in run) for run in runs)
    with_roles = _APART.join(
        "".join(role if part is None else part for part in run) for run in runs if None in run for role in _ROLES
    )
    found = []
    for token in tokens:
        longer = [other for other in others if token in other and token != other]
        if _stands_in(sure, token, longer) or (
            not any(token in role for role in _ROLES) and _stands_in(with_roles, token, longer)
        ):
            found.append(token)
    return found


def names_written(source: str, names: Iterable[str]) -> list[str]:
    """Those of ``names`` (``bos_token``, say) that a template mentions as variables: not as a string, nor as a field."""
    text = source[:_LONGEST]
    return [name for name in names if re.search(rf"(?<![\w.'\"]){re.escape(name)}(?![\w'\"])", text)]


def _stands_in(text: str, token: str, longer: Iterable[str]) -> bool:
    if not token or token not in text:
        return False
    for other in longer:
        text = text.replace(other, _APART)
    return token in text


def _runs(source: str) -> Iterator[Run]:
    """What a template writes side by side, run by run."""
    run: Run = []
    position = 0
    while (tag := _TAG.search(source, position)) is not None:
        text = source[position : tag.start()]
        run.append(text.rstrip() if source.startswith("-", tag.start() + 2) else text)
        raw = _RAW.match(source, tag.start())
        if raw is not None:
            run.append(raw.group(1))
            position = raw.end()
        elif tag.group() == "{{":
            written, aside, position = _expression(source, tag.end())
            yield from aside
            run += written[0]
            if len(written) > 1:
                yield run
                yield from written[1:-1]
                run = written[-1]
        elif tag.group() == "{%":
            yield run
            run = []
            word = _FIRST_WORD.match(source, tag.end())
            written, aside, position = _expression(source, tag.end())
            if word is None or word.group(1) not in _LOOKING:
                yield from [*written, *aside]
        else:
            position = tag.end()
        if source.startswith("-", position - 3):
            space = _SPACE.match(source, position)
            position = position if space is None else space.end()
    yield [*run, source[position:]]


def _expression(source: str, start: int) -> tuple[list[Run], list[Run], int]:
    """Runs of one expression, strings that it hands to others, and where it ends.

    Subscripts and what is compared are no text.
    """
    written: list[Run] = [[]]
    aside: list[Run] = []
    around: list[str] = []  # for each open bracket what it makes of its inside: "" text, "(" or "{" aside, "[" nothing
    braces, before, compared = 0, "", False
    for part in _PART.finditer(source, start):
        kind, text = part.lastgroup, part.group()
        inside = around[-1] if around else ""
        if kind == "end" and not braces:
            return written, aside, part.end()
        if kind == "string":
            if not compared and inside != "[" and not _COMPARED_NEXT.match(source, part.end()):
                if inside:
                    aside.append([_unescaped(text)])
                else:
                    written[-1].append(_unescaped(text))
        elif text in ("(", "[", "{"):
            groups = text == "(" and not (before.isidentifier() or before in (")", "]"))
            around.append(inside if groups else "[" if before in _ASKING or inside == "[" else text)
            braces += text == "{"
        elif text in (")", "]", "}"):
            if around:
                around.pop()
            braces -= text == "}" and braces > 0
        elif not inside and text in _BREAKS:
            written.append([])
        elif not inside and text not in _JOINTS and (not written[-1] or written[-1][-1] is not None):
            written[-1].append(None)
        compared = kind == "compare" or text in ("in", "is")
        before = text
    return written, aside, len(source)


def _unescaped(literal: str) -> str:
    try:
        return literal[1:-1].encode("ascii", "backslashreplace").decode("unicode-escape")
    except UnicodeDecodeError:
        return literal[1:-1]
