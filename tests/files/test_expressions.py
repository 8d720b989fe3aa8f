"""Expressions of a file are tried in a child with limits: with the names, and with those that its own replacements make."""

from __future__ import annotations

import pytest

from tuneport.files import expressions
from tuneport.files.expressions import Expression, ExpressionError, try_expressions

NAMES = ["model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"]
ENDLESS = "([a-z_.0-9]+)+!"


def test_what_people_write_is_matched() -> None:
    try_expressions(
        [
            Expression("rules", r"layers\.\d+\.mlp"),
            Expression("renames", "^model\\.", "sub", "language_model."),
            Expression("drop", "^(lm_head|score)"),
            Expression("target_modules", r".*\.(q|v)_proj", "fullmatch"),
        ],
        NAMES,
    )
    try_expressions([], NAMES)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("tried", "words"),
    [
        (
            [Expression("rules", ENDLESS)],
            r"matching its expressions \(`rules`\) with 2 names takes more than 0.3 seconds",
        ),
        ([Expression("renames", ENDLESS, "sub", "x")], r"\(`renames`\) with 2 names takes more than 0.3 seconds"),
        # None of the names holds what the second expression cannot end with; the first one makes such a name.
        ([Expression("rules", "(b+)+!"), Expression("renames", ".+", "sub", "b" * 99)], "takes more than 0.3 seconds"),
        ([Expression("renames", "e", "sub", "e" * 10**4)] * 2, "a replacement creates a name of "),
        ([Expression("rules", "(?:(?:(?:a?){65535}){65535}){65535}")], "takes more than (512 MiB|0.3 seconds)"),
        (
            [Expression("rules", "a{99999999999}")],
            "is not a valid regular expression: the repetition number is too large",
        ),
        ([Expression("rules", "(" * 5000 + ")" * 5000)], "is not a valid regular expression"),
        ([Expression("renames", "e", "sub", r"\7")], "is not a valid regular expression: invalid group reference"),
        ([Expression("rules", "a" * 70_000)], "an expression has 70,000 characters"),
        ([Expression("rules", 5)], "`rules` contains a value that is not a string"),  # type: ignore[arg-type]  # a file's
        ([Expression("drop", f"{n}+") for n in range(9)], r"there are 9 expressions \(`drop`\)"),
    ],
)
def test_what_has_no_end_or_is_none_is_told(
    tried: list[Expression], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expressions, "SECONDS", 0.3)
    monkeypatch.setattr(expressions, "MOST_MATCHES", 17)
    with pytest.raises(ExpressionError, match=words):
        try_expressions(tried, NAMES)
