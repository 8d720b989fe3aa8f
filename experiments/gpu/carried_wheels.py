"""Packages that a machine with a GPU often lacks: fetched as wheels where there is a network, unpacked where there is none.

    python -m experiments.gpu.carried_wheels --out .gpu-wheels --python 3.12      (make gpu-wheels)

Versions are those of constraints.txt. What such a machine has, PyTorch before all, is not fetched. A wheel is an archive
of modules: to unpack it builds nothing and needs no pip.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 55_000_000
# What the steps import (tried out: nothing else that lm-evaluation-harness asks for is) and such a machine lacks, or has older than
# tuneport needs.
PACKAGES = (
    "blake3", "transformers", "peft", "accelerate", "trl", "datasets", "dill", "multiprocess", "lm_eval",
)  # fmt: skip
# What must be there in the end, carried or not: found without an import.
MODULES = (
    "torch", "numpy", "safetensors", "tokenizers", "huggingface_hub", "jinja2", "pandas", "pyarrow", "xxhash", "sacrebleu", "scipy",
    "psutil", "yaml", "tqdm", "requests", "packaging", *PACKAGES,
)  # fmt: skip
_PLATFORMS = [f"manylinux_2_{number}_x86_64" for number in (28, 27, 24, 17, 12)] + ["manylinux2014_x86_64"]


def missing_modules() -> list[str]:
    """What the check needs and this Python does not find."""
    return [name for name in MODULES if find_spec(name) is None]


def of_another_python(wheels: Path) -> list[str]:
    """Names of wheels that another version of Python was meant for."""
    mine = f"{sys.version_info.major}{sys.version_info.minor}"
    tagged = {wheel.name: re.search(r"-(?:cp|py)(3\d+)-(?!abi3)", wheel.name) for wheel in sorted(wheels.glob("*.whl"))}
    return [name for name, tag in tagged.items() if tag is not None and tag[1] != mine]


def unpacked(wheels: Path, into: Path) -> Path | None:
    """The folder with the modules of all wheels; None where there are no wheels."""
    found = sorted(wheels.glob("*.whl"))
    for wheel in found:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(into)
    return into if found else None


def fetch(into: Path, python: str) -> int:
    """Download the wheels for 64-bit Linux on x86; returns their bytes."""
    pinned = pinned_versions()
    wanted = [f"{name}=={pinned[plain(name)]}" for name in PACKAGES]
    into.mkdir(parents=True, exist_ok=True)
    for old in into.glob("*.whl"):
        old.unlink()
    of = ["--python-version", python, "--implementation", "cp", *(f"--platform={name}" for name in _PLATFORMS)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--only-binary=:all:", *of, "--dest", str(into), *wanted], check=True)
    return sum(wheel.stat().st_size for wheel in into.glob("*.whl"))


def pinned_versions() -> dict[str, str]:
    """The versions of the project's own environment, by plain name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [line.split("#")[0].strip().split("==") for line in lines if "==" in line.split("#")[0]]
    return {plain(name): version for name, version in found}


def plain(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    """Fetch the wheels; 1 if they are too large to carry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / ".gpu-wheels")
    parser.add_argument("--python", default="3.12", help="the version of the other machine's Python")
    given = parser.parse_args()
    size = fetch(given.out, given.python)
    print(f"gpu-wheels: {len(list(given.out.glob('*.whl')))} wheels, {size / 1e6:.1f} MB, in {given.out}")
    if size > MOST_BYTES:
        print(f"gpu-wheels: that is more than the {MOST_BYTES / 1e6:.0f} MB that may be carried", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
