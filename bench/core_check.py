"""The core in an environment of its own: small, without torch, quick to start, and it transfers a checkpoint.

In comes this source tree, out come a few lines of figures, and exit status 1 if one of them breaks a promise: under
150 MB installed, no torch, transformers or tokenizers, `tuneport --help` within 0.3 s of a bare interpreter.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-core"
MOST_MEGABYTES = 150
MOST_SECONDS = 0.3
FORBIDDEN = ("torch", "transformers", "tokenizers", "safetensors", "accelerate", "datasets", "scipy", "pandas")

# What is run inside: a checkpoint written by hand, carried over, checked against exact sums of multiples of 1/256.
TRANSFER = """
import json, struct, subprocess, sys
from pathlib import Path
import numpy as np

def write(folder, values):
    folder.mkdir()
    bits = (values.astype("<f4").view("<u4") >> 16).astype("<u2")
    header = json.dumps({"model.layers.0.mlp.weight": {"dtype": "BF16", "shape": list(values.shape),
                                                        "data_offsets": [0, bits.nbytes]}}).encode()
    header += b" " * (-len(header) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bits.tobytes())
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))

where = Path(sys.argv[1])
rng = np.random.default_rng(0)
base, tuned, target = (rng.integers(-60, 60, (300, 700)) / 256 for _ in range(3))
for name, values in (("base", base), ("tuned", tuned), ("target", target)):
    write(where / name, values)
run = [sys.executable, "-m", "tuneport"]
parents = ["--base", where / "base", "--tuned", where / "tuned", "--onto", where / "target"]
subprocess.run([*run, "transfer", *parents, "--out", where / "out"], check=True)
subprocess.run([*run, "verify", where / "out", *parents, "--full"], check=True)
content = (where / "out" / "model.safetensors").read_bytes()
length = struct.unpack("<Q", content[:8])[0]
got = (np.frombuffer(content[8 + length:], "<u2").astype("<u4") << 16).view("<f4").reshape(base.shape)
assert np.array_equal(got, target + (tuned - base)), "the sums are not exact"
import tuneport.engine.kernel
print("kernel:", tuneport.engine.kernel.NAME)
"""


def main() -> int:
    if VENV.exists():
        shutil.rmtree(VENV)
    run(sys.executable, "-m", "venv", str(VENV))
    python = VENV / "bin" / "python"
    packages = Path(run(str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    before = size_of(packages)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run(*pip, "--constraint", str(ROOT / "constraints.txt"), str(ROOT))
    megabytes = (size_of(packages) - before) / 1e6
    present = [name for name in FORBIDDEN if (packages / name).exists()]
    help_seconds = median_seconds([str(VENV / "bin" / "tuneport"), "--help"])
    bare_seconds = median_seconds([str(python), "-c", "pass"])
    with tempfile.TemporaryDirectory() as scratch:
        sys.stdout.write(run(str(python), "-c", TRANSFER, scratch))
    print(f"core: {megabytes:.0f} MB installed (limit {MOST_MEGABYTES})")
    print(f"help: {help_seconds:.3f} s, bare interpreter {bare_seconds:.3f} s (limit {MOST_SECONDS} s more)")
    faults = [f"{name} is installed" for name in present]
    if megabytes > MOST_MEGABYTES:
        faults.append(f"the core takes {megabytes:.0f} MB")
    if help_seconds - bare_seconds > MOST_SECONDS:
        faults.append(f"--help takes {help_seconds - bare_seconds:.3f} s more than a bare interpreter")
    for fault in faults:
        print(f"core-check: {fault}", file=sys.stderr)
    return 1 if faults else 0


def run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def median_seconds(command: list[str], runs: int = 7) -> float:
    taken = []
    for _ in range(runs):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


if __name__ == "__main__":
    sys.exit(main())
