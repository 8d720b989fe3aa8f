"""A triple of checkpoints to transfer: base, tuned, target, with random values in the shapes of Llama 3.2.

In comes a size, out comes a folder that is built once: ``same`` (three byte-identical tokenizers) and ``differ`` (the
target's has new tokens in the middle; the weights are hard links to the same files). Values are seeded, tensor by tensor
and block by block, so they do not depend on threads; memory does not grow with the model.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.vocabulary import SIZE, write_tokenizer

ROLES = ("base", "tuned", "target")
VARIANTS = ("same", "differ")
SPREAD = 0.02
STEP = {"tuned": 1e-3, "target": 3e-3}
SEED = 2
SHARD_BYTES = 5 * 10**9
BLOCK = 4 * 2**20
DONE = "complete"

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Size:
    """The numbers of a Llama that decide its shapes."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head: int

    def shapes(self) -> Shapes:
        """Tensors by name, as transformers stores them; the head is tied to the embedding."""
        keys, queries = self.key_value_heads * self.head, self.heads * self.head
        shapes: Shapes = {"model.embed_tokens.weight": (SIZE, self.hidden)}
        for layer in range(self.layers):
            here = f"model.layers.{layer}."
            shapes[here + "input_layernorm.weight"] = (self.hidden,)
            shapes[here + "mlp.down_proj.weight"] = (self.hidden, self.intermediate)
            shapes[here + "mlp.gate_proj.weight"] = (self.intermediate, self.hidden)
            shapes[here + "mlp.up_proj.weight"] = (self.intermediate, self.hidden)
            shapes[here + "post_attention_layernorm.weight"] = (self.hidden,)
            shapes[here + "self_attn.k_proj.weight"] = (keys, self.hidden)
            shapes[here + "self_attn.o_proj.weight"] = (self.hidden, queries)
            shapes[here + "self_attn.q_proj.weight"] = (queries, self.hidden)
            shapes[here + "self_attn.v_proj.weight"] = (keys, self.hidden)
        return {**shapes, "model.norm.weight": (self.hidden,)}

    @property
    def parameters(self) -> int:
        """Number of stored elements."""
        return sum(math.prod(shape) for shape in self.shapes().values())


SIZES = {
    "0.1B": Size(hidden=512, intermediate=2048, layers=10, heads=8, key_value_heads=4, head=64),
    "1.2B": Size(hidden=2048, intermediate=8192, layers=16, heads=32, key_value_heads=8, head=64),  # Llama 3.2 1B
    "4B": Size(hidden=3072, intermediate=8192, layers=36, heads=24, key_value_heads=8, head=128),  # 3B, eight more
}


@dataclass(frozen=True)
class Triple:
    """A triple on disk: ``folder``/same/base, …, ``folder``/differ/target."""

    folder: Path
    size: Size

    def model(self, role: str, variant: str = "same") -> Path:
        """The folder of one of the three checkpoints."""
        return self.folder / variant / role

    def weights(self) -> list[Path]:
        """All weight files, each once."""
        return sorted((self.folder / "same").glob("*/*.safetensors"))

    @property
    def nbytes(self) -> int:
        """Bytes of the weights of one of the three."""
        return 2 * self.size.parameters


def build(folder: Path, name: str) -> Triple:
    """The triple of that size under ``folder``, made now unless it is there already."""
    triple = Triple(folder / f"triple-{name}", SIZES[name])
    marker = triple.folder / DONE
    recipe = json.dumps({"size": vars(triple.size), "seed": SEED, "spread": SPREAD, "step": STEP, "form": 1})
    if marker.is_file() and marker.read_text() == recipe:
        return triple
    shutil.rmtree(triple.folder, ignore_errors=True)
    check_space(folder, 3 * triple.nbytes)
    for role in ROLES:
        model = triple.model(role)
        model.mkdir(parents=True)
        (model / "config.json").write_text(json.dumps(_config(triple.size), indent=2) + "\n")
        (model / "generation_config.json").write_text(json.dumps({"bos_token_id": 128000, "do_sample": False}) + "\n")
    write_tokenizer(triple.model("base"), SEED)
    for role in ("tuned", "target"):
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(triple.model("base") / file, triple.model(role) / file)
    _write_weights(triple)
    for role in ROLES:
        shutil.copytree(triple.model(role), triple.model(role, "differ"), copy_function=os.link)
    other = triple.model("target", "differ")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (other / file).unlink()
    write_tokenizer(other, SEED, inserted=True)
    marker.write_text(recipe)
    return triple


def check_space(folder: Path, needed: int) -> None:
    """Stop in words where the disk has not that many bytes, and two gigabytes more."""
    free = shutil.disk_usage(folder).free
    if free < needed + 2 * 10**9:
        raise SystemExit(f"bench: {folder} has {free / 1e9:.1f} GB free, this needs {needed / 1e9 + 2:.1f} GB.")


def _write_weights(triple: Triple) -> None:
    shards = list(_shards(triple.size.shapes()))
    offsets: dict[str, tuple[str, int]] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        begin, places = 0, {}
        for tensor, shape in names.items():
            places[tensor] = begin
            end = begin + 2 * math.prod(shape)
            header[tensor] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
            begin = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        offsets |= {tensor: (file, 8 + len(text) + place) for tensor, place in places.items()}
        for role in ROLES:
            with (triple.model(role) / file).open("wb") as stream:
                stream.write(len(text).to_bytes(8, "little") + text)
                stream.truncate(8 + len(text) + begin)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": triple.nbytes},
            "weight_map": {tensor: file for tensor, (file, _) in offsets.items()},
        }
        for role in ROLES:
            (triple.model(role) / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    torch.set_num_threads(1)
    blocks = [
        (number, tensor, start)
        for number, (tensor, shape) in enumerate(triple.size.shapes().items())
        for start in range(0, math.prod(shape), BLOCK)
    ]

    def fill(number: int, tensor: str, start: int) -> None:
        count = min(BLOCK, math.prod(triple.size.shapes()[tensor]) - start)
        random = np.random.Generator(np.random.SFC64((SEED, number, start)))
        base = torch.from_numpy(random.standard_normal(count, np.float32)).mul_(SPREAD).to(torch.bfloat16)
        for role in ROLES:
            values = base
            if role in STEP:
                step = torch.from_numpy(random.standard_normal(count, np.float32)).mul_(STEP[role])
                values = step.add_(base).to(torch.bfloat16)
            file, offset = offsets[tensor]
            with (triple.model(role) / file).open("r+b", buffering=0) as stream:
                stream.seek(offset + 2 * start)
                stream.write(values.view(torch.int16).numpy().tobytes())

    with ThreadPoolExecutor(max_workers=2) as pool:
        for done in [pool.submit(fill, *block) for block in blocks]:
            done.result()


def _shards(shapes: Shapes) -> Iterator[Shapes]:
    shard: Shapes = {}
    for tensor, shape in shapes.items():
        if shard and 2 * sum(math.prod(shape) for shape in (*shard.values(), shape)) > SHARD_BYTES:
            yield shard
            shard = {}
        shard[tensor] = shape
    yield shard


def _config(size: Size) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "head_dim": size.head,
        "hidden_act": "silu",
        "hidden_size": size.hidden,
        "initializer_range": 0.02,
        "intermediate_size": size.intermediate,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": size.key_value_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": SIZE,
    }
