"""What is left of a fine-tuning when its diff vector becomes low-rank: full SFT, LoRA, and stages of DPO and GRPO.

Families of the lab (`role_families` makes them: M3 with its fine-tunings) are read; a GRPO stage after DPO is trained for each.
Each diff vector is exported as an adapter of its own base, at several ranks, and the rebuilt model is scored on the
family's questions beside base and tuned model. The figures go to docs/results/encodings.json.

    python -m experiments.trials.encoding_trials FAMILY… --out encodings-out
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import tuneport

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "results" / "encodings.json"
# Fine-tunings: base and tuned model.
KINDS = {
    "full SFT": ("M3", "M3-sft"),
    "LoRA": ("M3", "M3-lora"),
    "DPO stage": ("M3-sft", "M3-dpo"),
    "GRPO stage": ("M3-dpo", "grpo"),
}
CHOICES: dict[str, dict[str, Any]] = {"rank 1": {"rank": 1}, "rank 8": {"rank": 8}, "energy 0.9": {"energy": 0.9}}
MOST_TOKENS = 24


def main() -> int:
    """Measure every family, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("encodings-out"))
    options = parser.parse_args()
    found = {family.name: of_family(family, options.out / family.name) for family in options.families}
    text = json.dumps({"tuneport": tuneport.__version__, "families": found}, indent=1) + "\n"
    FIGURES.write_text(text, encoding="utf-8")
    print(text)
    return 0


def of_family(family: Path, out: Path) -> dict[str, Any]:
    """The figures of one family, by kind of fine-tuning."""
    out.mkdir(parents=True, exist_ok=True)
    models = {name: family / name for pair in KINDS.values() for name in pair}
    models["grpo"] = grpo_stage(family, out / "grpo")
    found, places = {}, dict(models)
    places["M3-lora"] = out / "M3-lora"
    tuneport.transfer(models["M3"], models["M3-lora"], models["M3"], places["M3-lora"])
    for kind, (base, tuned) in KINDS.items():
        where = out / kind.replace(" ", "-")
        where.mkdir(exist_ok=True)
        tuneport.diff(models[base], models[tuned], where / "diff")
        patch = tuneport.export(where / "diff", models[base], where / "patch", "sparse").manifest["exported"]
        found[kind] = {"changed": patch["share"], "encodings": {}}
        for name, choice in CHOICES.items():
            adapter = where / name.replace(" ", "-")
            told = tuneport.export(where / "diff", models[base], adapter, "peft", **choice).manifest["exported"]
            rebuilt = where / f"{adapter.name}-model"
            tuneport.transfer(models[base], adapter, models[base], rebuilt)
            places[f"{kind}, {name}"] = rebuilt
            share = (adapter / "adapter_model.safetensors").stat().st_size / weight_bytes(models[base])
            found[kind]["encodings"][name] = {"survives": told["survives"], "error": told["error"], "bytes": share}
    scores = scored(list(places.values()), family / "questions.jsonl", out / "scores.json")
    for kind, (base, tuned) in KINDS.items():
        found[kind] |= {"base": scores[str(places[base])], "tuned": scores[str(places[tuned])]}
        for name, told in found[kind]["encodings"].items():
            told["score"] = scores[str(places[f"{kind}, {name}"])]
    return found


def grpo_stage(family: Path, out: Path) -> Path:
    """A stage of GRPO after DPO, in float32, as studies/lab-stages.toml has it."""
    tuneport.tune(
        family / "M3-dpo",
        data=family / "prompts.jsonl",
        recipe="grpo",
        out=out,
        steps=60,
        learning_rate=2e-4,
        batch_size=16,
        num_generations=8,
        max_completion_length=MOST_TOKENS,
        beta2=0.95,
        lr_scheduler_type="linear",
        rewards=["exact"],
        dtype="float32",
    )
    return out


def scored(models: list[Path], questions: Path, out: Path) -> dict[str, float]:
    """The share of right answers of each model."""
    tuneport.evaluate(models, str(questions), out=out, max_new_tokens=MOST_TOKENS, batch_size=256)
    record = json.loads(out.read_text(encoding="utf-8"))
    return {str(place): mean_of(entry) for place, entry in zip(models, record["models"], strict=True)}


def mean_of(entry: dict[str, Any]) -> float:
    """The mean score of one model over the kinds of questions."""
    values = [float(task["value"]) for task in entry["tasks"].values()]
    return sum(values) / len(values)


def weight_bytes(model: Path) -> int:
    """Bytes of a model's weights."""
    return sum(file.stat().st_size for file in model.glob("*.safetensors"))


if __name__ == "__main__":
    raise SystemExit(main())
