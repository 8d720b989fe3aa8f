"""A control that must gain nothing: the fine-tuning's changes, put in the wrong places.

The changed checkpoint is an ordinary one (float32, so that the shuffled changes are what is added, to the
last bit that matters), and goes through the same engine as any other.
"""

from __future__ import annotations

from pathlib import Path


def shuffle_changes(out: Path, base: Path, tuned: Path, seed: int) -> None:
    """Save base + shuffle(tuned − base) at `out`: each tensor keeps its changes but not where they belong."""
    import torch
    from transformers import AutoTokenizer

    from tuneport.families import family

    generator = torch.Generator().manual_seed(seed)
    before, model = family.load(base).state_dict(), family.load(tuned)
    for name, weight in model.state_dict().items():
        change = (weight - before[name]).flatten()
        shuffled = change[torch.randperm(change.numel(), generator=generator)]
        weight.copy_(before[name] + shuffled.view_as(weight))
    family.save(model, AutoTokenizer.from_pretrained(tuned), out, dtype=torch.float32)
