"""Ask prompts of the pairs of a finished family, as `compare --probe` does, and put the figures into its record.

    python -m experiments.verdict.probe_pairs DIR …     each DIR is a study's folder whose record is committed

The prompts are of the family's validation, without their answers: 16 of each kind of task, none of which the test asks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experiments.pages.markdown_cells import figures_in
from experiments.verdict.family_record import place_of, record_of, short, text_of
from tuneport.families import kin
from tuneport.families.kin import PREFIX
from tuneport.families.syllabus import write_syllabus
from tuneport.results.study_reading import Reading, read_study

EACH = 16  # prompts of a kind


def write_prompts(file: Path, lab: str, seed: int) -> None:
    """Unlabelled prompts of a family, one a line."""
    run = kin.SIZES[lab].run
    text = write_syllabus(seed, (run.first_stage, run.second_stage), run.architecture.context, run.amounts)
    kinds: dict[str, list[str]] = {}
    for question in text.validation:
        kinds.setdefault(question.task, []).append(question.prompt)
    rows = [{"prompt": prompt} for prompts in kinds.values() for prompt in prompts[:EACH]]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def probed(reading: Reading, record: Mapping[str, Any], prompts: Path) -> list[dict[str, Any]]:
    """The pairs of a record with what prompts said of each; a source answers once for all of its targets."""
    import tuneport

    folders = {step.name: reading.root / "steps" / str(step.folder) for step in reading.steps}
    (family,) = [folder for name, folder in folders.items() if name.startswith("family ")]
    models = family / "family"
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for source, tuning in dict.fromkeys((pair["source"], pair["tuning"]) for pair in record["pairs"]):
        targets = [pair["target"] for pair in record["pairs"] if (pair["source"], pair["tuning"]) == (source, tuning)]
        said = tuneport.compare(
            models / f"{PREFIX}{source}",
            folders[f"tune FT({source}, {tuning})"] / "model",
            [models / f"{PREFIX}{target}" for target in targets],
            probe=[prompts],
            max_new_tokens=24,
        )
        ranked: list[Any] = [said] if len(targets) == 1 else list(said)
        for one in ranked:
            target = Path(one["inputs"][-1]["name"]).name.removeprefix(PREFIX)
            found[source, target, tuning] = figures_of(one["probe"])
        print(f"{source}, {tuning}: {', '.join(targets)}", file=sys.stderr, flush=True)
    return [{**pair, "probe": found[pair["source"], pair["target"], pair["tuning"]]} for pair in record["pairs"]]


def figures_of(probe: Mapping[str, Any] | None) -> dict[str, float | None]:
    """What predictors read: of the tuned model's answers the loss that target + Δ still has over the tuned model, and how many are alike."""
    prompts = probe["prompts"] if probe is not None else None
    if prompts is None:
        return dict.fromkeys(("loss_left", "loss_closed", "alike", "alike_before"))
    left = closed = None
    if (loss := prompts["loss"]) is not None:
        source, target, carried = (loss[name]["value"] for name in ("source", "target", "carried"))
        left, closed = carried - source, target - carried
    return {
        "loss_left": short(left),
        "loss_closed": short(closed),
        "alike": short(prompts["alike"]["carried"]["value"]),
        "alike_before": short(prompts["alike"]["target"]["value"]),
    }


def main(arguments: Sequence[str]) -> int:
    """Probe the families in these folders."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    for folder in arguments:
        reading = read_study(folder)
        known = record_of(reading)
        place = place_of(known["lab"], known["family"])
        with TemporaryDirectory() as work:
            prompts = Path(work) / "prompts.jsonl"
            write_prompts(prompts, known["lab"], known["family"])
            record = {**figures_in(place), "pairs": probed(reading, known, prompts)}
        place.write_text(text_of(record), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
