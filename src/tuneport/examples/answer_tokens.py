"""Which tokens of a conversation belong to an answer, each answer with its end-of-turn token.

Returns tokens if the template marks answers itself, else the text and the positions of answers in it. Raises
`RenderingError` if the template cannot render the conversation, or if answers cannot be located in its text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tuneport.errors import RenderingError
from tuneport.examples.rendering import refusals_in_words, render

Span = tuple[int, int]
_GENERATION = re.compile(r"\{%-?\s*generation\b")


def marks_answers(tokenizer: Any) -> bool:
    """Whether the template marks what the assistant says."""
    return _GENERATION.search(str(tokenizer.chat_template)) is not None


def marked_answers(messages: list[dict[str, str]], tokenizer: Any) -> tuple[list[int], list[bool]]:
    """The conversation's tokens, and which of them the template itself marks as an answer's."""
    with refusals_in_words():
        marked = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    return list(marked["input_ids"]), [bool(mine) for mine in marked["assistant_masks"]]


def written_answers(
    messages: list[dict[str, str]], first: int, tokenizer: Any, end_token: str | None
) -> tuple[str, list[Span]]:
    """The conversation as text, and where in it the answers from message ``first`` on stand.

    An answer is what the template writes between the prompt that asks for it and the end of its turn; that can be
    told where the template writes a shorter conversation as the beginning of a longer one.
    """
    whole = render(tokenizer, messages)
    spans = []
    for place, message in enumerate(messages):
        if message["role"] != "assistant" or place < first:
            continue
        if place == 0:
            raise RenderingError("the conversation begins with an answer; begin it with the user's message")
        asked = render(tokenizer, messages[:place], ask=True)
        last = place == len(messages) - 1
        until = whole if last else render(tokenizer, messages[: place + 1])
        # Some templates write a line's end between turns only.
        if not (whole.startswith(until) or whole.startswith(until.rstrip())) or not until.startswith(asked):
            raise RenderingError(
                "it writes the same answer differently at the end and inside a conversation, so answers cannot be "
                "separated from prompts; mark them in the template with {% generation %} … {% endgeneration %}, or "
                "split the conversations"
            )
        end = len(until.rstrip())
        if end_token:
            closing = until.rfind(end_token, len(asked))
            end = closing + len(end_token) if closing >= 0 else end
        spans.append((len(asked), end))
    return whole, spans


def tokens_inside(offsets: Sequence[Span], spans: Sequence[Span]) -> tuple[list[bool], int]:
    """For each token whether it begins inside one of the spans (in their order), and how many end in one only."""
    found, spanning, waiting = [], 0, iter([*spans, (2**62, 2**62)])
    start, end = next(waiting)
    for begin, stop in offsets:
        while begin >= end:
            start, end = next(waiting)
        found.append(begin >= start and stop > begin)
        spanning += begin < start < stop
    return found, spanning
