"""The shell line that does by hand what a step does.

In comes a step, out comes a command of `tuneport` with paths as they are seen from the study's folder. Things from outside stand
in it as the study's file spells them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from tuneport.studies.graph.graph import Step
from tuneport.studies.run.perform import numbered, part_in_folder


def by_hand(step: Step) -> str | None:
    """The line, or None where no command does the same by itself."""
    words = _WORDS.get(step.kind)
    if words is None:
        return None
    things = {role: str(choice["given"]) for role, choice in step.choices.items() if _from_outside(choice)}
    things |= {role: f"steps/{p.step.folder}/{part_in_folder(p)}" for role, p in step.parents.items()}
    return shlex.join(["tuneport", *words(step, things)])


def _tune(step: Step, things: Mapping[str, str]) -> Iterator[str]:
    choices = step.choices
    yield from ("tune", things["start"])
    yield from _flags(data=numbered(things, "data"), mix=choices.get("mix"))
    recipe = dict(choices["recipe"])
    recipe["reward"] = recipe.pop("rewards", None)
    # A recipe takes steps or epochs; of the two the record has one.
    yield from _flags(**recipe)
    yield from _flags(chat_template=things.get("chat_template"), end_token=choices.get("end_token"))
    yield from _flags(lora=_lora(choices.get("lora")), dtype=choices.get("dtype"))
    if choices.get("eval_every") is not None:
        yield from _flags(eval_every=choices["eval_every"], tasks=",".join(numbered(things, "validation")))
    running = {**choices.get("running", {}), **step.about.get("running", {})}
    yield from _flags(**running, out=f"steps/{step.folder}/model")


def _settings(step: Step) -> dict[str, Any]:
    """What decides the outcome, and how the step goes about it."""
    return {**step.choices.get("settings", {}), **step.about.get("running", {})}


def _lora(choices: Mapping[str, Any] | None) -> str | None:
    if choices is None:
        return None
    targets = choices["targets"]
    words = [f"rank={choices['rank']}", f"alpha={choices['alpha']:g}"]
    words.append(f"targets={targets if isinstance(targets, str) else '+'.join(targets)}")
    if choices.get("rslora"):
        words.append("rslora=true")
    if choices.get("modules_to_save"):
        words.append(f"save={'+'.join(choices['modules_to_save'])}")
    return ",".join(words)


def _transfer(step: Step, things: Mapping[str, str]) -> Iterator[str]:
    choices = step.choices
    yield from ("transfer", *_flags(base=things["base"], tuned=things["tuned"], onto=things["target"]))
    settings = dict(choices.get("settings", {}))
    settings["rule"] = settings.pop("rules", None)
    for name in ("config", "sidecar"):
        settings[name] = [f"{key}={side}" for key, side in settings.get(name, {}).items()]
    scale = choices.get("scale", 1.0)
    yield from _flags(scale=None if scale == 1 else scale, dtype=choices.get("dtype"), **settings)
    yield from _flags(out=f"steps/{step.folder}/model")


def _evaluate(step: Step, things: Mapping[str, str]) -> Iterator[str]:
    yield from ("evaluate", things["model"])
    tasks = numbered(things, "tasks")
    yield from _flags(tasks=",".join(tasks) or None, suite=step.choices.get("suite"))
    yield from _flags(chat_template=things.get("chat_template"), **_settings(step))
    yield from _flags(seed=step.choices.get("seed") or None, out=f"steps/{step.folder}/scores.json")


def _path(step: Step, things: Mapping[str, str]) -> Iterator[str]:
    choices = step.choices
    yield from ("path", things["a"], things["b"], *_flags(data=numbered(things, "data")))
    yield from _flags(**{name: choices.get(name) for name in ("points", "beyond", "threshold")})
    yield from _flags(chat_template=things.get("chat_template"), **_settings(step))
    yield from _flags(out=f"steps/{step.folder}/path.json")


_WORDS = {"tune": _tune, "transfer": _transfer, "evaluate": _evaluate, "path": _path}


def _from_outside(choice: Any) -> bool:
    return isinstance(choice, Mapping) and "given" in choice


def _flags(**values: Any) -> Iterator[str]:
    """A switch where it is on, else a flag with its value, or with each of them."""
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            yield flag
        elif value is None or value is False:
            continue
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                yield from (flag, str(one))
