"""Carries a fine-tuning across two spellings for every class with rules, and writes ``docs/results/spellings.json``.

For each class that `make_spellings.py` found rules for: a tiny random model, under the names of the loaded model and under those that
transformers saves (``revert_weight_conversion``). Base and tuned in one spelling are carried onto a target in the other, both ways, by
`transfer` and by `diff` and `apply`; the output must be, byte for byte, what the formula gives, saved by transformers. A class works, has
one spelling only, or is refused in words; what else happens is a defect. ``python -m experiments.trials.walk_spellings [KIND …]``, a few minutes on
one core.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1")

import torch
from safetensors.torch import load_file, save_file

from experiments.tables.make_spellings import language_models
from experiments.trials.tiny_kinds import LAYERS, NotMadeError, tiny_config
from tuneport.diffvector.run import apply, diff, transfer
from tuneport.errors import TuneportError
from tuneport.pairing.spelling_rules import data

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "spellings.json"
ROWS = 96
MOST_PARAMETERS = 60_000_000
Weights = dict[str, torch.Tensor]
# What a class needs besides its small sizes.
SETTINGS: dict[str, dict[str, Any]] = {"emu3": {"vocabulary_map": {"<|extra_200|>": 3, "<image>": 4}}}


def main(chosen: list[str]) -> None:
    """Walk the classes, and write what came out."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for kind, name in language_models():
        if name not in data()["classes"] or (chosen and kind not in chosen):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            found[f"{kind} {name}"] = outcome = _walk(kind, name, Path(scratch))
        print(kind, json.dumps(outcome)[:300], file=sys.stderr, flush=True)
    if not chosen:
        told = {
            "transformers": data()["transformers"],
            "counts": _counts(found),
            "classes": dict(sorted(found.items())),
        }
        RESULTS.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _counts(found: dict[str, Any]) -> dict[str, int]:
    kinds = [next(iter(outcome)) for outcome in found.values()]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def _walk(kind: str, name: str, root: Path) -> dict[str, str]:
    from transformers.core_model_loading import revert_weight_conversion

    try:
        model = _model(kind, name)
        start = _random(model, 1)
        saved: Callable[[Weights], Weights] = lambda weights: {  # noqa: E731  (one expression, with the model at hand)
            key: tensor.contiguous() for key, tensor in revert_weight_conversion(model, dict(weights)).items()
        }
        old = saved(start)
    except Exception as error:  # whatever a class raises over a config that it was not made for
        return {"not made": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}
    if {key: t.shape for key, t in old.items()} == {key: t.shape for key, t in start.items()}:
        return {"one spelling": f"{len(start)} tensors"}
    config = json.loads(model.config.to_json_string(use_diff=False)) | {"architectures": [name]}
    tuned, target = _near(start, 2, 0.01), _near(start, 3, 0.05)
    wanted = {key: _sum(start[key], tuned[key], target[key]) for key in target}
    joined = len(old) != len(start) or any(old[key].shape != start[key].shape for key in old.keys() & start.keys())
    for way, parents, onto in (("saved onto loaded", saved, dict), ("loaded onto saved", dict, saved)):
        place = root / way
        for role, weights in (("base", parents(start)), ("tuned", parents(tuned)), ("target", onto(target))):
            _put(place / role, weights, config)
        try:
            transfer(place / "base", place / "tuned", place / "target", place / "out")
            diff(place / "base", place / "tuned", place / "diff")
            apply([(place / "diff", 1.0)], place / "target", place / "applied")
        except TuneportError as error:
            return {"refused": f"{way}: {' '.join(str(error).split())[:300]}"}
        for out in ("out", "applied"):
            different = _different(load_file(place / out / "model.safetensors"), onto(wanted))
            if different:
                return {"wrong": f"{way}, {out}: {different[:3]}"}
    return {"works": f"{len(old)} tensors saved, {len(start)} loaded" + (", some joined or cut" if joined else "")}


def _model(kind: str, name: str) -> Any:
    import transformers

    config = tiny_config(kind, ROWS, **SETTINGS.get(kind, {}))
    for part in (getattr(config, name, None) for name in config.sub_configs):
        if getattr(part, "depth", 0) > LAYERS and not getattr(part, "deepstack_visual_indexes", None):
            part.depth = LAYERS
    with torch.device("meta"):
        model = getattr(transformers, name)(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > MOST_PARAMETERS:
        raise NotMadeError(f"it still has {count:,} parameters")
    return model


def _random(model: Any, seed: int) -> Weights:
    """Random weights under the loaded model's names, those that are tied once."""
    made = torch.Generator().manual_seed(seed)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    found = {}
    for name, tensor in model.state_dict().items():
        if name in tied:
            continue
        if tensor.is_floating_point():
            found[name] = torch.randn(tensor.shape, generator=made).bfloat16()
        else:
            found[name] = torch.zeros(tensor.shape, dtype=tensor.dtype)
    return found


def _near(weights: Weights, seed: int, by: float) -> Weights:
    made = torch.Generator().manual_seed(seed)
    return {
        name: (t.float() + by * torch.randn(t.shape, generator=made)).bfloat16() if t.is_floating_point() else t
        for name, t in weights.items()
    }


def _sum(base: torch.Tensor, tuned: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if not target.is_floating_point():
        return target
    return (target.float() + (tuned.float() - base.float())).bfloat16()


def _put(place: Path, weights: Weights, config: dict[str, Any]) -> None:
    place.mkdir(parents=True)
    save_file(
        {name: t.contiguous().clone() for name, t in weights.items()}, place / "model.safetensors", {"format": "pt"}
    )
    (place / "config.json").write_text(json.dumps(config))


def _different(found: Weights, wanted: Weights) -> list[str]:
    names = sorted(found.keys() ^ wanted.keys())
    return names or [name for name in wanted if not _same(found[name], wanted[name])]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


if __name__ == "__main__":
    main(sys.argv[1:])
