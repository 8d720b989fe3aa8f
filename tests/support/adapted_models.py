"""A family of tiny real Llamas for the ladder: a base, a fine-tuning that names the first of two words, and a later version.

There are 1,600 prompts, so that some can be fitted on and others measured; what was learned on some of them holds for all.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from support.tiny_models import perturbed, read_weights
from support.tiny_scored import teach, write_rows

WORDS = tuple(f"{first}{second}" for first in "bdfgklmn" for second in ("a", "e", "i", "o", "u"))
SPECIAL = ("<pad>", "<unk>", "<user>", "<asst>", "<end>")
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<user> {{ message['content'] }} "
    "{% else %}<asst> {{ message['content'] }} <end> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<asst>{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """Where the models lie. ``pairs`` are all prompts, in an order of their own."""

    base: Path
    tuned: Path
    target: Path
    pairs: tuple[tuple[str, str], ...]

    @property
    def models(self) -> tuple[Path, Path, Path]:
        return self.base, self.tuned, self.target

    def rows(self, start: int, stop: int, *, answered: bool = False) -> list[dict[str, Any]]:
        """Some of the prompts, as rows of messages."""
        asked = [{"messages": [{"role": "user", "content": f"{a} {b}"}]} for a, b in self.pairs[start:stop]]
        if not answered:
            return asked
        return [{**row, "answer": a} for row, (a, _) in zip(asked, self.pairs[start:stop], strict=True)]

    def file(self, place: Path, start: int, stop: int, *, answered: bool = False) -> Path:
        """Some of the prompts, as a file."""
        return write_rows(place, self.rows(start, stop, answered=answered))


def make_tokenizer(template: str | None) -> Any:
    """Word by word; answers end with <end>."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {word: place for place, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL))
    named = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<end>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=template, clean_up_tokenization_spaces=False, **named
    )


def make(folder: Path) -> Family:
    """The family. The later version is the base with noise, in which Δ does about half of what it did in its own base."""
    tokenizer, base_tokenizer = make_tokenizer(TEMPLATE), make_tokenizer(None)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids("<end>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    drawn = random.Random(0)
    pairs = list(itertools.permutations(WORDS, 2))
    drawn.shuffle(pairs)
    _teach(model, tokenizer, [drawn.choice(pair) for pair in pairs], pairs, steps=40)
    _save(model, base_tokenizer, folder / "base")
    _teach(model, tokenizer, [first for first, _ in pairs], pairs, steps=120)
    _save(model, tokenizer, folder / "tuned")
    later = LlamaForCausalLM.from_pretrained(folder / "base")
    later.load_state_dict(perturbed(read_weights(folder / "base"), 3, NOISE))
    _save(later, base_tokenizer, folder / "target")
    return Family(folder / "base", folder / "tuned", folder / "target", tuple(pairs))


NOISE = 0.08


def _teach(model: Any, tokenizer: Any, answers: Sequence[str], pairs: Sequence[tuple[str, str]], *, steps: int) -> None:
    encoded = [
        (tokenizer.encode(f"<user> {a} {b} <asst>"), tokenizer.encode(f"{answer} <end>"))
        for (a, b), answer in zip(pairs, answers, strict=True)
    ]
    teach(model, encoded, steps=steps, rate=1e-2, batch=48)


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings))
