"""The user's rules for tokens: another scale for their rows in embeddings and heads.

A rule names tokens by string, or a set of them: ``@all``, ``@special``, ``@template``. Which rows these are is known once
the tokenizers were read (`tuneport.engine.scaling.row_scales`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

ALL, SPECIAL, TEMPLATE = "@all", "@special", "@template"
SETS = (ALL, SPECIAL, TEMPLATE)
# Written in place of a number: the scale that the tensor has without rules for tokens.
OF_THE_TENSOR = "scale"


@dataclass(frozen=True)
class RowRule:
    """``--row-rule TOKENS=SCALE``: of several rules with a token the last one decides about its row.

    ``scale`` None is the scale that the tensor has without rules for tokens.
    """

    tokens: tuple[str, ...]
    scale: float | None

    @property
    def shown(self) -> str:
        """The rule as the command line writes it."""
        plain = all("," not in token and token == token.strip() for token in self.tokens)
        plain &= not self.tokens[0].startswith("[")
        written = ",".join(self.tokens) if plain else json.dumps(self.tokens, ensure_ascii=False)
        return f"{written}={self.shown_scale}"

    @property
    def shown_scale(self) -> str:
        """The scale as the command line writes it."""
        return OF_THE_TENSOR if self.scale is None else f"{self.scale:g}"


def tokens_in(text: str) -> tuple[str, ...]:
    """The tokens of a text: between commas, or a JSON list of strings for tokens that hold commas or spaces."""
    if text.startswith("["):
        try:
            listed = json.loads(text)
        except ValueError:
            listed = None  # a token such as [INST]
        if isinstance(listed, list) and all(isinstance(each, str) for each in listed):
            return tuple(listed)
    return tuple(token for part in text.split(",") if (token := part.strip()))
