"""Greedy answers of a saved model to a list of questions, and whether each is the expected one.

A model is scored as any user would run it: loaded from its folder through AutoModelForCausalLM, in float32,
decoding greedily until the end that its own generation config names. The whole answer must match, written
steps included.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_NEW_TOKENS = 24


def answers(
    folder: Path, prompts: Sequence[str], *, batch: int = 256, max_new_tokens: int = MAX_NEW_TOKENS
) -> list[str]:
    """What the model in `folder` says to each prompt, special tokens and surrounding blanks removed."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)  # ready for inference
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index].split()))
    said = [""] * len(prompts)
    for start in range(0, len(prompts), batch):
        chosen = by_length[start : start + batch]
        inputs = tokenizer(
            [prompts[index] for index in chosen],
            padding=True,
            return_tensors="pt",
            add_special_tokens=False,
            return_token_type_ids=False,
        )
        with torch.inference_mode():
            output = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        new = output[:, inputs["input_ids"].shape[1] :]
        for index, text in zip(chosen, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
            said[index] = text.strip()
    return said


def exact_matches(said: Sequence[str], expected: Sequence[str]) -> list[bool]:
    """Which answers are the expected ones to the letter."""
    return [given == wanted for given, wanted in zip(said, expected, strict=True)]
