"""Tiny checkpoints, written by the official safetensors library, and the formula once more, slowly, in torch.

Nothing here imports tuneport: what the tests compare with must not come from what they test.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)

Tensors = dict[str, torch.Tensor]
WORDS = [f"w{index}" for index in range(24)]
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool)


def llama(seed: int, dtype: torch.dtype = torch.bfloat16, rows: int = 24, hidden: int = 8) -> Tensors:
    """Random tensors under the names of a Llama of one layer with an untied head."""
    made = torch.Generator().manual_seed(seed)
    shapes = {
        "model.embed_tokens.weight": (rows, hidden),
        "model.layers.0.self_attn.q_proj.weight": (hidden, hidden),
        "model.layers.0.mlp.up_proj.weight": (3 * hidden, hidden),
        "model.layers.0.input_layernorm.weight": (hidden,),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (rows, hidden),
    }
    return {name: torch.randn(shape, generator=made).to(dtype) for name, shape in shapes.items()}


def moved(tensors: Tensors, seed: int, by: float = 0.02) -> Tensors:
    """The tensors with a little noise on every float, in their own dtype."""
    made = torch.Generator().manual_seed(seed)
    return {
        name: (value.float() + by * torch.randn(value.shape, generator=made)).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for name, value in tensors.items()
    }


def config(**fields: Any) -> dict[str, Any]:
    """A Llama's config."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "tie_word_embeddings": False,
        "hidden_size": 8,
        "vocab_size": 24,
        "torch_dtype": "bfloat16",
        **fields,
    }


def tokenizer(words: Sequence[str], added: Sequence[str] = ()) -> dict[str, Any]:
    """A tokenizer.json of whole words, and special tokens after them."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": len(words) + place,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for place, token in enumerate(added)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: id for id, word in enumerate(words)}, "unk_token": words[0]},
    }


def write_model(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    shards: int = 1,
    settings: Mapping[str, Any] | None = None,
    words: Sequence[str] = WORDS,
    added: Sequence[str] = (),
    **more: str,
) -> Path:
    """A checkpoint folder. ``more`` are other small files, ``name__suffix="contents"``."""
    path.mkdir(parents=True, exist_ok=True)
    write_weights(path, tensors, shards)
    (path / "config.json").write_text(json.dumps(config() if settings is None else dict(settings)))
    (path / "tokenizer.json").write_text(json.dumps(tokenizer(words, added)))
    for name, content in more.items():
        (path / name.replace("__", ".")).write_text(content)
    return path


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor], shards: int = 1, stem: str = "model") -> None:
    """The weights alone, in files named as transformers names them."""
    for old in [*path.glob("*.safetensors"), *path.glob("*.index.json")]:
        old.unlink()
    whole = {name: value.contiguous().clone() for name, value in tensors.items()}
    if shards == 1:
        save_file(whole, path / f"{stem}.safetensors", metadata={"format": "pt"})
        return
    names, placed = sorted(whole), {}
    for number in range(shards):
        file = f"{stem}-{number + 1:05d}-of-{shards:05d}.safetensors"
        mine = names[number::shards]
        save_file({name: whole[name] for name in mine}, path / file, metadata={"format": "pt"})
        placed.update(dict.fromkeys(mine, file))
    index = {"metadata": {"total_size": 0}, "weight_map": placed}
    (path / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def write_lora(path: Path, base: Mapping[str, torch.Tensor], rank: int, **settings: Any) -> Path:
    """A LoRA adapter on every projection of a base, as peft would write it (tiny_adapters.py has those of peft itself)."""
    path.mkdir(parents=True, exist_ok=True)
    made, factors = torch.Generator().manual_seed(rank), {}
    for name, tensor in base.items():
        if name.endswith("_proj.weight"):
            module = "base_model.model." + name.removesuffix(".weight")
            factors[f"{module}.lora_A.weight"] = torch.randn(rank, tensor.shape[1], generator=made)
            factors[f"{module}.lora_B.weight"] = 0.1 * torch.randn(tensor.shape[0], rank, generator=made)
    assert factors, "the base has no projections"
    save_file(factors, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 8, **settings}))
    return path


def read_weights(path: Path) -> Tensors:
    """All tensors of a folder, by the official reader."""
    found: Tensors = {}
    for file in sorted(path.glob("*.safetensors")):
        found.update(load_file(file))
    assert found, f"{path} holds no weights"
    return found


@dataclass(frozen=True)
class Trio:
    """Base, tuned and target on disk, and what is in them."""

    base: Path
    tuned: Path
    target: Path
    tensors: Mapping[str, Tensors]

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        return self.base, self.tuned, self.target

    def flags(self, out: Path, *more: str) -> list[str]:
        """The arguments of a transfer."""
        parents = zip(("--base", "--tuned", "--onto"), self.paths, strict=True)
        return ["transfer", *(str(part) for pair in parents for part in pair), "--out", str(out), *more]


def trio(
    where: Path,
    base: Tensors | None = None,
    tuned: Tensors | None = None,
    target: Tensors | None = None,
    *,
    shards: tuple[int, int, int] = (1, 1, 1),
    **options: Any,
) -> Trio:
    """Three models of one family: noise on the base is the tuned model, more noise is the target."""
    base = llama(1) if base is None else base
    tuned = moved(base, 2) if tuned is None else tuned
    target = moved(base, 3, by=0.05) if target is None else target
    parts = {"base": base, "tuned": tuned, "target": target}
    paths = [
        write_model(where / role, tensors, shards=count, **options)
        for (role, tensors), count in zip(parts.items(), shards, strict=True)
    ]
    return Trio(paths[0], paths[1], paths[2], parts)


def formula(
    base: torch.Tensor,
    tuned: torch.Tensor,
    target: torch.Tensor,
    scale: float = 1.0,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """target + scale·(tuned − base), each step rounded to the working dtype, then once to the target's."""
    dtype = dtype or target.dtype
    if target.dtype in INTEGERS or scale == 0:
        return target.to(dtype)
    work = torch.float64 if torch.float64 in (base.dtype, tuned.dtype, target.dtype) else torch.float32
    diff = tuned.to(work) - base.to(work)
    if scale != 1:
        diff = torch.tensor(scale, dtype=work) * diff
    return (target.to(work) + diff).to(dtype)


def expected(made: Trio, scale: float = 1.0) -> Tensors:
    """What a transfer must give, tensor by tensor."""
    parts = made.tensors
    return {
        name: formula(parts["base"][name], parts["tuned"][name], value, scale)
        for name, value in parts["target"].items()
    }


def bits(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def assert_same(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """The same names, dtypes, shapes and bytes."""
    assert sorted(found) == sorted(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert bits(found[name]) == bits(tensor), name


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder, by relative name."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def outcome(folder: Path) -> dict[str, Any]:
    """Contents of an output, the manifest without what may differ between two runs (its environment)."""
    found: dict[str, Any] = contents(folder)
    manifest = json.loads((folder / "tuneport.json").read_text())
    manifest.pop("environment")
    return {**found, "tuneport.json": manifest}
