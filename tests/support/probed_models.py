"""A family of tiny models that know some answers by heart: a base, its fine-tuning, and a later version in bfloat16."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from support import tiny_scored
from support.tiny_lines import rewrite
from support.tiny_models import edit_json, perturbed, read_weights


@dataclass(frozen=True)
class Asked:
    """Where the models lie, and the files that they are asked."""

    base: Path
    tuned: Path
    target: Path
    prompts: Path
    towns: Path
    texts: Path

    @property
    def models(self) -> tuple[Path, Path, Path]:
        return self.base, self.tuned, self.target


def make(folder: Path, ends: Path) -> Asked:
    """The family, whose base is the model `half` among ``ends``; the prompts are those of its questions, without answers."""
    tuned = tiny_scored.make_model(folder / "tuned", 12)
    later = perturbed(read_weights(ends / "half"), 7, 0.01)
    target = rewrite(ends / "half", folder / "target", {name: tensor.bfloat16() for name, tensor in later.items()})
    edit_json(target / "config.json", {"dtype": "bfloat16"})
    rows = [{key: value for key, value in row.items() if key != "answer"} for row in tiny_scored.rows()]
    prompts = tiny_scored.write_rows(folder / "prompts.jsonl", rows)
    return Asked(ends / "half", tuned, target, prompts, ends / "towns.jsonl", ends / "texts.jsonl")


def weights_in_float32(folder: Path) -> dict[str, torch.Tensor]:
    """A model's weights as transformers loads them in float32."""
    from transformers import AutoModelForCausalLM

    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict())
