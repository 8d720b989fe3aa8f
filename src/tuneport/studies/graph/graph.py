"""Steps and their dependencies: a graph whose steps are identified by choices and parents, never by place.

Gives an order in which steps can be done and an identity for each. Two steps with the same kind, the same literal
choices and the same parents are one step, wherever they run and whatever their names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from blake3 import blake3

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Parent:
    """What a step takes from another one: the file or folder `part` in that step's folder."""

    step: Step
    part: str = "model"


EXAMPLES = "examples:"  # begins a digest of examples, which is one of what they say and not of a file's bytes


@dataclass(frozen=True)
class Step:
    """One thing to do: a kind, its literal choices, and its parents by role.

    `name` is for people ("transfer M5 + Δ(M4), seed 123") and `about` for the page; neither counts for the identity. Where
    the choices name a file or a model that is there already, they hold its digest too: a step whose inputs changed is
    another step. `inputs` says where such things lie, which counts for nothing. `called` is the name that its folder is spelled
    by, where other steps of that name made `name` longer: a finished step stays where it is.
    """

    kind: str
    name: str
    choices: Json
    parents: Mapping[str, Parent] = field(default_factory=dict)
    about: Json = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    called: str = ""

    @cached_property
    def identity(self) -> str:
        """Sixteen hexadecimal digits of BLAKE3 over kind, choices and the parents' identities."""
        parents = {role: [parent.step.identity, parent.part] for role, parent in self.parents.items()}
        choices = {name: _known_by(choice) for name, choice in self.choices.items()}
        literal = {"kind": self.kind, "choices": choices, "parents": parents}
        return blake3(json.dumps(literal, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """The name of its folder: readable, and unlike any other step's."""
        spelled = (self.called or self.name).replace("Δ", "delta-").lower()
        return f"{re.sub(r'[^a-z0-9.]+', '-', spelled).strip('-')[:80]}-{self.identity[:8]}"


def _known_by(choice: Any) -> Any:
    """What of a choice counts: of examples what they say, however the file is called that holds them."""
    is_thing = isinstance(choice, Mapping) and choice.keys() == {"given", "digest"}
    return choice["digest"] if is_thing and str(choice["digest"]).startswith(EXAMPLES) else choice


class Graph:
    """Steps in an order in which each comes after its parents. The same step, added twice, is there once."""

    def __init__(self, steps: Iterable[Step] = ()) -> None:
        self._steps: dict[str, Step] = {}
        for step in steps:
            self.add(step)

    def add(self, step: Step) -> Step:
        """The step, or the one of the same identity that was there before; its parents are added first."""
        if step.identity not in self._steps:
            for parent in step.parents.values():
                self.add(parent.step)
            self._steps[step.identity] = step
        return self._steps[step.identity]

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps.values())

    def __len__(self) -> int:
        return len(self._steps)

    def __contains__(self, step: object) -> bool:
        return isinstance(step, Step) and step.identity in self._steps

    def children(self) -> dict[str, list[Step]]:
        """By identity, the steps that depend on each step."""
        found: dict[str, list[Step]] = {identity: [] for identity in self._steps}
        for step in self:
            for identity in {parent.step.identity for parent in step.parents.values()}:
                found[identity].append(step)
        return found
