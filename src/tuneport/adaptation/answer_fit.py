"""How likely a model finds answers that it is to learn to give: what one α, or many, is chosen by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuneport.examples.questions import Example
from tuneport.scoring.answers.answer_losses import AnswerLosses
from tuneport.scoring.measured_tokens import Pair
from tuneport.scoring.prompts import prompts_of


def answered(model: Any, examples: Sequence[Example], answers: Sequence[str]) -> list[Pair]:
    """The tokens of each prompt and its answer, for a loaded model; without those that say nothing or are too long for it."""
    losses, found = AnswerLosses(model), []
    for example, answer in zip(examples, answers, strict=True):
        if not answer.strip():
            continue
        prompt = prompts_of(model.tokenizer, [example])[0]
        pair = losses.pair(prompt, answer, rendered=example.messages is not None)
        if pair.answer and len(pair.prompt) + len(pair.answer) <= model.max_length:
            found.append(pair)
    return found


def nats_per_token(model: Any, pairs: Sequence[Pair]) -> float:
    """Mean loss of the answers' tokens."""
    losses = AnswerLosses(model)
    nats = sum(losses.loss(pair, losses.logs(pair)) for pair in pairs)
    return nats / max(sum(len(pair.answer) for pair in pairs), 1)
