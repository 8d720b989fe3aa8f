"""Fill in the README's tables, its dry run and its badges from records, from the program and from pyproject.toml.

``python -m experiments.pages.readme_page`` writes them; ``--check`` exits with status 1 where the committed ones are others.
"""

from __future__ import annotations

import re
import sys
import tomllib

from experiments.pages import first_transfer
from experiments.pages.markdown_cells import figures_in, recovered, table
from experiments.pages.write_page import DOCS, write_or_compare

PAGE, FIGURES, BADGES = DOCS.parent / "README.md", DOCS / "results", DOCS / "badges"
SEEDS = range(5)
# What the README shows of the dry run; the rest is left out.
SHOWN = (
    "transfer:",
    "  base ",
    "  tuned ",
    "  target ",
    "tensors:",
    "  chat_template: tuned",
    "the output:",
    "bytes:",
    "no problems found",
)
CONTESTANTS = {
    "floor": "copying the same bytes",
    "tuneport": "**tuneport transfer**",
    "tuneport-tokens": "… where tokenizers differ",
    "mergekit-float32": "mergekit 0.1.5, float32",
    "paper": "as the paper's script: three models in memory",
}


def render(page: str) -> str:
    for name, text in (("dry run", dry_run()), ("results", results()), ("cost", cost())):
        before, _, rest = page.partition(f"<!-- {name} -->\n")
        page = f"{before}<!-- {name} -->\n{text}\n<!-- end of {name} -->{rest.partition(f'<!-- end of {name} -->')[2]}"
    return page


def dry_run() -> str:
    """Some lines of what the command prints, and … for those between."""
    lines: list[str] = []
    for line in first_transfer.dry_run().splitlines():
        if line.startswith(SHOWN):
            lines.append(re.sub(r" @ [0-9a-f]{40}", "", line))
        elif line and lines[-1] != "…":
            lines.append("…")
    return "\n".join(["```text", *lines, "```"])


def results() -> str:
    """The demo's seeds and the published LLM: without, with the diff vector, and fine-tuned directly."""
    rows = [["", "version 2", "+ diff vector", "fine-tuned", "recovered gain"]]
    for seed in SEEDS:
        record = figures_in(FIGURES / f"demo-seed-{seed}.json")
        cells = (f"{100 * record[name]:.1f}" for name in ("target", "transferred", "tuned_target"))
        rows.append([f"demo, seed {seed}", *cells, recovered(record)])
    record = figures_in(FIGURES / "published.json")
    cells = (f"{100 * record['models'][name]['exact_match']:.1f}" for name in ("v2", "v2-transferred", "v2-tuned"))
    rows.append(["SmolLM2-135M", *cells, recovered(record)])
    asked = figures_in(FIGURES / "demo-seed-0.json")["n"]
    told = (
        f"Exact match in per cent on {asked:,} questions (SmolLM2: {record['n']}), recovered gain with its 95 % interval. Nothing is "
        "trained after the addition."
    )
    return f"{told}\n\n{table(rows)}"


def cost() -> str:
    """What a transfer costs beside copying and beside other ways."""
    record = figures_in(FIGURES / "bench.json")
    rows = [["", "seconds", "× copying", "peak memory"]]
    for name, label in CONTESTANTS.items():
        took = record["medians"][name]
        rows.append(
            [
                label,
                f"{took['wall']:.1f}",
                f"{took['wall_ratio']:.1f}",
                f"{took['most_pss']:,.0f} MiB",
            ]
        )
    machine = record["machine"]
    told = (
        f"A transfer of {record['parameters'] / 1e9:.2f} B parameters in bfloat16, inputs in the page cache, {machine['cpus']} cores, "
        f"medians of {len(record['rounds'])} rounds, each ratio within its round (`make bench`)."
    )
    return f"{told}\n\n{table(rows)}"


def badge(label: str, value: str) -> str:
    """A badge as an image of its own, so that no page fetches one from elsewhere."""
    left, right = 7 * len(label) + 12, 7 * len(value) + 12
    style = 'font-family="Verdana,sans-serif" font-size="11" fill="#fff" text-anchor="middle"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" aria-label="{label}: {value}">\n'
        f'<rect width="{left}" height="20" fill="#555"/><rect x="{left}" width="{right}" height="20" fill="#0969da"/>\n'
        f'<g {style}><text x="{left / 2}" y="14">{label}</text><text x="{left + right / 2}" y="14">{value}</text></g>\n</svg>\n'
    )


def main() -> int:
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    made = {
        PAGE: render(PAGE.read_text(encoding="utf-8")),
        BADGES / "licence.svg": badge("licence", project["license"]),
        BADGES / "python.svg": badge("python", project["requires-python"].replace(">=", "≥ ")),
    }
    return max(write_or_compare(page, text, sys.argv[1:], "the records and the program") for page, text in made.items())


if __name__ == "__main__":
    sys.exit(main())
