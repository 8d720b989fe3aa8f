"""What a study will cost in disk and GPU time, from headers and what the file says; nothing is fetched.

In come steps, out come bytes and GPU hours for each, None where nothing is known, and every assumption in words. Estimates
for choosing machines, not promises: training takes 6·P floating-point operations a token, scoring 2·P.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneport.checkpoint.local_folder import open_folder
from tuneport.diagnosis.points import how_many
from tuneport.errors import TuneportError
from tuneport.examples.data_rows import RowReading
from tuneport.examples.naming import ENDINGS, ending, file_of, find_data
from tuneport.studies.declared import Study
from tuneport.studies.graph.graph import Graph, Step
from tuneport.studies.graph.study_inputs import folder_beside

_BYTES = {"float32": 4, "bfloat16": 2}
_ASSUMED_BYTES = 2  # a parameter of a checkpoint whose headers are not at hand
_LONGEST = 2048  # tokens of a training example, where the recipe leaves it open (section 3.1)
# Operations for each token and parameter: forward 2, backward 4; DPO has two answers and a reference, GRPO draws and has one.
_OPERATIONS = {"sft": 6, "dpo": 2 * (6 + 2), "grpo": 6 + 2 + 2}
_SCORING = 2
_CHECKPOINT_BYTES = 12  # float32 weights and AdamW's two moments, while a fine-tuning runs


@dataclass(frozen=True)
class Cost:
    """Of one step. None: not known."""

    disk: int | None = 0
    gpu_hours: float | None = 0.0


@dataclass(frozen=True)
class _Size:
    parameters: float | None
    bytes_each: float | None


class CostEstimates:
    """Costs of the steps of one study."""

    def __init__(self, study: Study, graph: Graph) -> None:
        """Look at the headers of what lies on this machine."""
        self._study = study
        self._known = dict(self._sizes())
        self._models: dict[str, _Size] = {}
        self._counted: dict[str, int | None] = {}
        self._costs = {step.identity: self._cost(step) for step in graph}

    def of(self, step: Step) -> Cost:
        """The cost of a step."""
        return self._costs[step.identity]

    def total(self, steps: Iterable[Step]) -> dict[str, Any]:
        """Sums over steps; those of which nothing is known are counted."""
        costs = [self._costs[step.identity] for step in steps]
        disks = [cost.disk for cost in costs if cost.disk is not None]
        hours = [cost.gpu_hours for cost in costs if cost.gpu_hours is not None]
        gpus = self._study.cost.get("gpus")
        # Nothing, of which parts are not known, is not known; nothing of which all is known is nothing.
        known_disk = any(disks) or len(disks) == len(costs)
        known_hours = any(hours) or len(hours) == len(costs)
        return {
            "disk": sum(disks) if known_disk else None,
            "disk_unknown": len(costs) - len(disks),
            "gpu_hours": sum(hours) if known_hours else None,
            "gpu_hours_unknown": len(costs) - len(hours),
            "days": sum(hours) / gpus / 24 if gpus and known_hours else None,
        }

    def to_fetch(self) -> int | None:
        """Bytes of models on the Hub, if none is in the cache yet; None where no size is known."""
        specs = {spec for version in self._study.versions for spec in (version.model, *version.tuned.values())}
        outside = [self._known[spec] for spec in specs if spec in self._known and self._folder(spec) is None]
        sizes = [size.parameters * _ASSUMED_BYTES for size in outside if size.parameters is not None]
        return round(sum(sizes)) if sizes else None

    def assumptions(self) -> list[str]:
        """Everything that the estimates rest on, in words."""
        cost = self._study.cost
        found = [f"training takes {_OPERATIONS['sft']} operations for each parameter and token (dpo {_OPERATIONS['dpo']}, "
                 f"grpo {_OPERATIONS['grpo']}), scoring {_SCORING}"]  # fmt: skip
        if "flops" in cost:
            gpu = cost.get("gpu", "a GPU")
            found.append(f"{gpu}: {cost['flops']:.3g} operations a second at {cost.get('utilisation', 1):.0%} of it")
        else:
            found.append("no GPU is named ([cost] flops, utilisation), so hours are not known")
        tokens = cost.get("tokens_per_example")
        found.append(
            f"{tokens:g} tokens in a training example"
            if tokens
            else f"training examples of full length (max-length, else {_LONGEST} tokens): an upper bound"
        )
        if {"questions", "tokens_per_question"} <= cost.keys():
            found.append(
                f"{cost['questions']:g} questions of {cost['tokens_per_question']:g} tokens in each evaluation; of files, as many "
                "as they hold, curves too"
            )
        else:
            found.append("scoring is not counted ([cost] questions and tokens-per-question)")
        if "tokens_per_path" in cost:
            found.append(
                f"{cost['tokens_per_path']:g} tokens at each point of a path, all of `refine` counted: an upper bound"
            )
        found.append(f"{_ASSUMED_BYTES} bytes a parameter of a model on the Hub")
        found.append(f"a running fine-tuning has checkpoints of {_CHECKPOINT_BYTES} bytes a parameter besides")
        if self._study.keep == "scored":
            found.append(
                "transferred models are dropped once nothing needs them; all of them together are counted here"
            )
        return found

    def _sizes(self) -> Iterable[tuple[str, _Size]]:
        """Of every model from outside: from its headers, or as the file says."""
        for version in self._study.versions:
            for spec in (version.model, *version.tuned.values()):
                folder = self._folder(spec)
                if folder is not None:
                    try:
                        checkpoint = open_folder(folder, "model")
                    except TuneportError:
                        continue
                    yield spec, _Size(checkpoint.parameters, checkpoint.nbytes / max(checkpoint.parameters, 1))
                else:
                    yield spec, _Size(version.parameters, _ASSUMED_BYTES)

    def _folder(self, spec: str) -> Path | None:
        return folder_beside(self._study.path.parent, spec)

    def _size(self, step: Step, role: str) -> _Size:
        """The size of the model that a step takes in a role."""
        if role in step.parents:
            return self._models.get(step.parents[role].step.identity, _Size(None, None))
        given = str(step.choices[role]["given"])
        by_name = {Path(spec).name: size for spec, size in self._known.items()}
        return self._known.get(given) or by_name.get(given) or _Size(None, None)

    def _cost(self, step: Step) -> Cost:
        if step.kind in ("tune", "transfer"):
            like = self._size(step, "start" if step.kind == "tune" else "target")
            each = _BYTES.get(str(step.choices["dtype"]), like.bytes_each)
            self._models[step.identity] = size = _Size(like.parameters, each)
            disk = None if size.parameters is None or each is None else round(size.parameters * each)
            return Cost(disk, 0.0 if step.kind == "transfer" else self._training(step, size.parameters))
        if step.kind == "evaluate":
            return Cost(0, self._scoring(self._size(step, "model").parameters, self._questions(step, "tasks")))
        if step.kind == "path":
            tokens = self._study.cost.get("tokens_per_path")
            parameters = self._size(step, "b").parameters
            operations = (
                None if tokens is None or parameters is None else _SCORING * parameters * tokens * _points(step)
            )
            return Cost(0, self._hours(operations))
        if step.kind == "family":
            return Cost(None, 0.0)
        return Cost()

    def _training(self, step: Step, parameters: float | None) -> float | None:
        recipe: Mapping[str, Any] = step.choices["recipe"]
        if parameters is None or recipe["steps"] is None:
            return None
        tokens = self._study.cost.get("tokens_per_example") or recipe["max_length"] or _LONGEST
        examples = recipe["steps"] * recipe["batch_size"] * recipe.get("num_generations", 1)
        trained = self._hours(_OPERATIONS[recipe["recipe"]] * parameters * examples * tokens)
        every = step.choices["eval_every"]
        if every is None or trained is None:
            return trained
        points: int = math.ceil(recipe["steps"] / every)
        return trained + points * (self._scoring(parameters, self._questions(step, "validation")) or 0.0)

    def _questions(self, step: Step, role: str) -> float | None:
        """How many a step asks: those that files beside the study's hold, and what is assumed where it asks others too."""
        roles = [name for name in (*step.parents, *step.inputs) if name.rpartition(".")[0] == role]
        counts = [self._count(step.inputs.get(name, "")) for name in roles]
        others = step.choices.get("suite") is not None or None in counts
        assumed: float | None = self._study.cost.get("questions") if others else 0
        limit = step.choices.get("settings", {}).get("limit") or math.inf
        return None if assumed is None else assumed + sum(min(count, limit) for count in counts if count is not None)

    def _count(self, place: str) -> int | None:
        """The examples in a file; None for what is none."""
        if place not in self._counted:
            self._counted[place] = None
            if file_of(place).is_file() and ending(file_of(place)) in ENDINGS:
                self._counted[place] = sum(1 for _ in RowReading(find_data([place])[0]).rows())
        return self._counted[place]

    def _scoring(self, parameters: float | None, questions: float | None) -> float | None:
        tokens = self._study.cost.get("tokens_per_question")
        if parameters is None or questions is None or tokens is None:
            return None
        return self._hours(_SCORING * parameters * questions * tokens)

    def _hours(self, operations: float | None) -> float | None:
        rate = self._study.cost.get("flops")
        if operations is None or rate is None:
            return None
        return float(operations / (rate * self._study.cost.get("utilisation", 1.0)) / 3600)


def _points(step: Step) -> int:
    """How many points of a line a path measures at most."""
    return how_many(step.choices["points"], step.choices["settings"].get("refine"), step.choices["beyond"])
