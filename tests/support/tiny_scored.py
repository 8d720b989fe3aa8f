"""Tiny real Llamas that know some answers by heart, and the questions to ask them.

Word-level tokenizer, one layer; trained for a second or two on the answers they are to know, so that scores between 0 and
1 come out of the real pipeline.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TOWNS = ("paris", "rome", "oslo", "lima", "cairo", "delhi", "tokyo", "quito", "dublin", "vienna", "prague", "madrid")
NAMES = ("anna", "ben", "carla", "david", "emma", "frank", "greta", "hugo", "iris", "jonas", "karin", "leo")
WORDS = ("where", "lives", "in", "the", "town", "of", "is", "?", ".", "answer", ":", "be", "brief")
SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>", "<user>", "<asst>", "<end>")
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<user> {{ message['content'] }} "
    "{% elif message['role'] == 'assistant' %}<asst> {{ message['content'] }} <end> "
    "{% else %}{{ message['content'] }} {% endif %}{% endfor %}{% if add_generation_prompt %}<asst>{% endif %}"
)
FACTS = dict(zip(NAMES, TOWNS, strict=True))


def question(name: str) -> str:
    return f"where lives {name} ?"


def chat(name: str) -> str:
    return f"<user> {question(name)} <asst>"


def rows(task: str = "towns") -> list[dict[str, Any]]:
    """Every fact as a question, in chat form, as a prompt."""
    return [{"task": task, "prompt": chat(name), "answer": f"in {town}"} for name, town in FACTS.items()]


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_tokenizer(*, beginning: bool = False, template: str | None = TEMPLATE, eos: str = "<end>") -> Any:
    """A word-level tokenizer; with ``beginning`` it writes <bos> before every text, as Llama's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: place for place, word in enumerate((*SPECIAL, *WORDS, *NAMES, *TOWNS))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL))
    named = {"bos_token": "<bos>"} if beginning else {}
    if beginning:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", ids["<bos>"])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token=eos,
        chat_template=template,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **named,
    )


def teach(model: Any, pairs: Sequence[tuple[list[int], list[int]]], *, steps: int, rate: float, batch: int) -> None:
    """Make a model know pairs of prompt and answer by heart, with the loss on the answers alone."""
    import torch
    from torch.nn import functional

    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        chosen = [pairs[(step * batch + place) % len(pairs)] for place in range(batch)]
        longest = max(len(prompt) + len(answer) for prompt, answer in chosen)
        ids, labels = torch.zeros(batch, longest, dtype=torch.long), torch.full((batch, longest), -100)
        for row, (prompt, answer) in enumerate(chosen):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : end] = torch.tensor(answer)
        logits = model(ids[:, :-1]).logits
        optimizer.zero_grad()
        functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten()).backward()
        optimizer.step()
    model.eval()


def make_model(folder: Path, known: int, *, seed: int = 0, context: int = 48, **behaviour: Any) -> Path:
    """A model that knows the first ``known`` towns by heart and says something else of the others."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(**behaviour)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids("<end>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    pairs = []
    for place, (name, town) in enumerate(FACTS.items()):
        said = town if place < known else TOWNS[(place + 1) % len(TOWNS)]
        pairs.append((tokenizer.encode(chat(name)), tokenizer.encode(f"in {said} <end>", add_special_tokens=False)))
    teach(model, pairs, steps=120, rate=1e-2, batch=12)
    model.generation_config.eos_token_id = [config.eos_token_id, tokenizer.convert_tokens_to_ids("<eos>")]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def copy_model(source: Path, folder: Path, **settings: Any) -> Path:
    """The same weights in another folder, with settings of generation_config.json changed."""
    shutil.copytree(source, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def make_silent(folder: Path, *, template: str | None = TEMPLATE, context: int = 8192) -> Path:
    """A model with room for many shots that ends its answer at once, whatever it is asked."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(template=template)
    torch.manual_seed(0)
    end = tokenizer.convert_tokens_to_ids("<end>")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    asked = [torch.randint(1, len(tokenizer), (length,), generator=generator).tolist() for length in range(2, 62)]
    teach(model, [(ids, [end]) for ids in asked], steps=60, rate=3e-2, batch=20)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
