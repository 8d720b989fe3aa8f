"""`make bench`: every contestant in turn, round after round, and a table of medians.

In comes an output folder, out come bench.json with every round's raw figures and a table on stdout. Ratios are to the
floor of the same round, so that a drift of the machine hits all; inputs are read into the page cache before each run,
and each output is checked once, then deleted.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.compare import compare
from bench.contestants import CONTESTANTS, PEER_PYTHON, PYTHON, ROOT, TUNEPORT, Contestant, environment
from bench.measure import Figures, measure
from bench.scale import QUICK, TENSORS, scale
from bench.table import render
from bench.triple import ROLES, VARIANTS, Triple, build, check_space

SETTLE_SECONDS = 6.0


def main() -> int:
    options = _options()
    out = Path(options.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    compileall.compile_dir(ROOT / "src" / "tuneport", quiet=1)  # as an installed package is
    names = options.only.split(",") if options.only else [*[c.name for c in CONTESTANTS], "starts", "memory", "scale"]
    chosen = [contestant for contestant in CONTESTANTS if contestant.name in names]
    if chosen and chosen[0].name != "floor":
        chosen.insert(0, CONTESTANTS[0])  # ratios need it
    size = options.size or ("0.1B" if options.quick else "1.2B")
    rounds = options.rounds or (1 if options.quick else 3)
    record: dict[str, Any] = {
        "machine": _machine(),
        "size": size,
        "contestants": {c.name: {"label": c.label, "most": c.most} for c in chosen},
        "rounds": [],
        "outputs": {},
    }
    if chosen or "starts" in names:
        check_space(out, 0)
        triple = build(out, size)
        check_space(out, triple.nbytes)
        record["parameters"], record["bytes"] = triple.size.parameters, triple.nbytes
        _run_rounds(triple, chosen, rounds, out, record)
        record["medians"] = _medians(record["rounds"])
        if "starts" in names:
            record["starts"] = _starts(triple)
    if "memory" in names:
        record["memory"] = [_memory(out, name) for name in (["0.1B"] if options.quick else ["0.1B", "1.2B", "4B"])]
    if "scale" in names:
        record["scale"] = scale(out, QUICK if options.quick else TENSORS)
    (out / "bench.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "rounds-so-far.json").unlink(missing_ok=True)
    print(render(record))
    return 0


def _options() -> argparse.Namespace:
    names = ", ".join([*[contestant.name for contestant in CONTESTANTS], "starts", "memory", "scale"])
    parser = argparse.ArgumentParser(prog="python -m bench.run", description="The peers, side by side.")
    parser.add_argument("--out", default="bench-out", help="folder for triples, logs and bench.json")
    parser.add_argument("--quick", action="store_true", help="0.1 B parameters and one round")
    parser.add_argument("--only", metavar="NAME,…", help=f"only some of: {names}")
    parser.add_argument("--rounds", type=int, help="default: 3")
    parser.add_argument("--size", choices=["0.1B", "1.2B"], help="of the rounds (default: 1.2B)")
    return parser.parse_args()


def _run_rounds(triple: Triple, chosen: Sequence[Contestant], rounds: int, out: Path, record: dict[str, Any]) -> None:
    for number in range(rounds):
        figures: dict[str, Any] = {"load_before": os.getloadavg()[0]}
        for contestant in chosen:
            took, result = _run(contestant, triple, out)
            figures[contestant.name] = asdict(took)
            _tell(f"round {number + 1}: {contestant.name} {took.wall:.2f} s, {took.pss:.0f} MiB")
            if number == 0 and contestant.computes:
                found = compare(triple, contestant.variant, result)
                record["outputs"][contestant.name] = asdict(found) | {"words": str(found)}
            shutil.rmtree(result, ignore_errors=True)  # `compare` leaves none
        record["rounds"].append(figures)
        (out / "rounds-so-far.json").write_text(json.dumps(record, indent=1) + "\n")


def _run(contestant: Contestant, triple: Triple, out: Path) -> tuple[Figures, Path]:
    result = out / "output"
    for left in (result, result.with_name("output.partial")):
        shutil.rmtree(left, ignore_errors=True)
    os.sync()  # what was written before is no part of this
    _warm(triple)
    _settle()
    log = out / f"{contestant.name}.log"
    took = measure(contestant.command(triple, result), log, environment())
    if took.status:
        raise SystemExit(f"bench: {contestant.name} ended with status {took.status}; {log} tells why.")
    return took, result


def _warm(triple: Triple) -> None:
    """Read all inputs, so that every contestant finds them in the page cache."""
    buffer = memoryview(bytearray(2**22))
    files = [
        *triple.weights(),
        *(triple.folder / variant / role / "tokenizer.json" for variant in VARIANTS for role in ROLES),
    ]
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def _settle() -> None:
    """Wait until the memory that the contestant before gave back is in one state for all.

    A virtual machine hands freed memory back to its host some seconds later; who writes soon after a large deletion
    finds memory at hand, who writes later pays for fetching it again. That is worth several seconds here.
    """
    time.sleep(SETTLE_SECONDS)


def _starts(triple: Triple) -> dict[str, Any]:
    """Seconds of `tuneport --help` above bare Python's, and of dry runs."""
    bare, help_ = (_median_seconds(command) for command in ([str(PYTHON), "-c", "pass"], [str(TUNEPORT), "--help"]))
    dry = {}
    by_name = {contestant.name: contestant for contestant in CONTESTANTS}
    for variant, name in (("same", "tuneport"), ("differ", "tuneport-tokens")):
        command = [*by_name[name].command(triple, triple.folder / "never-written"), "--dry-run"]
        dry[variant] = _median_seconds(command, 5)
    return {"bare_python": bare, "help": help_, "help_above_bare": help_ - bare, "dry_run": dry}


def _median_seconds(command: list[str], runs: int = 9) -> float:
    taken = []
    for _ in range(runs):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def _memory(out: Path, name: str) -> dict[str, Any]:
    """Peak memory of both variants at one size. What is too large to be kept is deleted afterwards."""
    kept = (out / f"triple-{name}").exists() or name != "4B"
    check_space(out, 0)
    triple = build(out, name)
    try:
        check_space(out, triple.nbytes)
        by_name = {contestant.name: contestant for contestant in CONTESTANTS}
        peaks = {}
        for variant, contestant in (("same", by_name["tuneport"]), ("differ", by_name["tuneport-tokens"])):
            took, result = _run(contestant, triple, out)
            shutil.rmtree(result)
            peaks[variant] = {
                "pss": took.pss,
                "peak_resident": took.peak_resident,
                "polls": took.polls,
                "wall": took.wall,
            }
            _tell(f"memory at {name}, {variant}: {took.pss:.0f} MiB")
        return {"size": name, "parameters": triple.size.parameters, "peaks": peaks}
    finally:
        if not kept:
            shutil.rmtree(triple.folder)


def _medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds; ratios are medians of each round's ratio to its own floor."""
    result: dict[str, Any] = {}
    for name in [name for name in rounds[0] if name != "load_before"] if rounds else []:
        of = {key: [figures[name][key] for figures in rounds] for key in ("wall", "cpu", "pss", "peak_resident")}
        entry = {key: statistics.median(values) for key, values in of.items()}
        for key in ("wall", "cpu"):
            ratios = [figures[name][key] / figures["floor"][key] for figures in rounds]
            entry[f"{key}_ratio"] = statistics.median(ratios)
            entry[f"{key}_ratios"] = sorted(ratios)
        result[name] = entry | {"most_pss": max(of["pss"])}
    return result


def _machine() -> dict[str, Any]:
    packages = ("numpy", "blake3", "torch", "transformers", "safetensors", "tokenizers", "tuneport")
    peers = "from importlib.metadata import version as v; print(v('mergekit'), v('residuals'), v('peft'))"
    found = subprocess.run([str(PEER_PYTHON), "-c", peers], check=True, stdout=subprocess.PIPE, text=True).stdout
    kernel = "import tuneport.engine.kernel as k; print(k.NAME)"
    built = subprocess.run([str(PYTHON), "-c", kernel], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    model = [line.split(":")[1].strip() for line in _read("/proc/cpuinfo") if line.startswith("model name")]
    memory = [int(line.split()[1]) // 1024 for line in _read("/proc/meminfo") if line.startswith("MemTotal")]
    return {
        "cpu": model[0] if model else platform.processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mib": memory[0] if memory else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "kernel": built,
        **{package: version(package) for package in packages},
        **dict(zip(("mergekit", "residuals", "peft"), found.split(), strict=True)),
    }


def _read(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
