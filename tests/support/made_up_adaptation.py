"""A file as `tuneport adapt` writes it; the numbers are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def share(value: float, change: float | None = None) -> dict[str, Any]:
    """A share of 200 prompts; ``change`` is the difference, with an interval of 8 points."""
    difference = None if change is None else {"value": change, "interval": [change - 0.04, change + 0.04]}
    interval = [max(0.0, value - 0.07), min(1.0, value + 0.07)]
    return {"value": value, "interval": interval, "n": 200, "difference": difference}


def retention(loss: float, ended: float = 0.95) -> dict[str, Any]:
    return {"loss": loss, "ended": ended, "length": 41.5, "repeated": 0.02}


def rung(name: str, status: str, **changed: Any) -> dict[str, Any]:
    """One rung; without figures where none are given."""
    nothing: dict[str, Any] = dict.fromkeys(("select", "test", "retention"))
    told = {"seconds": 0.0, "examples": 0, "steps": 0, "why": f"The reason of {name}.", "warnings": []}
    return {"name": name, "status": status, **nothing, **told, **changed}


def adaptation(chosen: str = "distil", measure: str = "quality") -> dict[str, Any]:
    """All four rungs were tried. Distil is kept unless ``chosen`` is add; tune did harm."""
    kept = chosen == "distil"
    tried = {f"{place / 4:g}": {"agreement": 0.1 * place, "loss": 2.0 - 0.3 * place} for place in range(7)}
    references = {"target": {"select": share(0.11), "test": share(0.10), "retention": retention(3.1, 0.4)}}
    if measure == "quality":
        references["source"] = {"select": share(0.8), "test": share(0.81), "retention": retention(3.6)}
    return {
        "format": "tuneport.adapt/1",
        "rungs": [
            rung("add", "kept", select=share(0.42), test=share(0.41), retention=retention(3.3), seconds=20.5),
            rung("scale", "not better", select=share(0.45, 0.03), test=share(0.44, 0.03), retention=retention(3.35), seconds=61.0, examples=128, scale=1.25, tried=tried),
            rung("distil", "kept" if kept else "not better", select=share(0.7, 0.28), test=share(0.69, 0.28), retention=retention(3.28), seconds=410.0, examples=512, steps=50, final_loss=0.31, tried={"add": 0.7, "scale": 0.66}, **{"from": "add"}),
            rung("tune", "harmed", select=share(0.8, 0.1), test=share(0.79, 0.38), retention=retention(3.9, 0.9), seconds=900.0, examples=512, steps=48, final_loss=0.2, **{"from": chosen}),
        ],
        "chosen": chosen,
        "measure": {"select": measure, "test": measure},
        "references": references,
        "warnings": ["<b>mind</b> this"],
        "plan": {
            "format": "tuneport.adapt/1",
            "inputs": [{"role": role, "name": name, "revision": None, "digest": "headers:00"} for role, name in (("base", "v1"), ("tuned", "v1-tuned"), ("target", "v2"))],
            "rungs": ["add", "scale", "distil", "tune"],
            "data": [{"part": part, "examples": count, "digest": f"{count:064x}"} for part, count in (("examples", 512), ("select", 200), ("test", 200))],
            "settings": {"match": None},
            "versions": {"tuneport": "0.1.0"},
        },
    }  # fmt: skip


def write(place: Path, chosen: str = "distil", measure: str = "quality") -> Path:
    """One adaptation."""
    place.write_text(json.dumps(adaptation(chosen, measure)))
    return place
