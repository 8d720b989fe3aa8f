"""The section of docs/results.md on GPUs, from the figures of `make gpu-check`; without figures it says how to get them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.gpu import both_devices
from experiments.pages.markdown_cells import figures_in, table

_HOW = (
    "To repeat: `make gpu-check`, on a machine with an NVIDIA GPU; no network is needed. It uses that machine's own Python and PyTorch and "
    "takes under 8 minutes, up to 40 GB of the GPU's memory and 24 GB of temporary disk. Where packages are missing there, run `make gpu-wheels` on a machine with a network (`GPU_PYTHON=3.12` "
    "names the other machine's Python), and bring the folder `.gpu-wheels` along (26 MB). "
    "Nothing is built: bring `src/tuneport/engine/_kernel.abi3.so` along too if you have it, or numpy computes the same bits, slower."
)
_WHAT = (
    "A Llama of 1.1 B parameters with random weights shows speed and memory: fine-tuned in bfloat16 (all parameters, LoRA), "
    "evaluated, probed, transferred (compared with plain numpy, and `verify --full`) and adapted. A family of the lab, pretrained "
    "there, shows that results mean the same: losses, answers and distributions of the GPU beside those of the same machine's CPU."
)
_NAMES = {
    "environment": "machine and versions",
    "family": "pretrain the lab's larger family",
    "random_llama": "make the random Llama",
    "tune_all": "tune, all parameters",
    "tune_lora": "tune, LoRA of rank 16",
    "transfer": "transfer and verify --full",
    "evaluate": "evaluate: answers and losses",
    "probe": "compare --probe",
    "family_scores": "tune, transfer and score the family",
    "adapt": "adapt up to distil, random Llama",
    "family_adapt": "adapt up to distil, family",
    "same_on_cpu": "the family on the CPU",
}


def render(file: Path) -> str:
    """What was run, with its figures; what was not, as not run."""
    if not file.exists():
        return f"## On a GPU\n\n**Not run.** Nothing of tuneport was measured on a GPU so far.\n\n{_HOW} {_WHAT}"
    record = figures_in(file)
    steps: Mapping[str, Any] = record["steps"]
    parts = [f"## On a GPU\n\n{_HOW} {_WHAT}", *_machine(steps), _all_steps(steps), *_training(steps), *_apart(steps)]
    return "\n\n".join(parts)


def _done(steps: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] = steps.get(name, {})
    return found if found.get("status") == "done" else None


def _machine(steps: Mapping[str, Any]) -> list[str]:
    told = _done(steps, "environment")
    if told is None or "gpu" not in told:
        return []
    packages = ", ".join(f"{name} {version}" for name, version in told["packages"].items())
    return [
        f"{told['gpu']} ({_gigabytes(told['gpu_memory'])}), driver {told['driver']}, CUDA {told['cuda']}; Python {told['python']}, "
        f"{packages}; tuneport's kernel: {told['kernel']}."
    ]


def _all_steps(steps: Mapping[str, Any]) -> str:
    rows = [["step", "result", "seconds", "most memory of the GPU"]]
    for name, words in _NAMES.items():
        told = steps.get(name, {"status": "not run"})
        why = str(told.get("why", "")).strip().splitlines()
        result = told["status"] + (f": {why[-1]}" if why else "")
        peak = _gigabytes(told["peak_allocated"]) if told.get("peak_allocated") else "–"
        rows.append([words, result, f"{told['seconds']:.0f}" if "seconds" in told else "–", peak])
    return table(rows)


def _training(steps: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            "fine-tuning",
            "tokens a second",
            "loss",
            "memory, estimated",
            "allocated at most",
            "ratio",
            "reserved at most",
        ]
    ]
    for name in ("tune_all", "tune_lora"):
        told = _done(steps, name)
        if told is not None and "peak_allocated" in told:
            estimated, peak = told["estimated"]["total"], told["peak_allocated"]
            rows.append([
                f"{_NAMES[name]}, {told['computed_in']}, {told['steps']} steps",
                f"{told['tokens_per_second']:,}",
                f"{told['first_loss']:.2f} to {told['last_loss']:.2f}",
                _gigabytes(estimated),
                _gigabytes(peak),
                f"{peak / estimated:.2f}",
                _gigabytes(told["peak_reserved"]),
            ])  # fmt: skip
    if len(rows) == 1:
        return []
    return [
        f"The estimate is the one that `tune --dry-run` prints; the ratio is what was allocated to it.\n\n{table(rows)}"
    ]


def _apart(steps: Mapping[str, Any]) -> list[str]:
    told = steps.get("same_on_cpu", {})
    if "bfloat16" not in told:
        return []
    bounds = {
        "float32": {
            "training": both_devices.LOSS,
            "loss": both_devices.LOSS,
            "answers": both_devices.ANSWERS,
            "divergence": both_devices.DIVERGENCE,
        },
        "bfloat16": both_devices.BFLOAT16,
    }
    names = {
        "training": f"loss of the first {both_devices.FIRST_STEPS} steps, largest relative difference",
        "loss": "loss of texts, largest relative difference",
        "answers": "equal greedy answers",
        "divergence": "mean KL of next tokens, nats",
    }
    rows = [["GPU in", "measure", "beside the CPU in float32", "bound"]]
    for dtype, allowed in bounds.items():
        rows += [[dtype, names[name], f"{told[dtype][name]:.3g}", f"{bound:g}"] for name, bound in allowed.items()]
    return [table(rows)]


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
