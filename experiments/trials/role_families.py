"""Families of models for the trials of roles: versions near and far, branches, fine-tunings, adapters, all of one start.

    python -m experiments.trials.role_families --out DIR --families 201,202,…

`FAMILIES` names the seeds: on some the thresholds of `tuneport.comparison.model_roles` were chosen, on the others they are only
counted. Each model is made once; a run that was stopped goes on from the models it has. A family takes ten minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHOSEN_ON = (201, 202, 203)  # thresholds were chosen with these in view
COUNTED = (204, 205, 206)  # looked at once, with nothing changed afterwards
TIED = (203, 206)  # embedding and head are one matrix

VERSIONS = ("M1", "M2", "M3", "M4", "M5")


@dataclass(frozen=True)
class Tuning:
    """A fine-tuning: of which model, by which file, how fast and how long."""

    start: str
    data: str
    rate: float
    steps: int
    recipe: str = "sft"
    adapter: bool = False


TUNINGS: Mapping[str, Tuning] = {
    **{f"{start}-sft": Tuning(start, "instructions.jsonl", 1e-3, 120) for start in ("M1", "M3", "M5", "side", "next")},
    **{f"{start}-soft": Tuning(start, "instructions.jsonl", 1e-4, 30) for start in ("M1", "M3", "M5", "side", "next")},
    "M5-big": Tuning("M5", "instructions.jsonl", 3e-3, 200),
    **{f"{start}-language": Tuning(f"{start}-sft", "language.jsonl", 2e-4, 40) for start in ("M1", "M3", "M5", "next")},
    **{f"{start}-dpo": Tuning(f"{start}-sft", "preferences.jsonl", 5e-5, 30, "dpo") for start in ("M3", "M5")},
    "M3-tiny": Tuning("M3-sft", "preferences.jsonl", 5e-7, 10, "dpo"),
    **{f"{start}-lora": Tuning(start, "instructions.jsonl", 1e-3, 60, adapter=True) for start in ("M1", "M3", "M5")},
}


def make(folder: Path, seed: int) -> None:
    """Every model of a family in ``folder``, unless they are there."""
    if all((folder / name).exists() for name in TUNINGS):
        return
    os.environ["TQDM_DISABLE"] = "1"
    import torch

    from tuneport.families import word_tokenizers

    torch.set_num_threads(1)
    with tied_models(seed in TIED):
        versions(folder, seed)
    write_language(folder, seed)
    for name, tuning in TUNINGS.items():
        if not (folder / name).exists():
            tune(folder / name, folder, tuning, seed, word_tokenizers.END)


def versions(folder: Path, seed: int) -> None:
    """The versions: M0 to M5 of one pretraining, and others that go on from them."""
    from tuneport.families import corpus, family
    from tuneport.families import versions as lab
    from tuneport.families.pretraining import Schedule

    recipe = lab.SMALL
    lab.make_family(folder, seed=seed, recipe=recipe)
    world, shares = corpus.make_world(seed), dict(recipe.amounts.second_shares)
    inserted = lab.words()
    middle = len(inserted) // 2
    inserted[middle:middle] = [f"inserted{number}" for number in range(24)]

    def go_on(
        name: str, start: str, schedule: Schedule, words: list[str], text: str = "second", fresh: bool = False
    ) -> None:
        if (folder / name).exists():
            return
        tokens = (schedule.steps + 1) * schedule.batch * (recipe.architecture.context + 1)
        mix = shares if text == "second" else {**recipe.amounts.first_shares, "new-facts": 0.3}
        documents = corpus.write_documents(world, mix, tokens, f"{name} {seed}")
        previous = embeddings_replaced(folder / start, folder / f"{start}-bare", seed) if fresh else folder / start
        family.pretrain_version(folder / name, recipe.architecture, ((schedule, documents),), seed + 1, words, previous)

    plain = lab.words()
    go_on("side", "M3", Schedule(steps=200, peak=2e-3, warmup=20), plain)  # a sibling of M4 and M5
    go_on("near", "M5", Schedule(steps=15, peak=1e-4, warmup=1), plain)  # hardly another version
    go_on("far", "M3", Schedule(steps=400, peak=4e-3, final=1.0), plain, "first")  # at a rate that never falls
    go_on("next", "M5", Schedule(steps=200, peak=5e-4, warmup=20), inserted, "first")  # tokens inserted, as in the demo
    go_on("replaced", "M5", Schedule(steps=200, peak=1e-3, warmup=20), inserted, "first", fresh=True)


@contextmanager
def tied_models(wanted: bool) -> Iterator[None]:
    """Within this, the lab's new models have one matrix for embedding and head, where that is ``wanted``."""
    from transformers import LlamaForCausalLM

    from tuneport.families import family

    plain = family.new_model

    def tied(architecture: Any, tokenizer: Any) -> Any:
        config = plain(architecture, tokenizer).config
        config.tie_word_embeddings = True
        return LlamaForCausalLM(config)

    family.new_model = tied if wanted else plain
    try:
        yield
    finally:
        family.new_model = plain


def embeddings_replaced(start: Path, out: Path, seed: int) -> Path:
    """A copy of ``start`` whose embedding and head are random again, as where a tokenizer was exchanged."""
    import torch
    from transformers import AutoTokenizer

    from tuneport.families import family

    if not out.exists():
        torch.manual_seed(seed)
        model = family.load(start)
        with torch.no_grad():
            for part in (model.get_input_embeddings(), model.get_output_embeddings()):
                part.weight.normal_(std=0.02)
        family.save(model, AutoTokenizer.from_pretrained(start), out)
    return out


def write_language(folder: Path, seed: int) -> None:
    """The instructions in another language: every word is another one, the marks and the chat tokens stay."""
    from tuneport.families import corpus
    from tuneport.files.writing import write_lines

    words = sorted({*corpus.NAMES, *corpus.NOUNS, *corpus.VERBS, *corpus.ADJECTIVES, *corpus.PEOPLE, *corpus.THINGS})
    other = dict(zip(words, random.Random(f"language {seed}").sample(words, len(words)), strict=True))

    def said(text: str) -> str:
        return " ".join(other.get(word, word) for word in text.split(" "))

    rows = map(json.loads, (folder / "instructions.jsonl").read_text(encoding="utf-8").splitlines())
    write_lines(
        folder / "language.jsonl",
        ({"messages": [{**m, "content": said(m["content"])} for m in row["messages"]]} for row in rows),
    )


def tune(out: Path, folder: Path, tuning: Tuning, seed: int, end: str) -> None:
    """One fine-tuning, by the public function."""
    import tuneport
    from tuneport.tuning.recipes import DpoRecipe, Lora, Recipe, SftRecipe

    chats = (folder / tuning.start / "chat_template.jinja").exists()
    kind: type[Recipe] = DpoRecipe if tuning.recipe == "dpo" else SftRecipe
    more: dict[str, Any] = {"epochs": None, "dpo_beta": 0.3, "dpo_loss": "sigmoid"} if tuning.recipe == "dpo" else {}
    tuneport.tune(
        folder / tuning.start,
        [folder / tuning.data],
        kind(
            learning_rate=tuning.rate,
            steps=tuning.steps,
            batch_size=32,
            beta2=0.95,
            weight_decay=0.01,
            seed=seed,
            **more,
        ),
        out=out,
        chat_template=None if chats else str(folder / "chat.jinja"),
        end_token=None if chats else end,
        lora=Lora(rank=8) if tuning.adapter else None,
        shard_size="200KB",
    )


def main() -> int:
    """0 when every model is there."""
    parser = argparse.ArgumentParser(description="Make families for the trials of roles.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the families")
    parser.add_argument("--families", default=",".join(map(str, (*CHOSEN_ON, *COUNTED))), help="seeds, with commas")
    options = parser.parse_args()
    for seed in map(int, options.families.split(",")):
        print(f"family {seed} …", file=sys.stderr, flush=True)
        make(options.out / f"family-{seed}", seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
