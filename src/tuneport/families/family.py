"""A family of models: version 1 from a random start, version 2 from version 1.

Every model is saved as an ordinary bf16 checkpoint in several shards with its tokenizer, under its final name only when
it is complete. The next model starts from that file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneport.families import pretraining, word_tokenizers
from tuneport.families.pretraining import Schedule
from tuneport.files.opening import read_text
from tuneport.output.workdir import workplace
from tuneport.tuning.save import share_weights

if TYPE_CHECKING:
    import torch

RECORD = "family.json"
Lessons = Sequence[tuple[Schedule, Sequence[str]]]  # for each stage its schedule and its documents


@dataclass(frozen=True)
class Architecture:
    """The size of the models: tiny Llamas with an untied head (tying it costs half of the transfer)."""

    hidden: int = 96
    layers: int = 2
    heads: int = 4
    feedforward: int = 192
    context: int = 64


def pretrain_version(
    out: Path,
    architecture: Architecture,
    stages: Lessons,
    seed: int,
    words: Sequence[str] | None = None,
    previous: Path | None = None,
) -> None:
    """A version, saved at `out`: a random start from `seed`, then each stage's documents on its schedule.

    With `previous` it continues from that one instead, with a tokenizer that has tokens inserted. Its tokens are
    `words`, or the demo's.
    """
    import torch

    tokenizer = word_tokenizers.tokenizer_of(words or word_tokenizers.words(version=1 if previous is None else 2))
    torch.manual_seed(seed)
    model = new_model(architecture, tokenizer)
    if previous is not None:
        _inherit(model, tokenizer.get_vocab(), previous)
    for schedule, documents in stages:
        pretraining.pretrain(model, pack(documents, tokenizer, architecture), schedule)
    save(model, tokenizer, out)


@contextmanager
def family_folder(out: Path, form: str, seed: int, recipe: Any) -> Iterator[tuple[Path, dict[str, Any]] | None]:
    """The folder of a family in the making, and what its record is to say besides; None where it is there already."""
    with workplace(out, {"format": form, "seed": seed, "recipe": asdict(recipe)}, RECORD) as folder:
        if folder is None:
            yield None
            return
        told: dict[str, Any] = {}
        yield folder, told
        record = {"format": form, "plan": json.loads(read_text(folder / "plan.json")), **told}
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def pack(documents: Sequence[str], tokenizer: Any, architecture: Architecture) -> pretraining.Ids:
    """Documents as rows to read, each as long as the context."""
    return pretraining.pack(documents, tokenizer, architecture.context, f" {word_tokenizers.SEPARATOR} ")


def new_model(architecture: Architecture, tokenizer: Any) -> Any:
    """A model of this size with random weights, as torch's generator has them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=architecture.hidden,
        intermediate_size=architecture.feedforward,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        max_position_embeddings=2 * architecture.context,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def load(folder: Path) -> Any:
    """A saved model, in float32, for training."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def save(model: Any, tokenizer: Any, out: Path, *, dtype: torch.dtype | None = None) -> None:
    """Save a checkpoint in several shards (bf16 by default) beside its place; rename it when complete."""
    import torch

    unfinished = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model = model.to(dtype or torch.bfloat16)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    model.save_pretrained(unfinished, max_shard_size=size // 3)
    share_weights(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(out)


def _inherit(model: Any, ids: dict[str, int], previous: Path) -> None:
    """Take over every weight of `previous`; rows of the embedding and the head by their token's string."""
    import torch
    from transformers import AutoTokenizer

    old_ids: dict[str, int] = AutoTokenizer.from_pretrained(previous).get_vocab()
    old = load(previous).state_dict()
    shared = [word for word in ids if word in old_ids]
    new_rows, old_rows = [ids[word] for word in shared], [old_ids[word] for word in shared]
    weights = model.state_dict()
    for name, weight in weights.items():
        if weight.shape == old[name].shape:
            weight.copy_(old[name])
        else:  # new tokens start among the old ones, as transformers resizes: by their mean and spread
            weight.copy_(old[name].mean(dim=0) + old[name].std(dim=0) * torch.randn_like(weight))
            weight[new_rows] = old[name][old_rows]
