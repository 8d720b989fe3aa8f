"""The two training loops: pretraining on packed text, and fine-tuning with the loss on answers only.

Both are plain loops in float32 with AdamW on the threads that torch is given; the same seed, on the same
machine and number of threads, gives the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

Ids = npt.NDArray[np.int64]
IGNORED = -100  # torch's label for a position that does not count in the loss


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: the rate rises over `warmup` steps to `peak`, then falls to `final` of it."""

    steps: int
    peak: float
    warmup: int = 50
    final: float = 0.0
    shape: str = "linear"  # or "cosine"
    batch: int = 32

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        left = (1 + math.cos(math.pi * done)) / 2 if self.shape == "cosine" else 1 - done
        return self.peak * (self.final + (1 - self.final) * left)


def pack(documents: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int, separator: str) -> Ids:
    """All documents one after another, each after a separator, cut into rows of `length` + 1 ids."""
    flat = tokenizer(separator.join(["", *documents, ""]), add_special_tokens=False)["input_ids"]
    ids = np.array(flat, dtype=np.int64)
    rows = len(ids) // (length + 1)
    return ids[: rows * (length + 1)].reshape(rows, length + 1)


def pretrain(model: Any, rows: Ids, schedule: Schedule) -> float:
    """Next-token prediction over `rows`, each read once, in order; returns the last steps' mean loss."""
    import torch

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(schedule.steps):
            batch = torch.from_numpy(rows[step * schedule.batch : (step + 1) * schedule.batch])
            yield batch[:, :-1], batch[:, 1:]

    if len(rows) < schedule.steps * schedule.batch:
        raise ValueError(f"{schedule.steps} steps of {schedule.batch} rows need more than {len(rows)} rows")
    return _train(model, batches(), schedule)


def fine_tune(model: Any, examples: Sequence[tuple[list[int], list[int]]], schedule: Schedule) -> float:
    """Fine-tuning on (prompt ids, answer ids), loss on answers only; returns the last steps' mean loss.

    Examples are read in order and again from the start when they run out. Short ones are padded on the
    right, where a causal model cannot see it.
    """
    import torch

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(schedule.steps):
            chosen = [examples[(step * schedule.batch + i) % len(examples)] for i in range(schedule.batch)]
            longest = max(len(prompt) + len(answer) for prompt, answer in chosen)
            inputs = np.zeros((schedule.batch, longest), dtype=np.int64)
            labels = np.full((schedule.batch, longest), IGNORED, dtype=np.int64)
            for row, (prompt, answer) in enumerate(chosen):
                end = len(prompt) + len(answer)
                inputs[row, :end] = prompt + answer
                labels[row, len(prompt) : end] = answer
            yield torch.from_numpy(inputs[:, :-1]), torch.from_numpy(labels[:, 1:])

    return _train(model, batches(), schedule)


def _train(model: Any, batches: Iterator[tuple[Tensor, Tensor]], schedule: Schedule) -> float:
    import torch
    from torch.nn import functional

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.peak, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    model.train()
    losses = []
    for step, (inputs, labels) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        logits = model(inputs, use_cache=False).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return float(np.mean(losses[-10:]))
