"""Make docs/results.md from the figures that runs left in docs/results/.

    python -m experiments.pages.results_page            write the page
    python -m experiments.pages.results_page --check    status 1 if the page is not what the figures say

Nothing on the page is typed by hand: a new run's summary.json is copied over the old one, and the page is
made again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.table import render as bench_table
from experiments.claims import judge_studies
from experiments.pages import (
    claims_section,
    first_words_section,
    gpu_section,
    published_section,
    reliability_section,
    roles_section,
)
from experiments.pages.markdown_cells import control, figures_in, or_never, percent, recovered, share, table
from experiments.pages.write_page import DOCS, write_or_compare

PAGE, FIGURES = DOCS / "results.md", DOCS / "results"
TWINS = FIGURES / "twins.json"
SEEDS = (0, 1, 2)
FRESH_SEEDS = (3, 4)  # run once; they had no part in choosing the recipe


def render(figures: Path = FIGURES) -> str:
    """The whole page, from the folder with the runs' figures."""
    parts = [
        "# Results\n\nMade by `experiments/pages/results_page.py` from the records of runs in `docs/results/`. "
        "Accuracies are in per cent; brackets hold 95 % intervals: Wilson's for one accuracy, a joint "
        "bootstrap "
        "over the same examples for gains and recovered gain.",
        _demo(
            [
                figures_in(file)
                for seed in (*SEEDS, *FRESH_SEEDS)
                if (file := figures / f"demo-seed-{seed}.json").exists() or seed in SEEDS
            ]
        ),
        *([claims_section.render(figures_in(file))] if (file := figures / judge_studies.FIGURES.name).exists() else []),
        published_section.render(figures),
        *([roles_section.render(figures_in(file))] if (file := figures / "roles.json").exists() else []),
        _bench(figures_in(figures / "bench.json")),
        *_beside_transfer(figures / "compare-bench.json"),
        gpu_section.render(figures / "gpu.json"),
        *_studies(figures),
        *first_words_section.render(figures),
        *reliability_section.render(figures),
    ]
    return "\n\n".join(parts) + "\n"


def _demo(records: Sequence[dict[str, Any]]) -> str:
    first = records[0]
    tasks = list(first["tasks"])
    seeds = ["", *(f"seed {record['seed']}" for record in records)]

    def rows(scores: Sequence[dict[str, Any]]) -> list[list[str]]:
        return [
            ["version 2", *(share(s, "target") for s in scores)],
            ["**version 2 + diff vector**", *(share(s, "transferred") for s in scores)],
            ["version 2, fine-tuned", *(share(s, "tuned_target") for s in scores)],
            ["recovered gain", *(recovered(s) for s in scores)],
        ]

    parts = [
        "## The demo\n\nTo repeat: `tuneport demo --out DIR --seed N`. A family of tiny "
        "Llamas "
        "is pretrained, version 1 is fine-tuned, and its diff vector is added to version 2; nothing is "
        "trained "
        f"after the addition. {first['n']} held-out questions, none of which any training saw; an answer "
        f"counts if "
        "it is exactly the expected one. A seed sets the world, the random start and the questions.\n\n"
        "**Read this with care:** the recipe was chosen on seeds 0, 1 and 2. About 20 variants (learning rates, mixes, "
        "difficulty of tasks) were tried while looking at their held-out scores; earlier ones recovered only 0.34 and "
        "0.42 of "
        "the gain on the word problems of seed 0, and 0.41 on seed 1. No training saw a question, but the choice of the "
        "recipe did. That was with a fine-tuning loop of the lab's own; now TRL fine-tunes with the same options, and "
        "nothing was chosen again. Seeds 3 and 4 had no part in any choice: they were run once with each loop (0.83 "
        "and 0.86 of the gain "
        "recovered with the lab's own, 0.94 and 0.77 on the word problems), and are shown here as TRL left them.\n\n"
        "**Another machine gives other figures.** A CPU's kind decides in which order sums are added up, and pretraining enlarges "
        "the difference: an earlier machine's seed 0 recovered 0.87 of the gain. Seed 0 is of the machine on which this "
        "version was last tested, beside other work, so its seconds are too many; the other seeds are of the earlier one.",
        table([seeds, *rows(records)]),
    ]
    for task in tasks:
        scores = [record["tasks"][task] for record in records]
        parts.append(f"### {task} (n = {scores[0]['n']})\n\n{table([seeds, *rows(scores)])}")
    known = [record["new_knowledge"] for record in records]
    parts.append(
        f"### New knowledge (n = {known[0]['n']})\n\nFacts that only version 2's text holds. Version 2 "
        f"itself, which "
        "has no chat format, completes a sentence of its text; the others are asked in chat form. One "
        "answer in "
        "twenty is right by chance.\n\n"
        + table(
            [
                seeds,
                ["version 1, fine-tuned", *(share(k, "v1_tuned") for k in known)],
                ["version 2, completing", *(share(k, "v2") for k in known)],
                ["**version 2 + diff vector**", *(share(k, "v2_transferred") for k in known)],
                ["version 2, fine-tuned", *(share(k, "v2_tuned") for k in known)],
                [
                    "with the diff vector, minus version 1 fine-tuned",
                    *(share(k, "difference") for k in known),
                ],
            ]
        )
    )
    curves = [record["transfer_then_tune"] for record in records]
    parts.append(
        f"### Transfer, then fine-tune (n = {curves[0]['n']})\n\nFine-tuned on the same examples with the same schedule, "
        "from version 2 and from version 2 + diff vector; exact match in per cent after so many steps, on the first "
        "questions of each task. The last row is the number of steps that the transferred start saves until it is as "
        "good as the other at its end.\n\n"
        + table(
            [
                seeds,
                *(
                    [
                        f"{name}, {point['step']} steps",
                        *(percent(c[key][place]["accuracy"], c[key][place]["interval"]) for c in curves),
                    ]
                    for place, point in enumerate(curves[0]["from_target"])
                    for name, key in (("version 2", "from_target"), ("**version 2 + diff vector**", "from_transferred"))
                ),
                ["steps to match", *(or_never(c["steps_to_match"]) for c in curves)],
                ["steps saved", *(or_never(c["steps_fewer"]) for c in curves)],
            ]
        )
    )
    backport = [record["backport"] for record in records]
    parts.append(
        "### Backport\n\nVersion 2's diff vector, added to version 1; the same questions as above.\n\n"
        + table(
            [
                seeds,
                ["version 1", *(share(s, "target") for s in backport)],
                ["**version 1 + diff vector of version 2**", *(share(s, "transferred") for s in backport)],
                ["version 1, fine-tuned", *(share(s, "tuned_target") for s in backport)],
                ["recovered gain", *(recovered(s) for s in backport)],
            ]
        )
    )
    parts.append(
        "### Controls, norms, time\n\nBoth controls are added to version 2 like the real diff vector: its "
        "own entries "
        "shuffled within each tensor, and the diff vector of a family pretrained on the same text from "
        "another random "
        "start.\n\n"
        + table(
            [
                seeds,
                *(
                    [
                        f"{name.replace('_', ' ')}: accuracy; share of the real gain",
                        *(control(record["controls"][name]) for record in records),
                    ]
                    for name in first["controls"]
                ),
                ["norm of the diff vector", *(f"{record['diff_norm']:.2f}" for record in records)],
                ["norm of version 2 − version 1", *(f"{record['shift_norm']:.2f}" for record in records)],
                ["seconds for everything, two cores", *(f"{record['seconds']:.0f}" for record in records)],
            ]
        )
    )
    said = {
        True: "held",
        False: "**not held**",
        None: "not asked then",
    }  # what the demo has claimed since a seed was run
    parts.append(
        "### What was claimed, and whether it held\n\n"
        + table(
            [
                seeds,
                *([claim, *(said[record["claims"].get(claim)] for record in records)] for claim in first["claims"]),
            ]
        )
    )
    return "\n\n".join(parts)


def _bench(record: dict[str, Any]) -> str:
    machine = record["machine"]
    software = ", ".join(f"{name} {machine[name]}" for name in ("python", "numpy", "torch", "transformers"))
    return (
        "## Speed and memory\n\nTo repeat: `make bench`. Whole processes, one after another, round after round; inputs "
        "in the page cache, no fsync, outputs checked against torch's float32 arithmetic and deleted. The floor reads base "
        "and tuned and copies the target, with as many workers. Ratios are medians of each round's ratio to its own floor; "
        "memory is the highest proportional share (PSS) over all processes of all rounds. The page cache of a virtual "
        f"machine makes wall times swing; CPU seconds hardly do. {software}; tuneport's kernel: {machine['kernel']}.\n\n"
        + bench_table(record)
    )


def _beside_transfer(file: Path) -> list[str]:
    """Compare beside transfer; of what was run."""
    if not file.exists():
        return []
    told = figures_in(file)
    rows = [["size", "command", "seconds", "CPU seconds", "MiB", "seconds, to transfer's", "CPU, to transfer's"]]
    for name, found in told.items():
        for command in ("transfer", "compare"):
            if not isinstance(found, dict) or command not in found:
                continue
            ratio = found.get("ratio") if command == "compare" else None
            shares = [f"{ratio[key]:.2f}" for key in ("wall", "cpu")] if ratio else ["", ""]
            figures = found[command]
            rows.append(
                [name, command, f"{figures['wall']:.1f}", f"{figures['cpu']:.1f}", f"{figures['pss']:.0f}", *shares]
            )
    return [
        "### Compare beside transfer\n\nTo repeat: `python -m bench.beside_transfer`. Whole processes, one after another; of 1.24 B "
        f"parameters medians of {told['rounds']} rounds. The 8 B model has the shapes of Llama 3.1 8B (its head tied: 7.5 B parameters), with one random MiB in each tensor "
        "and holes in its files; the many tensors are 100,000, of sixteen bytes each. Other work ran on the machine's "
        f"{told['cpus']} CPUs (load {told['load']:.1f}), so seconds are longer than compare and transfer need.\n\n{table(rows)}"
    ]


def _studies(figures: Path) -> list[str]:
    """What a study costs besides its steps, and that kills change nothing; of what was run."""
    parts = []
    if (file := figures / "study-bench.json").exists():
        told = figures_in(file)
        parts.append(
            f"To repeat: `make study-bench`. A study of {told['steps']} transfers of tiny models, one at a time, takes "
            f"{told['whole_seconds']:.2f} s as a whole process, the transfers alone {told['steps_alone_seconds']:.2f} s: "
            f"**{told['overhead_ms_a_step']:.1f} ms a step** for start, graph, records and results together."
        )
    if (file := figures / TWINS.name).exists():
        rows = [["study", "family", "steps", "minutes"]]
        for study, told in sorted(figures_in(file).items()):
            rows.append([f"{study}.toml", str(told["family"]), str(told["steps"]), f"{told['seconds'] / 60:.1f}"])
        parts.append(
            "Whole families from nothing, two steps at once on two cores, little beside them (`tuneport study studies/NAME.toml --out DIR "
            f"--family N --jobs 2`):\n\n{table(rows)}"
        )
    if (file := figures / "study-kills.json").exists():
        told = figures_in(file)
        verdict = "the same" if not told["different"] else f"different in {', '.join(told['different'])}"
        parts.append(
            f"To repeat: `make study-kills`. A study of {told['steps']} steps on real models ({', '.join(told['kinds'])}), killed "
            f"{told['kills']} times with SIGKILL, when {', '.join(map(str, told['records_at_each']))} records were there, two steps "
            f"at once: all its records are {verdict} {'as' if not told['different'] else 'than'} an unbroken run's, seconds and versions aside."
        )
    return ["## What a study costs, and kills", *parts] if parts else []


def main(arguments: Sequence[str]) -> int:
    """Write the page, or compare it: 0 if all is well."""
    return write_or_compare(PAGE, render(), arguments, "docs/results/")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
