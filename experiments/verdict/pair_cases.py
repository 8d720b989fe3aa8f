"""What happened to each pair of each family, as cases: what was known before, and what came.

In come the committed records, out come cases for each kind of task and for all kinds together. Gains are in points (0 to 1), from the
target's own score; a case has an outcome only where both the source's fine-tuning and the target's own gained at least `LEAST`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.pages.markdown_cells import figures_in
from experiments.verdict.family_record import RECORDS
from tuneport.families import kin
from tuneport.results.schema import BASE, TRANSFER, TUNED

TASKS = ("word-problems", "known-facts", "orders")
ALL = "all kinds"
KINDS = (ALL, *TASKS)
LEAST = 0.1  # a fine-tuning that gained less taught too little to say whether it carries over
HALF = 0.5  # of the gain: a transfer that brings less has failed
OWN_TEXT = {"domain": "domain-text", "language": "language-text", "longer": "longer-text"}
RUN_TEXT = "run-text"
_PLACES = {"M1": 1, "M2": 2, "M3": 3, "M4": 4, "M5": 5}
FOREIGN = "foreign"
LARGE_FROM = 1000


@dataclass(frozen=True)
class Case:
    """One pair, fine-tuning and kind of task of one family. ``succeeded`` None: no gain to carry over, or none to be had."""

    family: int
    source: str
    target: str
    tuning: str
    kind: str
    figures: Mapping[str, Any]
    gates: Mapping[str, str]
    known: float  # what the fine-tuning gained on its own version
    own: float | None  # what the target gained by a fine-tuning of its own
    gain: float
    retention: float  # of the target's perplexity on the texts it should keep: 1 is all of it
    own_retention: float | None  # of the same, after a fine-tuning of its own
    steps_between: int
    places_between: int
    same_block: bool

    @property
    def name(self) -> str:
        """As people say it."""
        return f"{self.target} + Δ({self.source}, {self.tuning}), family {self.family}"

    @property
    def succeeded(self) -> bool | None:
        """Whether at least half of the gain came over."""
        wanted = self.known if self.own is None else min(self.known, self.own)
        return None if wanted < LEAST else self.gain >= HALF * wanted

    @property
    def gated(self) -> bool:
        """Whether a gate failed."""
        return "fail" in self.gates.values()


def families_in(folder: Path = RECORDS) -> dict[int, list[Case]]:
    """The cases of every committed record, by family."""
    records = [figures_in(path) for path in folder.glob("family-*.json")]
    return {number_of(record): cases_of(record) for record in sorted(records, key=number_of)}


def number_of(record: Mapping[str, Any]) -> int:
    """The family's number; a large one's is `LARGE_FROM` more, so that no two families have one."""
    return int(record["family"]) + (LARGE_FROM if record["lab"] == "large" else 0)


def cases_of(record: Mapping[str, Any]) -> list[Case]:
    """The cases of one family."""
    scores = {
        (row["kind"], row["source"], row["target"], row["tuning"]): {
            task: value for task, (value, _) in row["tasks"].items()
        }
        for row in record["scores"]
    }
    found = []
    for pair in record["pairs"]:
        source, target, tuning = pair["source"], pair["target"], pair["tuning"]
        bases = {name: scores[BASE, None, name, None] for name in (source, target)}
        tuned, moved = scores[TUNED, None, source, tuning], scores[TRANSFER, source, target, tuning]
        own = scores.get((TUNED, None, target, tuning))
        for kind in KINDS:
            tasks = TASKS if kind == ALL else (kind,)
            found.append(
                Case(
                    number_of(record),
                    source,
                    target,
                    tuning,
                    kind,
                    {**pair["measures"], "probe": pair.get("probe")},
                    {name: status for name, (status, _) in pair["gates"].items()},
                    known=_mean(tuned, tasks) - _mean(bases[source], tasks),
                    own=None if own is None else _mean(own, tasks) - _mean(bases[target], tasks),
                    gain=_mean(moved, tasks) - _mean(bases[target], tasks),
                    retention=_kept(target, bases[target], moved),
                    own_retention=None if own is None else _kept(target, bases[target], own),
                    steps_between=steps_between(source, target, kin.SIZES[record["lab"]]),
                    places_between=places_between(source, target),
                    same_block=_block(source) == _block(target),
                )
            )
    return found


def _mean(scores: Mapping[str, float], tasks: Iterable[str]) -> float:
    values = [scores[task] for task in tasks]
    return sum(values) / len(values)


def _kept(target: str, before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """How much of the perplexity on the run's text, and on a branch's own, is kept: exp(loss before − loss after), their mean."""
    texts = [RUN_TEXT, *([OWN_TEXT[target]] if target in OWN_TEXT else [])]
    return _mean({text: min(1.0, math.exp(before[text] - after[text])) for text in texts}, texts)


def _moments(recipe: kin.KinRecipe) -> dict[str, int]:
    """After how many steps of the run each version stands; branches count from the last one."""
    first, second = recipe.run.first_stage.steps, recipe.run.second_stage.steps
    steps = recipe.instruct.steps
    assert steps is not None, "the lab's budgets are in steps"
    found = {"M1": first // 3, "M2": 2 * first // 3, "M3": first, "M4": first + second // 2, "M5": first + second}
    branches = {name: getattr(recipe, name).schedule.steps for name in ("domain", "language", "more", "longer")}
    return found | branches | {kin.INSTRUCT: steps, FOREIGN: recipe.foreign.steps}


def steps_between(one: str, other: str, recipe: kin.KinRecipe = kin.SMALL) -> int:
    """Steps of training (2,048 tokens each) that lie between two versions, by way of what they have in common."""
    moments = _moments(recipe)
    last = moments["M5"]
    if one == other:
        return 0
    if FOREIGN in (one, other):
        return moments[one] + moments[other] + (0 if {one, other} & _PLACES.keys() else last)
    if one in _PLACES and other in _PLACES:
        return abs(moments[one] - moments[other])
    on_run = [moments[name] for name in (one, other) if name in _PLACES]
    branches = sum(moments[name] for name in (one, other) if name not in _PLACES)
    return branches + sum(last - moment for moment in on_run)


def places_between(one: str, other: str) -> int:
    """|i − j|: a branch is one place after the last version, two branches are two apart; a foreign one is as far as any."""
    if FOREIGN in (one, other):
        return 6
    if one in _PLACES and other in _PLACES:
        return abs(_PLACES[one] - _PLACES[other])
    on_run = [_PLACES[name] for name in (one, other) if name in _PLACES]
    return 2 if not on_run else 6 - on_run[0]


def _block(name: str) -> str:
    """Which block a version is of: the first stage, the second and what goes on from it, or a foreign one."""
    if name == FOREIGN:
        return FOREIGN
    return "first stage" if name in ("M1", "M2", "M3") else "second stage"
