"""`python -m bench.beside_transfer`: compare beside transfer, as whole processes, one after the other in each round.

At 1.24 B parameters both are timed; on the shapes of an 8 B model, as files with holes and one random MiB in each tensor, compare alone;
and both on many small tensors. The figures go to one JSON file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.contestants import environment
from bench.measure import measure
from bench.scale import write as write_many
from bench.triple import ROLES, Size, build

LARGE = Size(hidden=4096, intermediate=14336, layers=32, heads=32, key_value_heads=8, head=128)  # Llama 3.1 8B
RANDOM = 2**20
KEPT = ("wall", "cpu", "user", "pss")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.beside_transfer", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for models")
    parser.add_argument("--record", type=Path, required=True, help="JSON file of the figures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tensors", type=int, default=100_000)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "rounds": options.rounds,
        "cpus": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
    }
    triple = build(options.out, "1.2B")
    sizes = {
        "1.24 B": (triple.folder / "same", triple.size.parameters, options.rounds, True),
        "8 B, files with holes": (options.out / "holes", LARGE.parameters, 1, False),
        "many tensors": (options.out / "many", 8 * options.tensors, 1, True),
    }
    for name, (folder, parameters, rounds, both) in sizes.items():
        if name.startswith("8"):
            _with_holes(folder)
        if name.startswith("many"):
            for seed, role in enumerate(ROLES):
                write_many(folder / role, options.tensors, seed)
        record[name] = {"parameters": parameters, **_sizes(folder, rounds, both, options.out)}
        if folder.parent == options.out:
            shutil.rmtree(folder)
    options.record.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def _sizes(folder: Path, rounds: int, both: bool, out: Path) -> dict[str, Any]:
    """Medians of both commands, and of their ratio in each round."""
    parents = [
        word
        for role, flag in zip(ROLES, ("--base", "--tuned", "--onto"), strict=True)
        for word in (flag, str(folder / role))
    ]
    commands = {"compare": ["compare", *parents]} | (
        {"transfer": ["transfer", *parents, "--out", str(out / "made")]} if both else {}
    )
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, words in commands.items():
            shutil.rmtree(out / "made", ignore_errors=True)
            os.sync()
            took = measure([sys.executable, "-m", "tuneport", *words], out / "log", environment())
            if took.status:
                raise SystemExit(f"bench: {name} ended with status {took.status}: {(out / 'log').read_text()[-500:]}")
            taken[name].append({key: value for key, value in asdict(took).items() if key in KEPT})
            print(name, taken[name][-1], file=sys.stderr)
    shutil.rmtree(out / "made", ignore_errors=True)
    found: dict[str, Any] = {
        name: {key: statistics.median(t[key] for t in times) for key in KEPT} for name, times in taken.items()
    }
    if both:
        pairs = list(zip(taken["compare"], taken["transfer"], strict=True))
        found["ratio"] = {
            key: statistics.median(one[key] / other[key] for one, other in pairs) for key in ("wall", "cpu")
        }
    return found


def _with_holes(folder: Path) -> None:
    """Base, tuned and target of `LARGE`, a file each: zeros that take no space, and a random MiB at the beginning of each tensor."""
    shutil.rmtree(folder, ignore_errors=True)
    for seed, role in enumerate(ROLES):
        place = folder / role
        place.mkdir(parents=True)
        config = {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": 128256,
            "hidden_size": LARGE.hidden,
        }
        (place / "config.json").write_text(json.dumps(config))
        header, begin = {}, 0
        for name, shape in LARGE.shapes().items():
            end = begin + 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
            begin = end
        text = json.dumps(header).encode()
        common, own = (np.random.default_rng(each) for each in (9, seed))
        with (place / "model.safetensors").open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for entry in header.values():
                first, last = entry["data_offsets"]
                count = min(RANDOM, last - first) // 2
                values = common.standard_normal(count, np.float32) + own.standard_normal(count, np.float32) / 10
                stream.seek(8 + len(text) + first)
                stream.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
            stream.truncate(8 + len(text) + begin)


if __name__ == "__main__":
    raise SystemExit(main())
