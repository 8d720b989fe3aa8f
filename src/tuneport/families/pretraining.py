"""Pretrain on packed text, from a random start or from another version.

A plain loop in float32 with AdamW. The same seed gives the same weights on the same machine and number of threads.
`tuneport tune` does the fine-tuning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tuneport.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: the rate rises over `warmup` steps to `peak`, then falls to `final` of it."""

    steps: int
    peak: float
    warmup: int = 50
    final: float = 0.0
    shape: str = "linear"  # or "cosine"
    batch: int = 32

    def words(self, context: int) -> int:
        """As many words as the steps read in rows of ``context`` + 1, and a batch to spare."""
        return (self.steps + 1) * self.batch * (context + 1)

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


def pretrain(
    model: Any,
    rows: Ids,
    schedule: Schedule,
    *,
    after: Mapping[int, Callable[[Any], None]] | None = None,
    done: int = 0,
    optimizer_state: Mapping[str, Any] | None = None,
) -> float:
    """Next-token prediction over `rows`, each read once, in order; returns the last steps' mean loss.

    `after` says what to call, with the optimizer, once so many steps are done. A stopped run resumes after `done` steps
    with its `optimizer_state`, and ends with the same weights.
    """
    import torch
    from torch.nn import functional

    if len(rows) < schedule.steps * schedule.batch:
        raise ValueError(f"{schedule.steps} steps of {schedule.batch} rows need more than {len(rows)} rows")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.peak, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    if optimizer_state is not None:
        optimizer.load_state_dict(dict(optimizer_state))
    model.train()
    losses = []
    with Progress("pretrain", schedule.steps, "steps", before=done) as progress:
        for step in range(done, schedule.steps):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            batch = torch.from_numpy(rows[step * schedule.batch : (step + 1) * schedule.batch]).to(model.device)
            logits = model(batch[:, :-1], use_cache=False).logits
            loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            if after and step + 1 in after:
                after[step + 1](optimizer)
            progress.add()
    model.eval()
    return float(np.mean(losses[-10:]))
