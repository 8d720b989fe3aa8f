"""`make kills`: every command that writes, killed at moments spread over its changes of files, and run again.

    python -m bench.kills [--out DIR] [--kills 25] [--only NAME,…]

After each kill nothing under the output's name may be there but a whole output, the inputs must be untouched, and the same
command must end with the output of a run that nobody killed. The moments are counted calls (tests/support/fault_driver.py), so they are
the same on any machine. It takes the demo's family (for `adapt` and distillation a smaller one of the tests), and writes a JSON file
of figures; the exit status is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
DRIVER = TESTS / "support" / "fault_driver.py"
DEMO = ROOT / "demo-out"
MODELS = DEMO / "models"
KILLED = -signal.SIGKILL
# What two unbroken runs of one command differ in: times, versions, how much memory there was.
PASSING = (
    "environment",
    "seconds",
    "versions",
    "created",
    "began",
    "ended",
    "started",
    "finished",
    "date",
    "tokens_per_second",
    "mtime_ns",  # of what `adapt` itself made before it took a diff vector of it
    "ctime_ns",
)
# Files whose digests pass with such values.
PASSING_FILES = (".md", "log.jsonl", "adapt.json", "diff/tuneport.json")
FINE_TUNING = ("--steps", "8", "--batch-size", "8", "--learning-rate", "1e-3", "--save-every", "2")


@dataclass(frozen=True)
class Command:
    """A command that writes ``out``, and ``beside`` it files of these names.

    ``before`` is run first, unbroken, where the command finds an older output.
    """

    name: str
    argv: Callable[[Path], list[str]]
    before: Callable[[Path], list[str]] | None = None
    beside: tuple[str, ...] = ()


def commands(made: Path) -> Iterator[Command]:
    """Each command that writes. ``made`` holds what some need: an adapter and a diff vector."""
    trio = ["--base", f"{MODELS}/v1", "--tuned", f"{MODELS}/v1-tuned", "--onto", f"{MODELS}/v2"]
    small = ["--workers", "1", "--shard-size", "600KB"]
    yield Command("transfer", lambda out: ["transfer", *trio, *small, "--out", f"{out}"])
    yield Command(
        "transfer --overwrite",
        lambda out: ["transfer", *trio, *small, "--overwrite", "--out", f"{out}"],
        lambda out: ["transfer", *trio, "--scale", "0.5", "--out", f"{out}"],
    )
    adapted = ["--base", f"{MODELS}/v1", "--tuned", f"{made}/adapter", "--onto", f"{MODELS}/v2"]
    yield Command("transfer of an adapter", lambda out: ["transfer", *adapted, *small, "--out", f"{out}"])
    yield Command("diff", lambda out: ["diff", *trio[:4], *small, "--out", f"{out}"])
    onto = ["--onto", f"{MODELS}/v2", *small]
    yield Command("apply", lambda out: ["apply", f"{made}/vector", *onto, "--out", f"{out}"])
    data = ["--data", f"{DEMO}/lesson/examples.jsonl", "--chat-template", f"{DEMO}/lesson/chat.jinja", *FINE_TUNING]
    yield Command("tune", lambda out: ["tune", f"{MODELS}/v1", *data, "--out", f"{out}"])
    yield Command("tune --lora", lambda out: ["tune", f"{MODELS}/v1", *data, "--lora", "rank=2", "--out", f"{out}"])
    asked = ["--tasks", f"{DEMO}/questions.jsonl", "--limit", "12", "--max-new-tokens", "24", "--device", "cpu"]
    scored = ["evaluate", f"{MODELS}/v1-tuned", f"{MODELS}/v2", *asked]
    yield Command("evaluate", lambda out: [*scored, "--out", f"{out}"], beside=("out.examples.jsonl",))
    tiny, prompts = made / "family", ["--max-new-tokens", "4", "--device", "cpu"]
    trio = ["--base", f"{tiny}/base", "--tuned", f"{tiny}/tuned", "--onto", f"{tiny}/target"]
    climbing = ["--steps", "6", "--batch-size", "8", "--learning-rate", "5e-3", "--keep-harmed", "--keep-diff"]
    parts = [f"--{part}={made}/{part}.jsonl" for part in ("prompts", "select", "test")]
    yield Command("adapt", lambda out: ["adapt", *trio, *parts, *prompts, *climbing, "--out", f"{out}"])
    learning = ["--data", f"{made}/prompts.jsonl", "--teacher", f"{tiny}/tuned", "--max-completion-length", "4"]
    distil = ["tune", f"{tiny}/target", "--recipe", "distil", *learning, *FINE_TUNING]
    distil += ["--chat-template", f"{tiny}/tuned/chat_template.jinja"]
    yield Command("tune --recipe distil", lambda out: [*distil, "--out", f"{out}"])


def main() -> int:
    """Kill every command, and tell what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("kills-out"))
    parser.add_argument("--kills", type=int, default=25, help="of each command")
    parser.add_argument("--only", help="names of commands, with commas")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    place = options.out.resolve()
    made = place / "made"
    if not made.exists():
        made.mkdir()
        make_family(made)
        by_name = {command.name: command for command in commands(made)}
        for name, folder in (("tune --lora", "adapter"), ("diff", "vector")):
            whole_run(by_name[name].argv(made / folder))
    told: dict[str, Any] = {}
    wrong: list[str] = []
    for command in commands(made):
        if options.only and command.name not in options.only.split(","):
            continue
        told[command.name], faults = killed(command, place, options.kills)
        wrong += [f"{command.name}: {fault}" for fault in faults]
        print(f"{command.name}: {told[command.name]}", flush=True)
    print("\n".join(wrong) or "nothing was lost, and every run ended as an unbroken one")
    figures = {"commands": told, "kills": sum(one["kills"] for one in told.values()), "wrong": wrong}
    (place / "kills.json").write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if wrong else 0


def make_family(made: Path) -> None:
    """The tests' family of tiny Llamas, and prompts for it."""
    sys.path.insert(0, str(TESTS))
    from support import adapted_models

    family = adapted_models.make(made / "family")
    for part, start, stop in (("prompts", 0, 24), ("select", 100, 116), ("test", 200, 216)):
        family.file(made / f"{part}.jsonl", start, stop)


def killed(command: Command, place: Path, kills: int) -> tuple[dict[str, int], list[str]]:
    """Kill a command so many times, each time from the beginning; figures, and what went wrong."""
    scratch = place / "scratch"
    inputs, faults = digests(DEMO), []
    changes, whole = unbroken(command, scratch)
    older = None if command.before is None else result(prepared(command, scratch))
    moments = sorted({1 + round(number * (changes - 1) / max(kills - 1, 1)) for number in range(kills)})
    for at in moments:
        out = prepared(command, scratch)
        status = drive(command.argv(out), scratch, call="change", at=at, do="kill")
        if status != KILLED:
            faults.append(f"not killed at change {at}: status {status}")
        if out.exists() and result(out) not in (whole, older):
            faults.append(f"killed at change {at}, {out.name} is there and is no whole output")
        elif (
            not out.exists() and older is not None and result(scratch / "out.old", gone_is={}) not in (whole, older, {})
        ):
            faults.append(f"killed at change {at}, neither the old output nor the new one is there")
        again = drive(command.argv(out), scratch)
        if again != 0:
            faults.append(f"killed at change {at}, the same command ends with status {again}")
        elif result(out) != whole:
            faults.append(f"killed at change {at}, the same command ends with another output")
        left = sorted(path.name for path in scratch.iterdir() if path != out and path.name not in command.beside)
        if left:
            faults.append(f"killed at change {at}, the same command leaves {', '.join(left)}")
    if digests(DEMO) != inputs:
        faults.append("the inputs have changed")
    shutil.rmtree(scratch)
    return {"changes": changes, "kills": len(moments)}, faults


def unbroken(command: Command, scratch: Path) -> tuple[int, dict[str, Any]]:
    """How many changes of files an unbroken run makes, and its output."""
    out, counts = prepared(command, scratch), scratch.parent / "counts.json"
    if drive(command.argv(out), scratch, counts=str(counts)):
        raise SystemExit(f"{command.name} fails without a kill")
    return int(json.loads(counts.read_text())["change"]), result(out)


def prepared(command: Command, scratch: Path) -> Path:
    """An empty scratch folder, or one with an older output; the place of the output."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    out = scratch / "out"
    if command.before is not None:
        whole_run(command.before(out))
    return out


def whole_run(argv: list[str]) -> None:
    """Run a command to its end."""
    done = subprocess.run([sys.executable, "-m", "tuneport", *argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"tuneport {' '.join(argv)} ends with status {done.returncode}: {done.stderr[-2000:]}")


def drive(argv: list[str], under: Path, **fault: Any) -> int:
    """Run a command in the driver; its exit status."""
    job = json.dumps({"argv": argv, "under": str(under), **fault})
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run([sys.executable, str(DRIVER), job], capture_output=True, env=environment, check=False)
    return done.returncode


def result(out: Path, gone_is: dict[str, Any] | None = None) -> dict[str, Any]:
    """What an output says and holds, without what may differ between two runs."""
    if not out.exists() and gone_is is not None:
        return gone_is
    files = [out] if out.is_file() else sorted(path for path in out.rglob("*") if path.is_file())
    found: dict[str, Any] = {}
    for path in files:
        content = path.read_bytes()
        name = path.name if path == out else str(path.relative_to(out))
        if name == ".replaces" or path.suffix == ".md":  # the card repeats figures of the manifest, times too
            continue
        try:
            lines = content.splitlines() if path.suffix == ".jsonl" else [content]
            found[name] = [lasting(json.loads(line)) for line in lines]
        except ValueError:
            found[name] = blake3(content).hexdigest()
    return found


def lasting(value: Any) -> Any:
    """JSON without what passes; digests of files that hold such values pass with them."""
    if isinstance(value, dict):
        passing = {name for name in value if name in PASSING or name.endswith(PASSING_FILES)}
        return {name: lasting(item) for name, item in value.items() if name not in passing}
    return [lasting(item) for item in value] if isinstance(value, list) else value


def digests(folder: Path) -> dict[str, str]:
    """Digests of every file of a folder."""
    return {str(path): blake3(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


if __name__ == "__main__":
    sys.exit(main())
