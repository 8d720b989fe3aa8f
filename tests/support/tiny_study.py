"""A study of models so small that a step takes some milliseconds: four versions, each with a fine-tuned model.

Nothing here imports torch, so that a process that runs it starts at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

VERSIONS = ("M1", "M2", "M3", "M4")
_SHAPES = {
    "model.embed_tokens.weight": (24, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.norm.weight": (8,),
    "lm_head.weight": (24, 8),
}
_CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "tie_word_embeddings": False,
    "hidden_size": 8,
    "vocab_size": 24,
    "torch_dtype": "float32",
}
Tensors = dict[str, Any]


def write_models(folder: Path) -> Path:
    """M1 to M4, each a little further, and FT1 to FT4."""
    before: Tensors | None = None
    for number, name in enumerate(VERSIONS):
        before = _write_model(folder / name, 2 * number, before)
        _write_model(folder / name.replace("M", "FT"), 2 * number + 1, before)
    return folder


def write_study(folder: Path, **settings: Any) -> Path:
    """Models and the file of a study: all transfers at two scales, all distances. `settings` are those of [study]."""
    lines = ["[study]", 'name = "tiny"', *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]
    for name in VERSIONS:
        lines += ["[[version]]", f'name = "{name}"', f'model = "{name}"', f'tuned = "{name.replace("M", "FT")}"']
    lines += ["[do]", 'transfer = "all"', "scales = [0.5, 1.0]", 'distances = "all"']
    write_models(folder)
    file = folder / "study.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


def what_repeats(out: Path) -> dict[str, Any]:
    """Everything a study leaves that must be the same from run to run: records without seconds, outputs, results."""
    found: dict[str, Any] = {}
    for path in sorted(out.glob("steps/*/record.json")):
        record = json.loads(path.read_text())
        del record["seconds"], record["versions"]
        found[path.parent.name] = record
        for name, seen in record["outputs"].items():
            if seen is not None and record["outcome"] == "done":
                found[f"{path.parent.name}/{name}"] = (path.parent / name).read_bytes()
    results = json.loads((out / "results.json").read_text())
    for step in results["steps"]:
        del step["seconds"]
    assert found, f"{out} holds no records"
    return {**found, "results.json": results}


def _write_model(folder: Path, seed: int, before: Tensors | None) -> Tensors:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    tensors: Tensors = {}
    for name, shape in _SHAPES.items():
        drawn = random.standard_normal(shape)
        tensors[name] = (drawn if before is None else before[name] + 0.05 * drawn).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    return tensors
