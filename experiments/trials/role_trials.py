"""Trials of the warnings about roles, on the families that `role_families` makes: figures for docs/results/roles.json.

    python -m experiments.trials.role_trials --out DIR [--families DIR]

Each trial is a real transfer: what a sample says beforehand, what the whole pass says, what the small files say, what rounding
took. Honest trials must raise no doubt; controls (strangers, swapped roles) must raise one. A family's trials are a file in
``out``, beside the families themselves unless they lie elsewhere; what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from experiments.trials.role_families import CHOSEN_ON, COUNTED, TIED, TUNINGS, VERSIONS, make

BASES = (*VERSIONS, "side", "near", "far", "next", "replaced")
INSTRUCT = ("M1-sft", "M3-sft", "M5-sft", "side-sft", "next-sft")
LANGUAGE = ("M1-language", "M3-language", "M5-language", "next-language")
ORDERS = {  # which model of an honest trial is given as base, tuned and target
    "base and tuned": (1, 0, 2),
    "base and target": (2, 1, 0),
    "tuned and target": (0, 2, 1),
    "base for target for tuned": (2, 0, 1),
    "base for tuned for target": (1, 2, 0),
}
SWAPPED = 1000  # honest trials of a family (all, if there are no more) whose roles are put in every other order
STRANGE = 40  # honest trials of a family in which each model in turn is exchanged for another family's
SMALL_SAMPLE = {"MATRICES": 8, "ELEMENTS": 256}  # as small a part of these models as the real one is of a large model
BOUND = 0.05
ROUNDING = 0.1
HONEST = ("honest", "instruct target", "adapter")
LENGTHS: tuple[tuple[float, float | None], ...] = ((0, 0.1), (0.1, 0.3), (0.3, 0.5), (0.5, None))


@dataclass(frozen=True)
class Trial:
    """Three models by name, what they are together, and how that was made wrong, if it was."""

    base: str
    tuned: str
    target: str
    what: str
    order: str = ""


def honest(folder: Path) -> list[Trial]:
    """Every fine-tuning with every version, and with every instruct model that does not hold the same already.

    A fine-tuning on top of another is taken from both its beginnings. Adapters come with the model that they were made for.
    """
    found = []
    for name, tuning in TUNINGS.items():
        for base in bases_of(name):
            kind = "adapter" if tuning.adapter else "honest"
            found += [Trial(base, name, target, kind) for target in BASES if target != base]
            if base == tuning.start and "-" in base:  # what it adds is not what made the instruct models
                others = [*INSTRUCT, *([] if name in LANGUAGE else LANGUAGE)]
                found += [Trial(base, name, t, "instruct target") for t in others if t not in (base, name)]
    return [
        trial for trial in found if all((folder / name).exists() for name in (trial.base, trial.tuned, trial.target))
    ]


def bases_of(name: str) -> list[str]:
    """The model that a fine-tuning began with, and that one's own beginning."""
    start = TUNINGS[name].start
    return [start, TUNINGS[start].start] if start in TUNINGS and not name.endswith("-tiny") else [start]


def held_already(folder: Path) -> list[Trial]:
    """Fine-tunings on the instructions, onto models that were fine-tuned on the same instructions."""
    same = [name for name, tuning in TUNINGS.items() if tuning.data == "instructions.jsonl" and not tuning.adapter]
    found = []
    for name in same:
        start = TUNINGS[name].start
        others = [t for t in (*INSTRUCT, *LANGUAGE) if t.partition("-")[0] != start]
        found += [Trial(start, name, target, "same fine-tuning in the target") for target in others]
    return found


def made_from_it(folder: Path) -> list[Trial]:
    """Targets that were fine-tuned on from the tuned model."""
    return [
        Trial(TUNINGS[tuning.start].start, tuning.start, name, "target made from tuned")
        for name, tuning in TUNINGS.items()
        if tuning.start in TUNINGS
    ]


def swapped(trials: Sequence[Trial], seed: int) -> Iterator[Trial]:
    """Some honest trials in every other order."""
    whole = [trial for trial in trials if trial.what != "adapter"]
    for trial in random.Random(f"swapped {seed}").sample(whole, min(SWAPPED, len(whole))):
        models = (trial.base, trial.tuned, trial.target)
        for order, places in ORDERS.items():
            yield Trial(*(models[place] for place in places), "swapped", order)


def strange(trials: Sequence[Trial], seed: int, other: Path) -> Iterator[Trial]:
    """Some honest trials with one model, or base and tuned, of another family."""
    for trial in random.Random(f"strange {seed}").sample(list(trials), min(STRANGE, len(trials))):
        names = {role: str(other / getattr(trial, role)) for role in ("base", "tuned", "target")}
        if trial.what == "adapter":  # its own base's shapes are all that an adapter knows
            exchanges: tuple[tuple[str, ...], ...] = (("target",),)
        else:
            exchanges = (("target",), ("tuned",), ("base",), ("base", "tuned"))
        for roles in exchanges:
            parts = {**asdict(trial), **{role: names[role] for role in roles}}
            yield Trial(parts["base"], parts["tuned"], parts["target"], "stranger", " and ".join(roles))


def run(trial: Trial, folder: Path) -> dict[str, Any]:
    """The trial as a transfer: doubts of the sample (whole and small), of the whole pass; other warnings; figures."""
    from tuneport.checkpoint.open_model import open_checkpoint
    from tuneport.engine.checks import sampling
    from tuneport.engine.checks.before_writing import look
    from tuneport.engine.choices import Choices, Running
    from tuneport.engine.run import execute
    from tuneport.engine.summands.pair_summand import plan_transfer

    given = [(trial.base, "base"), (trial.tuned, "tuned"), (trial.target, "target")]
    plan = plan_transfer(*(open_checkpoint(folder / name, role) for name, role in given), Choices())
    assert not plan.refusals, plan.refusals
    with patch.multiple(sampling, **SMALL_SAMPLE):
        small = look(plan)
    with tempfile.TemporaryDirectory() as place:
        manifest = execute(plan, Path(place) / "out", Running(workers=1)).manifest
    roles = manifest["roles"]
    return {
        **asdict(trial),
        "sample": [doubt.kind for doubt in small.doubts],
        "whole": [doubt["kind"] for doubt in roles["doubts"]],
        "files": bool(plan.warnings),
        "figures": _rounded(roles["whole"] or roles["samples"]["tuned"]),
        "sampled": _rounded(small.samples["tuned"].record()),
        "lengths": _rounded({name: manifest["measures"][name] for name in ("diff_norm", "shift_norm")}),
        "rounding": (manifest["measures"]["rounding"] or {}).get("error"),
    }


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: round(value, 5) if isinstance(value, float) else value
        for name, value in values.items()
        if name != "error"
    }


def other_family(seed: int, families: Path) -> int:
    """The family that strangers come from: the next one of the same half and layout; of tied ones, of the other half."""
    half = TIED if seed in TIED else [s for s in (CHOSEN_ON if seed in CHOSEN_ON else COUNTED) if s not in TIED]
    there = [other for other in half if (families / f"family-{other}" / "family.json").exists()]
    return there[(there.index(seed) + 1) % len(there)]


def trials_of(folder: Path, seed: int, other: Path) -> list[Trial]:
    """All trials of a family; ``other`` is the family that strangers come from."""
    plain = honest(folder)
    return [
        *plain,
        *held_already(folder),
        *made_from_it(folder),
        *swapped(plain, seed),
        *strange(plain, seed, other),
    ]


def summarise(found: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The figures of some families' trials."""
    trials = [trial for seed in found for trial in found[seed]]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for trial in trials:
        groups.setdefault((trial["what"], trial["order"]), []).append(trial)
    plain = [trial for trial in trials if trial["what"] in HONEST]
    alarms = sum(bool(trial["sample"] or trial["whole"]) for trial in plain)
    families = sum(
        any(trial["sample"] or trial["whole"] for trial in found[s] if trial["what"] in HONEST) for s in found
    )
    return {
        "families": list(found),
        "groups": [_group(what, order, of) for (what, order), of in groups.items()],
        "honest": {
            "trials": len(plain),
            "alarms": alarms,
            "bound": _bound(alarms, len(plain)),
            "families_with_alarms": families,
            "bound_of_families": _bound(families, len(found)),
        },
        "taken_back": sum(bool(trial["sample"]) and not trial["whole"] for trial in trials),
        "swapped_by_length": [row for kind in ("tuned", "target") for row in _by_length(found, kind)],
        "rounding": _rounding(plain),
    }


def _group(what: str, order: str, trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many raised what, and between which values the figures lay."""
    told = {name: sum(bool(trial[name]) for trial in trials) for name in ("sample", "whole", "files")}
    either = sum(bool(trial["whole"] or trial["files"]) for trial in trials)
    spans = {}
    for name in ("base_target", "base_tuned", "at_base"):
        read = (
            trial["figures"].get(name) or trial["sampled"].get(name) for trial in trials
        )  # the whole pass may lack it
        values = [value for value in read if value is not None]
        spans[name] = [min(values), max(values)] if values else None
    return {"what": what, "order": order, "n": len(trials), **told, "whole_or_files": either, **spans}


def _by_length(found: Mapping[int, Sequence[Mapping[str, Any]]], kind: str) -> list[dict[str, Any]]:
    """Trials whose base is really tuned (or target), by the distance between the two as a part of the other one."""
    orders = {
        "tuned": {"base and tuned": (1, 0, 2), "base for tuned for target": (1, 2, 0)},
        "target": {"base and target": (2, 1, 0), "base for target for tuned": (2, 0, 1)},
    }[kind]
    rows = [
        {"with": kind, "from": low, "to": high, "n": 0, "whole": 0, "files": 0, "either": 0} for low, high in LENGTHS
    ]
    for trials in found.values():
        lengths = {(t["base"], t["tuned"], t["target"]): t["lengths"] for t in trials if t["what"] in HONEST}
        for trial in trials:
            if trial["what"] != "swapped" or trial["order"] not in orders:
                continue
            given = (trial["base"], trial["tuned"], trial["target"])
            places = orders[trial["order"]]
            sides = lengths[tuple(given[places.index(place)] for place in range(3))]  # type: ignore[index]  # three names
            ratio = sides["diff_norm"] / sides["shift_norm"]
            ratio = ratio if kind == "tuned" else 1 / ratio
            row = next(row for row in rows if row["from"] <= ratio < (row["to"] or math.inf))
            row["n"] += 1
            for name, holds in (
                ("whole", trial["whole"]),
                ("files", trial["files"]),
                ("either", trial["whole"] or trial["files"]),
            ):
                row[name] += bool(holds)
    return rows


def _rounding(plain: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What bfloat16 took of the honest trials' diff vectors, by fine-tuning."""
    kinds: dict[str, list[float]] = {}
    for trial in plain:
        if trial["rounding"] is not None:
            kind = trial["tuned"].rpartition("-")[2] + (" on its base's tuning" if "-" in trial["base"] else "")
            kinds.setdefault(kind, []).append(trial["rounding"])
    return [
        {
            "tuning": kind,
            "n": len(values),
            "warned": sum(v > ROUNDING for v in values),
            "from": min(values),
            "to": max(values),
        }
        for kind, values in sorted(kinds.items())
    ]


def _bound(alarms: int, n: int) -> float:
    """The upper end of the one-sided 95 % interval of a share (Clopper and Pearson), as if trials were independent."""
    low, high = alarms / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if sum(math.comb(n, k) * middle**k * (1 - middle) ** (n - k) for k in range(alarms + 1)) > BOUND:
            low = middle
        else:
            high = middle
    return high


def figures_of(out: Path) -> dict[str, Any] | None:
    """The figures of the trials that are there, and which families' are missing; None where a half has none."""
    files = {seed: out / f"trials-{seed}.json" for seed in (*CHOSEN_ON, *COUNTED)}
    read = {seed: json.loads(file.read_text(encoding="utf-8")) for seed, file in files.items() if file.exists()}
    halves = {
        name: {seed: read[seed] for seed in half if seed in read}
        for name, half in (("chosen_on", CHOSEN_ON), ("counted", COUNTED))
    }
    if not all(halves.values()):
        return None
    missing = [seed for seed in files if seed not in read]
    return {"format": "tuneport-roles-1", "missing": missing} | {name: summarise(of) for name, of in halves.items()}


def main() -> int:
    """0 when the trials that were asked for are there, and the figures of all that are."""
    parser = argparse.ArgumentParser(description="Try the warnings about roles on families of models.")
    parser.add_argument("--families", type=Path, help="folder of the families, which are made if they are not there")
    parser.add_argument("--out", type=Path, required=True, help="folder of the trials")
    parser.add_argument("--only", help="families, with commas (default: all)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    families = options.families or options.out
    seeds = [int(seed) for seed in options.only.split(",")] if options.only else [*CHOSEN_ON, *COUNTED]
    for seed in seeds:
        make(families / f"family-{seed}", seed)
    for seed in seeds:
        file = options.out / f"trials-{seed}.json"
        if not file.exists():
            other = other_family(seed, families)
            folder = families / f"family-{seed}"
            trials = trials_of(folder, seed, Path("..") / f"family-{other}")
            print(f"family {seed}: {len(trials)} trials …", file=sys.stderr, flush=True)
            fresh = file.with_suffix(".new")
            fresh.write_text(
                json.dumps([run(trial, folder) for trial in trials], ensure_ascii=False) + "\n", encoding="utf-8"
            )
            fresh.rename(file)
    figures = figures_of(options.out)
    if figures is not None:
        (options.out / "roles.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
