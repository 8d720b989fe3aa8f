"""What tuneport does on an NVIDIA GPU: fine-tune, evaluate, probe, transfer and adapt, with speed, memory and the CPU's figures.

    make gpu-check                                                  on a machine with an NVIDIA GPU; no network is needed
    python3 -m experiments.gpu.check --device cpu --tiny --out FILE     tries the script out, with tiny models

It uses the machine's own Python and PyTorch, and builds nothing: packages that are missing there come as wheels from .gpu-wheels
(`make gpu-wheels`), unpacked into the temporary folder. Each step has a limit of its own, and one that fails stops no other. All goes
into one JSON, written after each step. Exit status 1 if a step failed or was not run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any, NamedTuple

from experiments.gpu.carried_wheels import missing_modules, of_another_python, unpacked

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "results" / "gpu.json"
FORMAT = "tuneport-gpu-check-1"
_LEAST = 10  # seconds: a step is not begun with less


class Timed(NamedTuple):
    """A step: the function's name, its module, its limit in seconds, the steps whose models it needs, and where it runs."""

    name: str
    module: str
    seconds: float
    needs: tuple[str, ...] = ()
    on_cpu: bool = False


_STEPS, _BOTH = "experiments.gpu.gpu_steps", "experiments.gpu.both_devices"
STEPS = (
    Timed("environment", _STEPS, 60),
    Timed("family", _STEPS, 120),
    Timed("random_llama", _STEPS, 60, ("environment",)),
    Timed("tune_all", _STEPS, 90, ("family", "random_llama")),
    Timed("tune_lora", _STEPS, 90, ("family", "random_llama")),
    Timed("transfer", _STEPS, 90, ("tune_all",)),
    Timed("evaluate", _STEPS, 60, ("tune_all",)),
    Timed("probe", _STEPS, 60, ("tune_all",)),
    Timed("family_scores", _BOTH, 90, ("family",)),
    Timed("adapt", _STEPS, 120, ("tune_all",)),
    Timed("family_adapt", _STEPS, 120, ("family_scores",)),
    Timed("same_on_cpu", _BOTH, 90, ("family_scores",), on_cpu=True),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps; 0 if all are done."""
    names = [step.name for step in STEPS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FIGURES, help="JSON file to write (default: docs/results/gpu.json)")
    parser.add_argument("--seconds", type=float, default=460, help="limit for all steps together")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu only with --tiny")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try the script out")
    parser.add_argument("--only", metavar="STEP", nargs="+", choices=names, help="run these steps and those they need")
    parser.add_argument(
        "--wheels", type=Path, default=ROOT / ".gpu-wheels", help="folder that `make gpu-wheels` filled"
    )
    given = parser.parse_args(arguments)
    if given.device == "cpu" and not given.tiny:
        return _refused("The check's models are too large for a CPU. Also give --tiny, which tries the script out.")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tuneport-gpu-") as scratch:
        folder = Path(scratch)
        fetch = f"make gpu-wheels GPU_PYTHON={sys.version_info.major}.{sys.version_info.minor}"
        if others := of_another_python(given.wheels):
            return _refused(
                f"{', '.join(others)} in {given.wheels}: for another version of Python than {sys.executable}. On a machine with "
                f"a network run `{fetch}`, and bring the folder along again."
            )
        _take_in(unpacked(given.wheels, folder / "packages"))
        if missing := missing_modules():
            return _refused(
                f"This Python ({sys.executable}) has no {', '.join(missing)}. On a machine with a network run `{fetch}`, and bring "
                f"the folder .gpu-wheels along. What is not in it, install on this machine."
            )
        if given.device == "cuda" and not _has_cuda():
            return _refused(
                "PyTorch finds no NVIDIA GPU on this machine. Run the check on one that has, or try the script out: "
                "python3 -m experiments.gpu.check --device cpu --tiny --out FILE"
            )
        if given.device == "cpu":
            _imported_once()
        return _check(given, folder, began)


def _check(given: argparse.Namespace, folder: Path, began: float) -> int:
    from experiments.gpu.limited_step import run_step
    from experiments.gpu.sizes import FULL, TINY

    sizes = TINY if given.tiny else FULL
    record: dict[str, Any] = {"format": FORMAT, "device": given.device, "tiny": given.tiny, "steps": {}}
    done: dict[str, Any] = record["steps"]
    for step in _needed(given.only or [step.name for step in STEPS]):
        left = given.seconds - (time.monotonic() - began)
        without = [name for name in step.needs if done[name]["status"] != "done"]
        if without:
            done[step.name] = {"status": "not run", "why": f"needs {', '.join(without)}"}
        elif left < _LEAST:
            done[step.name] = {
                "status": "not run",
                "why": f"the limit of {given.seconds:g} s for all steps was reached",
            }
        else:
            function = getattr(import_module(step.module), step.name)
            device = "cpu" if step.on_cpu else given.device
            done[step.name] = run_step(function, folder, sizes, device, min(step.seconds, left))
        _say(step.name, done[step.name])
        record["seconds"] = round(time.monotonic() - began, 1)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"gpu-check: {record['seconds']:.0f} s, figures in {given.out}")
    return 0 if all(found["status"] == "done" for found in done.values()) else 1


def _needed(names: Sequence[str]) -> list[Timed]:
    """These steps and those they need, in their order."""
    wanted = set(names)
    for step in reversed(STEPS):  # what a step needs comes before it
        if step.name in wanted:
            wanted.update(step.needs)
    return [step for step in STEPS if step.name in wanted]


def _say(name: str, found: dict[str, Any]) -> None:
    took = f", {found['seconds']:.1f} s" if "seconds" in found else ""
    why = f": {found['why']}" if "why" in found else ""
    print(f"{name}: {found['status']}{took}{why}", flush=True)


def _take_in(packages: Path | None) -> None:
    """Make modules in this folder, and tuneport's own source, the first that are found, here and in processes started from here."""
    places = [str(place) for place in (packages, ROOT / "src", ROOT) if place is not None]
    sys.path[:0] = places
    os.environ["PYTHONPATH"] = os.pathsep.join([*places, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ["HF_HUB_OFFLINE"] = "1"
    invalidate_caches()


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _imported_once() -> None:
    """What every step needs, before they are forked; and none of them uses a GPU."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for module in ("torch", "transformers", "peft", "trl", "lm_eval.api.task", "lm_eval.models.huggingface"):
        import_module(module)


def _refused(told: str) -> int:
    print(f"gpu-check: {told}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
