"""Many small tensors: the user CPU time and the peak memory of every command at 1,000, 10,000 and 100,000 of them.

The tensors are sixteen bytes each, made here, in shards of 250: what is measured is what each tensor costs beside its bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.contestants import TUNEPORT, environment
from bench.measure import measure

TENSORS = (1_000, 10_000, 100_000)
QUICK = (1_000, 10_000)
PER_SHARD = 250
SHAPE = (4, 2)
ROLES = ("base", "tuned", "target")
CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "vocab_size": 24}


def scale(out: Path, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Each command at each number of tensors. What is made is deleted."""
    found = []
    for number in numbers:
        place = out / f"tensors-{number}"
        shutil.rmtree(place, ignore_errors=True)
        try:
            for seed, role in enumerate(ROLES):
                write(place / role, number, seed)
            found.append({"tensors": number, "shards": -(-number // PER_SHARD), "commands": dict(_run(place))})
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return found


def _run(place: Path) -> Iterator[tuple[str, dict[str, float]]]:
    parents = ["--base", str(place / "base"), "--tuned", str(place / "tuned")]
    onto = ["--onto", str(place / "target")]
    made, vector, applied = (str(place / name) for name in ("made", "vector", "applied"))
    commands = {
        "dry run": ["transfer", *parents, *onto, "--out", made, "--dry-run"],
        "transfer": ["transfer", *parents, *onto, "--out", made],
        "verify": ["verify", made],
        "verify --full": ["verify", made, *parents, *onto, "--full"],
        "diff": ["diff", *parents, "--out", vector],
        "apply": ["apply", vector, *onto, "--out", applied],
        "compare": ["compare", *parents, *onto, "--out", str(place / "compared.json")],
        "inspect": ["inspect", vector],
    }
    for name, command in commands.items():
        took = measure([str(TUNEPORT), *command], place / "log", environment())
        if took.status:
            raise SystemExit(f"bench: {name} ended with status {took.status}: {(place / 'log').read_text()[-500:]}")
        yield name, {key: value for key, value in asdict(took).items() if key in ("user", "wall", "pss")}


def write(folder: Path, number: int, seed: int) -> None:
    """A checkpoint of so many small matrices: a tenth of the numbers are the role's own, the others those of all three."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    common, own = (np.random.default_rng(each).standard_normal((number, 8)).astype("<f4") for each in (9, seed))
    content = ((common + own / 10).view("<u4") >> 16).astype("<u2")  # bfloat16, cut off
    names = [
        f"model.layers.{i // 384}.mlp.experts.{i // 3 % 128}.{['gate', 'up', 'down'][i % 3]}_proj.weight"
        for i in range(number)
    ]
    files = range(0, number, PER_SHARD)
    placed = {}
    for count, start in enumerate(files, 1):
        file = f"model-{count:05d}-of-{len(files):05d}.safetensors"
        entries: dict[str, Any] = {}
        for place, name in enumerate(names[start : start + PER_SHARD]):
            entries[name] = {"dtype": "BF16", "shape": list(SHAPE), "data_offsets": [16 * place, 16 * place + 16]}
            placed[name] = file
        header = json.dumps(entries).encode()
        data = content[start : start + PER_SHARD].tobytes()
        (folder / file).write_bytes(len(header).to_bytes(8, "little") + header + data)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
