"""The part of docs/results.md on how much a command computes before its first word."""

from __future__ import annotations

from pathlib import Path

from experiments.pages.markdown_cells import figures_in, table


def render(figures: Path) -> list[str]:
    """A section, from what `python -m experiments.trials.first_words` left; none if it was not run."""
    if not (file := figures / "first-words.json").exists():
        return []
    told = figures_in(file)
    rows = [
        ("command", "what it prints first", "CPU seconds to it", "in all"),
        *(
            (
                f"`tuneport {name}`",
                f"`{one['first']}`".replace("|", "\\|"),
                f"{one['to_first']:.1f}",
                f"{one['seconds']:.1f}",
            )
            for name, one in told["commands"].items()
        ),
    ]
    return [
        "## The first word\n\nTo repeat: `python -m experiments.trials.first_words`. Each command in a process of its own, on models of a few "
        "thousand parameters and without a terminal: what it prints first, and the CPU seconds until then, "
        f"which are the seconds on the clock where nothing else runs.\n\n{table(rows)}"
    ]
