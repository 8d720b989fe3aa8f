"""Texts that show what a model retains, and keep it near the target: the user's, or texts that the target itself writes.

A model's own samples are near what it was trained on, so they tell of a loss of abilities, and prevent it, without any data.
Half of them are measured, the other half is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuneport.examples.questions import Example, OwnTask

TEXTS, TOKENS = 128, 128
SEED = 0


def own_texts(model: Any) -> list[str]:
    """Texts that a loaded model of the harness draws from its own distribution, beginning with nothing.

    From its beginning token, or its end token where it has none; always the same ones on one device.
    """
    import torch

    begin = model.tokenizer.bos_token_id
    if begin is None:
        begin = model.tokenizer.eos_token_id
    length = min(TOKENS, int(model.max_length) - 1)
    torch.manual_seed(SEED)
    found: list[str] = []
    for start in range(0, TEXTS, 16):
        given = torch.full((min(16, TEXTS - start), 1), begin, device=model.device)
        ids = model.model.generate(
            given,
            attention_mask=torch.ones_like(given),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=length,
            pad_token_id=model.tokenizer.pad_token_id,
        )
        found += model.tokenizer.batch_decode(ids[:, 1:], skip_special_tokens=True)
    return [text for text in dict.fromkeys(found) if text.strip()]


def halves(texts: Sequence[str]) -> tuple[OwnTask, tuple[Example, ...]]:
    """Texts to measure, and texts to train on."""
    examples = tuple(Example(str(number), number, text) for number, text in enumerate(texts, 1))
    return OwnTask("retain", "loss", examples[::2], "the target's own texts", "text"), examples[1::2]
