"""The part of docs/results.md on what holds under kills, damage and hostile input: of what was run."""

from __future__ import annotations

from pathlib import Path

from experiments.pages.markdown_cells import figures_in, table


def render(figures: Path) -> list[str]:
    """A section, from the files that `make kills`, `make fuzz` and `make fuzz-readers` left; none if nothing was run."""
    parts = []
    if (file := figures / "kills.json").exists():
        told = figures_in(file)
        rows = [
            ("command", "changes of files", "kills"),
            *((name, str(one["changes"]), str(one["kills"])) for name, one in told["commands"].items()),
        ]
        held = f"not in {len(told['wrong'])} cases" if told["wrong"] else "always"
        parts.append(
            f"To repeat: `make kills`. Commands that write, killed with SIGKILL before one of their changes of files, {told['kills']} times "
            "over all, the moments spread over the run. After each kill, nothing looked complete except a complete "
            "output, the inputs "
            "were untouched, and the same command ended with the output of an unbroken run: "
            f"{held}.\n\n{table(rows)}"
        )
    if (file := figures / "mutations.json").exists():
        told = figures_in(file)
        rows = [
            ("command", "runs", "faults"),
            *((name, str(one["runs"]), str(one["faults"])) for name, one in told.items()),
        ]
        parts.append(
            f"To repeat: `make fuzz`. {sum(o['runs'] for o in told.values()):,} runs of whole commands on inputs of which one file was damaged "
            "(bytes flipped, gone or added; JSON with other values, missing or deep ones; lines of journals exchanged). A run must end "
            "with status 0 or one message and status 1, within its limits of time and memory, change no input, and what it writes "
            f"must verify.\n\n{table(rows)}"
        )
    if (file := figures / "fuzz-readers.json").exists():
        told = figures_in(file)
        rows = [
            ("reader", "seconds", "runs", "inputs kept", "crashes"),
            *(
                (name, str(one["seconds"]), f"{one['runs']:,}", str(one["kept"]), str(int(one["crashed"])))
                for name, one in told.items()
            ),
        ]
        parts.append(
            "To repeat: `make fuzz-readers`. atheris, a coverage-guided fuzzer, over what reads files of others; a reader gives a value or an "
            f"error with a message. Its findings are in tests/attacks/corpus and is read again in every run of the "
            f"tests.\n\n{table(rows)}"
        )
    return ["## Kills, damage, hostile input", *parts] if parts else []
