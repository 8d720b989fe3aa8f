"""The KL divergence of two models' next tokens, where only one model's likeliest tokens are counted separately.

All other tokens are one class, "anything else", in both models. This is a true KL divergence of coarser distributions: at
most that of the full ones, and equal to it where all tokens are counted separately. Plain torch: gradients pass through.
"""

from __future__ import annotations

from typing import Any


def lumped_divergence(logits: Any, ids: Any, expected: Any, rest: Any) -> Any:
    """KL in nats at each of n places, from a model that expected something to the one whose ``logits`` are given.

    ``logits``: n × vocabulary. ``ids``: n × k, the ids in this vocabulary of the tokens that count separately, each at most
    once in a row; -1: this model does not have the token, so it counts among the rest. ``expected``: n × k, the other
    model's log-probabilities of them. ``rest``: n, the other model's probability of all others. Returns n numbers.
    """
    import torch

    size = logits.shape[1]
    known = ids >= 0
    all_of = logits.logsumexp(dim=1)
    own = logits.gather(1, ids.clamp(min=0)) - all_of[:, None]
    likely = torch.where(known, expected.exp(), 0.0)
    told = (likely * torch.where(known, expected - own, 0.0)).sum(dim=1)
    others = rest + torch.where(known, 0.0, expected.exp()).sum(dim=1)
    # Not as 1 minus the sum of the likely ones, which loses all digits where the rest is small.
    counted = torch.zeros(len(ids), size + 1, dtype=torch.bool, device=logits.device)
    counted = counted.scatter_(1, torch.where(known, ids, size), True)[:, :size]
    some = (others > 0) & ~counted.all(dim=1)
    # A row without others is not looked at: the gradient of an empty sum is not a number.
    left = logits.masked_fill(counted & some[:, None], float("-inf")).logsumexp(dim=1) - all_of
    logs = others.clamp(min=torch.finfo(logits.dtype).tiny).log()
    return told + torch.where(some, others * (logs - left), 0.0)
