"""Two commits side by side: do transfer, diff and apply write the same tensor bytes, and the same small files?

    python -m bench.same_bytes BEFORE [AFTER] --out FILE.json

Each commit is exported and built by itself, and carries the same families of tiny models and adapters (those of the tests), plainly
and with the choices that change the arithmetic. What is compared: the bytes of every tensor, and which other files there are. Exit
status 1 where anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the families are the tests' own

WAYS: dict[str, tuple[str, ...]] = {
    "plainly": (),
    "scaled": ("--scale", "0.7"),
    "by rule": ("--rule", r"\.0\.=0.25", "--rule", "embed|wte=0"),
    "in float32": ("--dtype", "float32"),
    "stochastic": ("--rounding", "stochastic", "--seed", "3"),
}


def exported(commit: str, folder: Path) -> Path:
    """The sources of a commit, with its kernel built beside them."""
    folder.mkdir()
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    build = [sys.executable, "-c", "from setuptools import setup; setup()", "-q", "build_ext", "--inplace"]
    subprocess.run(build, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert list(folder.glob("src/tuneport/*/_kernel*.so")), f"the kernel of {commit} was not built"
    return folder


def run(source: Path, *arguments: object) -> None:
    """One command of a commit, on one worker and on this machine alone."""
    environment = {**os.environ, "PYTHONPATH": str(source / "src"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tuneport", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{source.name}: {' '.join(command[2:])}\n{done.stderr}")


def tensor_digests(folder: Path) -> dict[str, str]:
    """A digest of dtype, shape and bytes of every tensor in a folder, and of every other file but the records of the run."""
    found: dict[str, str] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        if file.suffix == ".safetensors":
            content = file.read_bytes()
            (length,) = struct.unpack("<Q", content[:8])
            for tensor, entry in json.loads(content[8 : 8 + length]).items():
                if tensor != "__metadata__":
                    begin, end = (8 + length + offset for offset in entry["data_offsets"])
                    kind = f"{entry['dtype']} {entry['shape']} ".encode()
                    found[tensor] = hashlib.sha256(kind + content[begin:end]).hexdigest()
        elif name not in ("tuneport.json", "README.md"):
            found[f"file {name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def parents(folder: Path) -> Iterator[tuple[str, tuple[Path, Path, Path]]]:
    """Base, tuned (a model or an adapter) and target of every family, by name."""
    from support import model_families, tiny_adapters

    for name, make in model_families.FAMILIES.items():
        family = make(folder / name)
        yield name, (family.base, family.tuned, family.target)
    for name, kind in tiny_adapters.KINDS.items():
        place = folder / f"adapter-{''.join(letter if letter.isalnum() else '-' for letter in name)}"
        place.mkdir()
        adapter = tiny_adapters.make(place, kind)
        yield f"adapter, {name}", (adapter.base, adapter.adapter, adapter.target)


def outputs(source: Path, folder: Path, three: tuple[Path, Path, Path]) -> dict[str, str]:
    """What one commit writes from three parents, in every way: digests by way and tensor."""
    base, tuned, target = three
    found: dict[str, str] = {}
    for number, (way, flags) in enumerate(WAYS.items()):
        out = folder / f"{source.name}-{number}"
        run(source, "transfer", "--base", base, "--tuned", tuned, "--onto", target, "--out", out, *flags)
        found |= {f"transfer {way}: {tensor}": digest for tensor, digest in tensor_digests(out).items()}
    diff, applied = folder / f"{source.name}-diff", folder / f"{source.name}-applied"
    run(source, "diff", "--base", base, "--tuned", tuned, "--out", diff)
    run(source, "apply", f"{diff}=0.5", "--onto", target, "--out", applied)
    found |= {f"diff: {tensor}": digest for tensor, digest in tensor_digests(diff).items()}
    return found | {f"apply: {tensor}": digest for tensor, digest in tensor_digests(applied).items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", metavar="BEFORE", help="a commit")
    parser.add_argument("after", metavar="AFTER", nargs="?", default="HEAD", help="another commit (default: HEAD)")
    parser.add_argument("--out", type=Path, help="where to write the figures")
    options = parser.parse_args()
    names = {side: _commit(commit) for side, commit in (("before", options.before), ("after", options.after))}
    figures: dict[str, dict[str, int]] = {}
    differing: list[str] = []
    with tempfile.TemporaryDirectory(prefix="same-bytes-") as scratch:
        place = Path(scratch)
        sources = [exported(commit, place / side) for side, commit in names.items()]
        (place / "models").mkdir()
        for name, three in parents(place / "models"):
            work = place / "outputs"
            work.mkdir()
            before, after = (outputs(source, work, three) for source in sources)
            shutil.rmtree(work)
            other = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
            differing += [f"{name}: {key}" for key in other]
            figures[name] = {"compared": len(before), "differing": len(other)}
            print(f"{name}: {len(before)} tensors and files, {len(other)} differ", flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps({**names, "families": figures}, indent=1) + "\n", encoding="utf-8")
    for line in differing:
        print(f"differs: {line}", file=sys.stderr)
    return 1 if differing else 0


def _commit(name: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", name], check=True, capture_output=True, text=True
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
