"""Where a prompt ends and its answer begins, in tokens.

In generation, a model sees the tokens of the prompt alone. The text of prompt and answer together may have other
tokens: one may span the end of the prompt and the beginning of the answer (":" and "B" are the single token ":B").
Training and scoring decide here which tokens belong to the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Encode = Callable[[str], list[int]]  # the tokens of a text, and no other

# What may stand before an answer so that its tokens are those of a text that goes on.
_BEFORE = ("\n", ".", ")", "0", "a")


def beginning_of_texts(tokenizer: Any) -> list[int]:
    """The tokens that a tokenizer writes before every text: a beginning-of-text token, or none."""
    plain: list[int] = tokenizer("x", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("x")["input_ids"]
    places = range(len(whole) - len(plain) + 1)
    return next((whole[:place] for place in places if whole[place : place + len(plain)] == plain), [])


def begun(ids: list[int], beginning: Sequence[int]) -> list[int]:
    """The tokens of a text after those that stand before every text, unless they are there."""
    return ids if ids[: len(beginning)] == list(beginning) else [*beginning, *ids]


def answer_after(prompt: Sequence[int], whole: Sequence[int], answer: str, encode: Encode) -> tuple[list[int], bool]:
    """The tokens of ``answer`` after those of its prompt, and whether they are other ones in the ``whole`` text.

    They are the rest of the whole text's tokens where these begin with the prompt's. Where a token spans the join, the answer
    is encoded by itself.
    """
    if len(whole) > len(prompt) and list(whole[: len(prompt)]) == list(prompt):
        return list(whole[len(prompt) :]), False
    return going_on(answer, encode), True


def going_on(text: str, encode: Encode) -> list[int]:
    """The tokens of a text that stands after another one: SentencePiece-like tokenizers write a blank before one alone."""
    for before in _BEFORE:
        first, both = encode(before), encode(before + text)
        if first and both[: len(first)] == first:
            return both[len(first) :]
    return encode(text)
