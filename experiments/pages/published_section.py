"""The section of docs/results.md on the published LLM, from the figures of `make real`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.pages.markdown_cells import figures_in, loss, recovered, share, table

_CARRIED = {"v2-transferred": "all parameters", "v2-with-adapter": "the adapter"}


def _stayed(scores: dict[str, Any]) -> str:
    low, high = scores["intervals"]["learning_that_stayed"]
    return f"{scores['learning_that_stayed']:.2f} [{low:.2f}, {high:.2f}]"


def _mebibytes(figure: float | None) -> str:
    return "unknown" if figure is None else f"{figure:.0f} MiB"


def render(figures: Path) -> str:
    """The section, from the folder with the runs' figures."""
    record = figures_in(figures / "published.json")
    others = [figures_in(file) for file in sorted(figures.glob("published-rate-*.json"), reverse=True)]
    recipe, transfer = record["recipe"], record["transfer"]
    came = {"v2-transferred": record, "v2-with-adapter": record["adapter"]}
    names = {
        "v1": "version 1",
        "v1-tuned": "version 1, fine-tuned",
        "v2": "version 2",
        "v2-transferred": "**version 2 + diff vector**",
        "v2-with-adapter": "**version 2 + diff vector of the adapter**",
        "v2-tuned": "version 2, fine-tuned directly",
    }
    models = record["models"]
    rows = [["", "exact match", "loss on the answers", "loss on version 2's held-out text"]]
    for name, label in names.items():
        scores = models[name]
        losses = (loss(scores, "answer_loss"), loss(scores, "text_loss"))
        rows.append([label, share(scores, "exact_match"), *losses])
    parts = [
        "## A published LLM\n\nTo repeat: `make real`. Version 1 is SmolLM2-135M-Instruct "
        f"({record['parents']['file']} of the wheel {record['parents']['wheel']}, dequantised, bf16). "
        f"Version 2 is "
        f"version 1 after {recipe['reading']['steps']} steps of {recipe['reading']['batch']} × "
        f"{recipe['window']} tokens "
        f"of plain language modelling on other text: {record['other_text']}. Version 1 was fine-tuned for "
        f"{recipe['tuning']['steps']} steps of {recipe['tuning']['batch_size']} orders to be filed in a line format of its "
        f"own, once all parameters (learning rate {recipe['tuning']['learning_rate']:g}) and once as a LoRA adapter of rank "
        f"{recipe['lora']['rank']} ({recipe['lora_learning_rate']:g}). {record['n']} held-out orders, {record['windows']} "
        f"held-out windows of text, seed {recipe['seed']}; the whole run took {record['seconds'] / 60:.0f} minutes on two "
        "cores.",
        table(rows),
        table(
            [
                ["transferred by addition alone", *_CARRIED.values()],
                ["recovered gain of exact match", *(recovered(came[name]) for name in _CARRIED)],
                ["of what version 2 learned from the other text, stayed", *(_stayed(came[name]) for name in _CARRIED)],
                ["seconds", *(f"{transfer[name]['seconds']:.1f}" for name in _CARRIED)],
                ["peak memory of all processes", *(_mebibytes(transfer[name]["peak_mib"]) for name in _CARRIED)],
                ["norm of the diff vector", *(f"{transfer[name]['measures']['diff_norm']:.2f}" for name in _CARRIED)],
            ]
        ),
        _rates([*others, record]),
        f"Norm of version 2 − version 1: {transfer['v2-transferred']['measures']['shift_norm']:.2f}.",
        table(
            [
                ["", "held"],
                *([claim, "held" if held else "**not held**"] for claim, held in record["claims"].items()),
            ]
        ),
        "### The first held-out orders, answered by all",
    ]
    for shown in record["generations"]:
        order = shown["prompt"].split("File this order: ")[-1].split("<|im_end|>")[0]
        told = [["expected", f"`{shown['answer']}`"]]
        told += [[label, f"`{' '.join(shown[name].split())}`"] for name, label in names.items()]
        parts.append(f"*{order}*\n\n" + table([["", ""], *told]))
    return "\n\n".join(parts)


def _rates(records: Sequence[dict[str, Any]]) -> str:
    """What the adapter gave at each of its rates, in the order in which they were tried."""
    rows = [
        ["the adapter's rate", "exact match on version 2", "loss on the answers", "of what version 2 learned, stayed"]
    ]
    for record in records:
        moved = record["models"]["v2-with-adapter"]
        rate = f"{record['recipe']['lora_learning_rate']:g}"
        rows.append([rate, share(moved, "exact_match"), loss(moved, "answer_loss"), _stayed(record["adapter"])])
    return (
        "Three rates of the adapter were run, in this order, each set before its run with the ones before it in sight, each "
        "once, on the same orders and windows, so the last was chosen on what it is measured by:\n\n" + table(rows)
    )
