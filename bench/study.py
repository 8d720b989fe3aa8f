"""What a study costs besides its steps: 200 tiny transfers as one study, against the same transfers alone.

    python -m bench.study [--steps 200]

In come models of some hundred parameters, made on the spot, out come milliseconds a step: the whole process of `tuneport study`
(its start, reading the file, the graph, a record for each step, results.json as steps end) less the time of the transfers
themselves, each done by the function that the study calls.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tuneport.studies.file.study_file import read_study
from tuneport.studies.graph.build import build
from tuneport.studies.graph.study_inputs import Inputs
from tuneport.studies.run.perform import perform

_VERSIONS = 5
_SHAPES = {"model.embed_tokens.weight": (24, 8), "model.norm.weight": (8,), "lm_head.weight": (24, 8)}
_CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False, "vocab_size": 24}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="a multiple of 20 (default: 200)")
    count = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        file = write_study(place, count // (_VERSIONS * (_VERSIONS - 1)))
        graph = build(read_study(file), Inputs(place))
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "tuneport", "study", file, "--out", place / "out"], check=True)
        whole = time.perf_counter() - begun
        begun = time.perf_counter()
        for number, step in enumerate(graph):
            alone = place / "alone" / str(number)
            alone.mkdir(parents=True)
            perform(step, step.inputs, alone)
        steps = time.perf_counter() - begun
        told = {
            "steps": len(graph),
            "whole_seconds": round(whole, 3),
            "steps_alone_seconds": round(steps, 3),
            "overhead_ms_a_step": round(1000 * (whole - steps) / len(graph), 2),
        }
        print(json.dumps(told))


def write_study(place: Path, scales: int) -> Path:
    """Five versions with a fine-tuned model each, and a study of all transfers at so many scales."""
    random, lines = np.random.default_rng(0), ["[study]", 'name = "many"']
    tensors = {name: random.standard_normal(shape).astype(np.float32) for name, shape in _SHAPES.items()}
    for number in range(_VERSIONS):
        for name in (f"M{number}", f"FT{number}"):
            moved = {
                key: (value + 0.05 * random.standard_normal(value.shape)).astype(np.float32)
                for key, value in tensors.items()
            }
            (place / name).mkdir()
            save_file(moved, place / name / "model.safetensors", metadata={"format": "pt"})
            (place / name / "config.json").write_text(json.dumps(_CONFIG))
        lines += ["[[version]]", f'name = "M{number}"', f'model = "M{number}"', f'tuned = "FT{number}"']
    lines += ["[do]", 'transfer = "all"', f"scales = {[round(1 - 0.05 * n, 2) for n in range(scales)]}"]
    file = place / "study.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


if __name__ == "__main__":
    main()
