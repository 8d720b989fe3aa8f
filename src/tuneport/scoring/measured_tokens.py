"""Which tokens of a prompt and its answer a model gets, and which of them are measured.

Exactly the answer's tokens are measured, at least one of each. All answers of an example follow the same tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tuneport.examples.prompt_boundary import Encode, answer_after, beginning_of_texts, begun
from tuneport.examples.questions import Example

Join = Literal["blank", "split"]


@dataclass(frozen=True)
class Pair:
    """The ids of a prompt, and those of an answer after it, which are measured."""

    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Paired:
    """An example's answers after its prompt; ``join`` says what was done about a token that spans it, ``token`` is its text.

    ``blank``: it holds nothing of the prompt but blanks at its end, which are measured with the answer; ``split``: prompt and
    answer have each the tokens that they have by themselves.
    """

    pairs: list[Pair]
    join: Join | None = None
    token: str = ""


@dataclass(frozen=True)
class Pairing:
    """A tokenizer, as prompts and answers are put together for it; ``encode`` gives the tokens of a text and no other.

    With an ``encoder`` the prompt is a text of its own, and no token can span the join.
    """

    tokenizer: Any
    encode: Encode
    beginning: list[int]
    encoder: bool = False

    @classmethod
    def of(cls, tokenizer: Any, encode: Encode, *, encoder: bool = False) -> Pairing:
        """With what the tokenizer writes before every text."""
        return cls(tokenizer, encode, beginning_of_texts(tokenizer), encoder)

    def paired(self, prompt: str, answers: Sequence[str], *, rendered: bool) -> Paired:
        """The answers after the prompt; one that a template ``rendered`` begins as the template begins it."""
        if self.encoder:
            whole = list(self.tokenizer(prompt)["input_ids"])
            return Paired([self._pair(whole, self.encode(answer)) for answer in answers])
        start = self._text(prompt, rendered)
        wholes = [self._text(prompt + answer, rendered) for answer in answers]
        parts = [answer_after(start, whole, answer, self.encode) for whole, answer in zip(wholes, answers, strict=True)]
        spanned = next((whole for whole, (_, apart) in zip(wholes, parts, strict=True) if apart), None)
        if spanned is None:
            return Paired([self._pair(start, ids) for ids, _ in parts])
        token = self.tokenizer.decode(spanned[_common([start, spanned]) :][:1])
        if prompt.endswith(" "):
            # Words begin with their blank; so it is scored with the word, as the harness does.
            before, cut = self._text(prompt.rstrip(" "), rendered), _common([start, *wholes])
            if _common([before, start, *wholes]) == len(before) and all(len(whole) > cut for whole in wholes):
                return Paired([self._pair(whole[:cut], whole[cut:]) for whole in wholes], "blank", token)
        return Paired([self._pair(start, ids) for ids, _ in parts], "split", token)

    def _text(self, text: str, rendered: bool) -> list[int]:
        return begun(self.encode(text), [] if rendered else self.beginning)

    def _pair(self, prompt: list[int], answer: list[int]) -> Pair:
        if prompt:
            return Pair(prompt, answer)
        # Something must stand before the first token: the beginning of a text, or the end of another one, as in the harness.
        start = self.tokenizer.bos_token_id
        return Pair([self.tokenizer.eos_token_id if start is None else start], answer)


def answers_of(example: Example, prompt: str) -> list[str]:
    """An example's choices, or its answer, each as it follows the prompt: after a space, unless there is one already or
    a template wrote the prompt.
    """
    blank = "" if example.messages is not None or prompt[-1:].isspace() else " "
    texts = example.choices or (example.answer,)
    return [text if text[:1].isspace() else f"{blank}{text}" for text in texts]


def _common(lists: Sequence[Sequence[int]]) -> int:
    """How many first tokens all of them share."""
    return sum(1 for _ in itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*lists, strict=False)))
