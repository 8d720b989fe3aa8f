"""The lab's family on the GPU and on the CPU of one machine: the same losses, answers and distributions, within tolerances.

In float32 both compute the same sums in another order. In bfloat16 the GPU keeps 8 bits of each number, so its tolerances are wider.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

import tuneport
from experiments.gpu.sizes import Sizes

FIRST_STEPS = 8  # of a fine-tuning; later the two drift apart, as rounding grows
LOSS = 1e-3  # relative: of texts, and of the first steps
ANSWERS = 0.98  # equal greedy answers, at least
DIVERGENCE = 1e-5  # mean KL of next tokens, in nats
# A CPU's bfloat16 beside its float32, on a small family of the lab: 6e-4, 93 % of 540 answers, 2e-4.
BFLOAT16 = {"loss": 5e-3, "answers": 0.85, "divergence": 2e-3}
_TEXTS = 32


def family_scores(place: Path, sizes: Sizes, device: str) -> dict[str, Any]:
    """Fine-tune M3 on the device in float32, carry it to M5, and score M5, M5 + Δ and the source."""
    lab = place / "family"
    tune_family(place, "M3-tuned", steps=sizes.family_steps)
    tune_family(place, f"first-{device}", steps=FIRST_STEPS)
    tuneport.transfer(lab / "M3", place / "M3-tuned", lab / "M5", place / "M5-carried")
    found = scored(place, sizes, device, "float32")
    if device == "cuda":
        scored(place, sizes, device, "bfloat16")
    return {"scores": found}


def same_on_cpu(place: Path, sizes: Sizes, device: str) -> dict[str, Any]:
    """The same on the CPU, from the same weights, beside what the GPU gave; bfloat16 on the GPU is compared with this too."""
    tune_family(place, "first-again-cpu", steps=FIRST_STEPS)
    scored(place, sizes, "cpu", "float32", "again-cpu")
    other = "cuda" if (place / "cuda-float32-losses.json").exists() else "cpu"
    first, again = (
        [json.loads(line)["loss"] for line in (place / folder / "log.jsonl").read_text().splitlines()]
        for folder in (f"first-{other}", "first-again-cpu")
    )
    steps = max(abs(one - two) / two for one, two in zip(first, again, strict=True))
    float32 = {"training": steps, **apart(place, f"{other}-float32", "again-cpu")}
    found: dict[str, Any] = {"float32": float32}
    bounds = {"training": LOSS, "loss": LOSS, "answers": ANSWERS, "divergence": DIVERGENCE}
    wrong = beyond(float32, bounds, "float32")
    if (place / "cuda-bfloat16-losses.json").exists():
        found["bfloat16"] = apart(place, "cuda-bfloat16", "again-cpu")
        wrong += beyond(found["bfloat16"], BFLOAT16, "bfloat16")
    if wrong:  # the figures stay in the record
        return {**found, "why": f"GPU and CPU differ by more than allowed: {'; '.join(wrong)}"}
    return found


def tune_family(place: Path, out: str, steps: int) -> None:
    """The lab's fine-tuning of M3, in float32."""
    lab = place / "family"
    tuneport.tune(
        lab / "M3",
        [lab / "instructions.jsonl"],
        out=place / out,
        chat_template=lab / "chat.jinja",
        end_token="<end>",
        steps=steps,
        learning_rate=2e-3,
        batch_size=32,
        beta2=0.95,
        weight_decay=0.01,
        precision="float32",
    )


def scored(place: Path, sizes: Sizes, device: str, dtype: str, name: str | None = None) -> dict[str, Any]:
    """Score the family's three models, and write how probable they find the tokens of some texts. Returns the scores."""
    lab = place / "family"
    name = name or f"{device}-{dtype}"
    models = [lab / "M5", place / "M5-carried", place / "M3-tuned"]
    common: dict[str, Any] = {"device": device, "dtype": dtype, "batch_size": 128}
    asked = tuneport.evaluate(
        models,
        [lab / "questions.jsonl"],
        place / f"{name}-answers.json",
        limit=sizes.family_asked,
        max_new_tokens=24,
        chat_template=lab / "chat.jinja",
        **common,
    )
    tuneport.evaluate(models, [lab / "held-out-text.jsonl"], place / f"{name}-losses.json", loss=True, **common)
    np.save(place / f"{name}.npy", _next_tokens(place / "M5-carried", lab / "held-out-text.jsonl", device, dtype))
    return {
        Path(model["model"]).name: {task: told["value"] for task, told in model["tasks"].items()}
        for model in asked["models"]
    }


def _next_tokens(model: Path, texts: Path, device: str, dtype: str) -> Any:
    """Logarithms of the probabilities of each next token, texts one after another, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).to(device)
    found = []
    with torch.no_grad():
        for line in texts.read_text().splitlines()[:_TEXTS]:
            ids = tokenizer(json.loads(line)["text"], return_tensors="pt")["input_ids"].to(device)
            found.append(torch.log_softmax(loaded(ids).logits[0].float(), dim=-1).cpu().numpy())
    return np.concatenate(found)


def apart(place: Path, one: str, other: str) -> dict[str, float]:
    """How far two scorings are apart: the largest relative difference of losses, equal answers, the mean KL."""
    losses = [_by_task(place / f"{name}-losses.json", lambda task: task["value"]) for name in (one, other)]
    answers = [_answers(place / f"{name}-answers.examples.jsonl") for name in (one, other)]
    assert losses[0].keys() == losses[1].keys() and answers[0].keys() == answers[1].keys(), "the same was asked"
    first, second = (np.load(place / f"{name}.npy").astype(np.float64) for name in (one, other))
    return {
        "loss": max(abs(losses[0][key] - value) / value for key, value in losses[1].items()),
        "answers": fmean(answers[0][key] == said for key, said in answers[1].items()),
        "divergence": abs(float(np.mean(np.sum(np.exp(second) * (second - first), axis=-1)))),
    }


def _by_task(file: Path, value: Callable[[Any], float]) -> dict[tuple[str, str], float]:
    models = json.loads(file.read_text())["models"]
    return {(model["model"], name): value(task) for model in models for name, task in model["tasks"].items()}


def _answers(file: Path) -> dict[tuple[str, str, str], Any]:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return {(line["model"], line["task"], line["id"]): line["said"] for line in lines}


def beyond(found: Mapping[str, float], bounds: Mapping[str, float], dtype: str) -> list[str]:
    """Which of these figures are beyond their bounds, in words."""
    return [
        f"{dtype} {name} {found[name]:.3g} (bound {bound:g})"
        for name, bound in bounds.items()
        if (found[name] < bound if name == "answers" else found[name] > bound)
    ]
