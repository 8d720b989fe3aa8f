"""What each kind of step does: one public function, called with the step's literal choices (`steps.py` lists them).

Takes a step, its inputs by role (a folder or file of another step, or an existing one) and a place to work in; leaves
files there and returns what was measured. The same call resumes a killed step, because the commands resume their work.

| kind | leaves in its place |
| --- | --- |
| `family` | family/ with versions and data |
| `tune`, `transfer`, `adapt` | model/ |
| `evaluate` | scores.json, scores.examples.jsonl |
| `path` | path.json, and what `path` leaves beside it |
| `distance`, `rounding`, `compare` | distance.json, rounding.json, compare.json |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuneport.errors import StudyError
from tuneport.files.writing import write_whole
from tuneport.studies.declared import ADAPT_DATA
from tuneport.studies.graph.graph import Parent, Step

Given = Mapping[str, Path | str]  # by role: a local path, or a name (Hub id, task of the harness)
_BY_TORCH = ("family", "tune", "adapt", "evaluate", "path")
_WITHIN = {"family": "family/"}  # a family's folder appears as a whole, so it lies inside the step's


def perform(step: Step, given: Given, place: Path, threads: int = 1) -> dict[str, Any]:
    """Do the work of a step into ``place``, on ``threads`` threads; what was measured. Raises what the commands raise."""
    if step.kind not in _KINDS:
        raise StudyError(f"{step.name}: {step.kind!r} is not a kind of step. Known kinds: {', '.join(sorted(_KINDS))}.")
    if step.kind not in _BY_TORCH:
        return _KINDS[step.kind](step, given, place, threads)
    from tuneport.scoring.threads import computing_on

    with computing_on(threads):  # wherever a kind of step runs, on the same number: its bits are then the same
        return _KINDS[step.kind](step, given, place, threads)


def part_in_folder(parent: Parent) -> str:
    """Where the part that is taken from a step lies in that step's folder."""
    return _WITHIN.get(parent.step.kind, "") + parent.part


def numbered(given: Mapping[str, Any], role: str) -> list[str]:
    """The things of roles ``role.0``, ``role.1`` …, in this order."""
    found = {int(name.rpartition(".")[2]): str(given[name]) for name in given if name.rpartition(".")[0] == role}
    return [found[place] for place in sorted(found)]


def _family(step: Step, given: Given, place: Path, threads: int) -> dict[str, Any]:
    from tuneport.families.catalogue import make
    from tuneport.libraries import quietly

    with quietly():
        found = make(step.choices, place / "family")
    # The losses on the way are those that one run has seen; after a kill, not all of them.
    return {name: value for name, value in found.items() if name != "loss"}


def arguments_of(step: Step, given: Given, place: str) -> dict[str, Any]:
    """What the command of a step is called with, as Python calls it.

    ``given`` says where what it takes lies, ``place`` where its own folder is.
    """
    return _ARGUMENTS[step.kind](step, given, place)


def _of_tune(step: Step, given: Given, place: str) -> dict[str, Any]:
    choices = step.choices
    every = choices.get("eval_every")
    return {
        "model": str(given["start"]),
        "data": numbered(given, "data"),
        "mix": choices.get("mix") or (),
        **choices["recipe"],
        "chat_template": given.get("chat_template"),
        "end_token": choices.get("end_token"),
        "lora": choices.get("lora"),
        "dtype": choices.get("dtype"),
        **({} if every is None else {"eval_every": every, "tasks": numbered(given, "validation")}),
        **choices.get("running", {}),
        **step.about.get("running", {}),
        "out": f"{place}/model",
    }


def _of_transfer(step: Step, given: Given, place: str) -> dict[str, Any]:
    choices = step.choices
    parents = {name: str(given[role]) for name, role in (("base", "base"), ("tuned", "tuned"), ("onto", "target"))}
    chosen = {"scale": float(choices.get("scale", 1.0)), "dtype": choices.get("dtype"), **choices.get("settings", {})}
    return {**parents, **chosen, "out": f"{place}/model"}


def _of_adapt(step: Step, given: Given, place: str) -> dict[str, Any]:
    choices = step.choices
    parents = {name: str(given[role]) for name, role in (("base", "base"), ("tuned", "tuned"), ("onto", "target"))}
    data = {role: files for role in ADAPT_DATA if (files := numbered(given, role))}
    chosen = {"rungs": choices["rungs"], **choices["fitting"], "dtype": choices.get("dtype")}
    return {**parents, **data, **chosen, **_settings(step, given), "out": f"{place}/model"}


def _of_evaluate(step: Step, given: Given, place: str) -> dict[str, Any]:
    asked = {"models": [str(given["model"])], "tasks": numbered(given, "tasks"), "suite": step.choices.get("suite")}
    seed = int(step.choices.get("seed", 0))
    return {**asked, **_settings(step, given), "seed": seed, "out": f"{place}/scores.json"}


def _of_path(step: Step, given: Given, place: str) -> dict[str, Any]:
    ends = {"a": str(given["a"]), "b": str(given["b"]), "data": numbered(given, "data")}
    points = {name: step.choices.get(name) for name in ("points", "beyond", "threshold")}
    return {**ends, **points, **_settings(step, given), "out": f"{place}/path.json"}


def _of_compare(step: Step, given: Given, place: str) -> dict[str, Any]:
    parents = {name: str(given[role]) for name, role in (("base", "base"), ("tuned", "tuned"), ("onto", "target"))}
    chosen = {"dtype": step.choices.get("dtype"), **step.choices.get("settings", {})}
    return {**parents, **chosen, "out": f"{place}/compare.json"}


_ARGUMENTS: Mapping[str, Callable[[Step, Given, str], dict[str, Any]]] = {
    "tune": _of_tune,
    "transfer": _of_transfer,
    "adapt": _of_adapt,
    "evaluate": _of_evaluate,
    "path": _of_path,
    "compare": _of_compare,
}


def _tune(step: Step, given: Given, place: Path, threads: int) -> dict[str, Any]:
    import tuneport

    tuned = tuneport.tune(**{**arguments_of(step, given, str(place)), "mix": _shares(step, given)})
    return {name: value for name, value in tuned.record["outcome"].items() if name != "seconds"}


def _shares(step: Step, given: Given) -> list[Any]:
    """How much of each source is used; a file is named as the study's file spells it, or by its own name."""
    from dataclasses import replace

    from tuneport.examples.training_data import parse_share

    places = {
        str(choice["given"]): str(given[role])
        for role, choice in step.choices.items()
        if role.startswith("data.") and isinstance(choice, Mapping)
    }
    shares = [parse_share(text) for text in step.choices.get("mix") or ()]
    return [replace(share, name=places.get(share.name, share.name.removeprefix("lab:"))) for share in shares]


def _transfer(step: Step, given: Given, place: Path, threads: int) -> dict[str, Any]:
    import tuneport

    output = tuneport.transfer(**arguments_of(step, given, str(place)), workers=threads)
    return {**output.manifest["measures"], "warnings": list(output.warnings)}


def _adapt(step: Step, given: Given, place: Path, threads: int) -> dict[str, Any]:
    import tuneport

    found = tuneport.adapt(**arguments_of(step, given, str(place)), workers=threads)
    record = found.record
    kept = ("name", "status", "select", "test", "retention", "examples", "steps")
    rungs = [{name: rung[name] for name in kept} for rung in record["rungs"]]
    fine_tuned = next(rung["steps"] for rung in rungs if rung["name"] == "tune")
    return {
        "chosen": record["chosen"],
        "measure": record["measure"],
        "rungs": rungs,
        "references": record["references"],
        "steps": fine_tuned if record["chosen"] == "tune" else 0,  # of fine-tuning, as results count them
        "warnings": list(found.warnings),
    }


def _evaluate(step: Step, given: Given, place: Path, threads: int) -> dict[str, Any]:
    import tuneport

    record = tuneport.evaluate(**arguments_of(step, given, str(place)))
    (scored,) = record["models"]
    return {"tasks": scored["tasks"], "warnings": list(record["warnings"])}


def _path(step: Step, given: Given, place: Path, threads: int) -> dict[str, Any]:
    from tuneport.diagnosis.loss_path import path

    found = path(**arguments_of(step, given, str(place)))
    told = ("alphas", "loss", "accuracy", "n", "barrier", "interval", "at", "threshold", "connected")
    return {name: found[name] for name in told if name in found}


def _distance(step: Step, given: Given, place: Path, threads: int) -> dict[str, Any]:
    from tuneport.comparison.distances import distances

    tuned = {role.removesuffix("_tuned"): str(given[role]) for role in ("a_tuned", "b_tuned") if role in given}
    found = dict(distances({role: str(given[role]) for role in ("a", "b")}, tuned))
    _write(place / "distance.json", found)
    return found


def _compare(step: Step, given: Given, place: Path, threads: int) -> dict[str, Any]:
    import tuneport

    found = tuneport.compare(**arguments_of(step, given, str(place)), workers=threads, overwrite=True)
    # Reasons name folders of this machine, so they stay in compare.json.
    gates = [{name: gate[name] for name in ("name", "status", "value", "threshold")} for gate in found["gates"]]
    verdict = {name: found["verdict"][name] for name in ("word", "gain", "retention", "calibrated")}
    return {"measures": found["measures"], "gates": gates, "verdict": verdict}


def _rounding(step: Step, given: Given, place: Path, threads: int) -> dict[str, Any]:
    from tuneport.comparison.distances import lost_by_rounding

    found = lost_by_rounding(str(given["base"]), str(given["tuned"]), step.choices["dtype"])
    _write(place / "rounding.json", found)
    return found


_KINDS: Mapping[str, Callable[[Step, Given, Path, int], dict[str, Any]]] = {
    "family": _family,
    "tune": _tune,
    "transfer": _transfer,
    "adapt": _adapt,
    "evaluate": _evaluate,
    "path": _path,
    "distance": _distance,
    "rounding": _rounding,
    "compare": _compare,
}


def _settings(step: Step, given: Given) -> dict[str, Any]:
    """A command's further arguments, with the chat template where it lies."""
    template = {key: given[key] for key in ("chat_template",) if key in given}
    return {**step.choices.get("settings", {}), **step.about.get("running", {}), **template}


def _write(path: Path, found: Mapping[str, Any]) -> None:
    """A result that its command only returns."""
    write_whole(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
