"""A file as `tuneport compare` writes it; the numbers are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KINDS = {"model.layers.#.input_layernorm.weight": False, "model.layers.#.mlp.up_proj.weight": True}


def figures(value: float) -> dict[str, Any]:
    names = ("norm_base", "norm_diff", "relative_shift", "relative_diff", "cosine_diff_shift", "rounding_loss")
    return {"parameters": 1000, **dict.fromkeys(names, value), "norm_shift": None}


def estimate(value: float) -> dict[str, Any]:
    return {"value": value, "interval": [value - 0.05, value + 0.05]}


def probe() -> dict[str, Any]:
    roles = {role: estimate(0.4 + place / 10) for place, role in enumerate(("source", "target", "carried"))}
    others = {role: roles[role] for role in ("target", "carried")}
    return {
        "prompts": {
            "n": 9,
            "empty": 0,
            "tokens": 40,
            "loss": {**roles, "gain": estimate(0.1)},
            "alike": others,
            "kl": others,
        },
        "answers": {
            "n": 9,
            "accuracy": roles,
            "gain": estimate(0.1),
            "condition": "The old tuned model is still better.",
        },
        "retain": {"n": 4, "tokens": 80, **others, "rise": estimate(0.1)},
        "warnings": ["<b>mind</b> this"],
    }


def comparison(word: str, target: str = "v2") -> dict[str, Any]:
    """One pair."""
    status = "fail" if word == "unlikely" else "pass"
    layers = [
        {"layer": layer, "kind": kind, "matrix": matrix, **figures((layer + 1) / 10 if matrix else 9.0)}
        for layer in range(3)
        for kind, matrix in KINDS.items()
    ]
    return {
        "format": "tuneport.compare/1",
        "inputs": [{"role": role, "name": name} for role, name in (("base", "v1"), ("tuned", "v1-tuned"), ("target", target))],
        "formula": "target + (tuned − base)",
        "measures": {**figures(0.25), "matrices": figures(0.25), "vectors": figures(0.5)},
        "layers": [{"layer": None, "kind": "lm_head.weight", "matrix": True, **figures(0.3)}, *layers],
        "tensors": [],
        "tuned_target": None,
        "gates": [{"name": "strangers", "status": status, "value": 0.9, "threshold": 0.1, "reason": "Versions of one model."}],
        "probe": probe() if word == "likely" else None,
        "verdict": {
            "word": word, "gain": [0.4, 0.7, 0.9], "retention": None, "reasons": ["The first reason.", "Another one."],
            "remedy": "Try less.", "calibrated": True,
        },
    }  # fmt: skip


def write(place: Path, pairs: int = 1) -> Path:
    """One comparison, or a ranking."""
    words = ("likely", "unlikely", "uncertain")
    made = [comparison(words[number % 3], f"v{number + 2}") for number in range(pairs)]
    place.write_text(json.dumps(made[0] if pairs == 1 else made))
    return place
