"""Estimate what a study will cost in disk and GPU time, from headers, files of examples and the study file.

Nothing is downloaded. Bytes and GPU hours of each step are None if unknown, and every assumption is a sentence. Estimates to choose
machines by, not promises: training takes 6·P floating-point operations per token, reading a prompt 2·P; an answer is generated
token by token, and for each token of a batch all weights are read from memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneport.adaptation.adapt_options import FEWEST_FITTED, HELD_OUT
from tuneport.adaptation.climb import MOST_FITTED
from tuneport.adaptation.layer_scales import BATCH
from tuneport.adaptation.rungs.layers_rung import STEPS
from tuneport.adaptation.rungs.scale_rung import SCALES
from tuneport.checkpoint.local_folder import open_folder
from tuneport.diagnosis.points import how_many
from tuneport.errors import TuneportError
from tuneport.examples.file_tokens import BYTES_EACH, FileTokens
from tuneport.scoring.evaluate_options import BATCH_SIZE, USUAL_ANSWER
from tuneport.studies.declared import Study
from tuneport.studies.graph.graph import Graph, Step
from tuneport.studies.graph.study_inputs import folder_beside

_BYTES = {"float32": 4, "bfloat16": 2}
_ASSUMED_BYTES = 2  # a parameter of a checkpoint whose headers are not at hand
_LONGEST = 2048  # tokens of a training example, where the recipe leaves it open (section 3.1)
# Operations for each token and parameter: forward 2, backward 4; DPO has two answers and a reference, GRPO draws and has one.
_OPERATIONS = {"sft": 6, "dpo": 2 * (6 + 2), "grpo": 6 + 2 + 2}
_SCORING = 2
_DISTILLING = 6 + 2  # the student is trained, the teacher read
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


@dataclass(frozen=True)
class _Asked:
    """Questions of a file with the tokens of each, or of a task without a file (None)."""

    count: float
    tokens: float | None


class CostEstimates:
    """Costs of the steps of one study."""

    def __init__(self, study: Study, graph: Graph) -> None:
        """Look at the headers of what lies on this machine."""
        self._study = study
        self._known = dict(self._sizes())
        self._adapts = any(step.kind == "adapt" for step in graph)
        self._models: dict[str, _Size] = {}
        folders = map(self._folder, (version.model for version in study.versions))
        self._files = FileTokens(folder for folder in folders if folder is not None)
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
        found = [f"training takes {_OPERATIONS['sft']} operations per parameter and token (dpo {_OPERATIONS['dpo']}, "
                 f"grpo {_OPERATIONS['grpo']}), scoring {_SCORING}"]  # fmt: skip
        if "flops" in cost:
            gpu = cost.get("gpu", "a GPU")
            found.append(
                f"{gpu}: {cost['flops']:.3g} operations per second, at {cost.get('utilisation', 1):.0%} utilisation"
            )
        else:
            found.append("hours are unknown: [cost] names no GPU (flops, utilisation)")
        found += self._of_tokens()
        if "tokens_per_path" in cost:
            found.append(
                f"{cost['tokens_per_path']:g} tokens at each point of a path, including all `refine` points: an upper "
                f"bound"
            )
        if self._adapts:
            found.append(
                f"an adaptation asks the source, the target and each rung {HELD_OUT} prompts to select and {HELD_OUT} to report, or "
                f"those of the files; distil has one start; on the way it has a checkpoint of each rung"
            )
        found.append(f"{_ASSUMED_BYTES} bytes per parameter for models on the Hub")
        found.append(f"a running fine-tuning also has checkpoints of {_CHECKPOINT_BYTES} bytes per parameter")
        if self._study.keep == "scored":
            found.append("transferred models are deleted once no step needs them; this counts all of them together")
        return found

    def _of_tokens(self) -> Iterator[str]:
        cost = self._study.cost
        counted = (
            f"tokens of files as {self._files.tokenizer.parent.name}'s tokenizer makes them"
            if self._files.tokenizer is not None
            else f"a token for {BYTES_EACH} bytes of files"
        )
        if "tokens_per_example" in cost:
            yield f"{cost['tokens_per_example']:g} tokens in a training example"
        else:
            yield (
                f"{counted}; other training examples are of full length (max-length, else {_LONGEST} tokens): an upper bound"
            )
        if "tokens_per_question" in cost:
            yield f"{cost['tokens_per_question']:g} tokens in a question and its answer"
        if "questions" in cost:
            yield f"{cost['questions']:g} questions in each evaluation; of files, as many as they hold, curves too"
        if not {"questions", "tokens_per_question"} <= cost.keys():
            yield "tasks that are no files here are not counted ([cost] questions and tokens-per-question)"
        if "new_tokens_per_question" in cost:
            yield f"{cost['new_tokens_per_question']:g} tokens in an answer"
        else:
            yield f"answers of full length (max-new-tokens, else {USUAL_ANSWER} tokens) to the questions of files: an upper bound"
        if "bandwidth" in cost:
            yield (
                f"answers are generated token by token, {BATCH_SIZE} (or batch-size) together; each token reads all weights from "
                f"memory, at {cost['bandwidth']:.3g} bytes a second"
            )
        else:
            yield "the memory's speed is not named ([cost] bandwidth), so answers count as if they were read: far too little"

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
        if step.kind in ("tune", "transfer", "adapt"):
            like = self._size(step, "start" if step.kind == "tune" else "target")
            each = _BYTES.get(str(step.choices["dtype"]), like.bytes_each)
            self._models[step.identity] = size = _Size(like.parameters, each)
            disk = None if size.parameters is None or each is None else round(size.parameters * each)
            if step.kind == "adapt":
                models = 2 if step.choices["settings"].get("keep_diff") else 1
                return Cost(None if disk is None else models * disk, self._adapting(step, size))
            return Cost(disk, 0.0 if step.kind == "transfer" else self._training(step, like))
        if step.kind == "evaluate":
            settings = {**step.choices["settings"], **step.about.get("running", {})}
            new = 0 if settings.get("loss") else settings.get("max_new_tokens") or USUAL_ANSWER
            batch = settings.get("batch_size")
            return Cost(0, self._scoring(self._size(step, "model"), self._questions(step, "tasks"), new, batch))
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

    def _training(self, step: Step, size: _Size) -> float | None:
        recipe: Mapping[str, Any] = step.choices["recipe"]
        if size.parameters is None or recipe["steps"] is None:
            return None
        examples = recipe["steps"] * recipe["batch_size"] * recipe.get("num_generations", 1)
        operations = _OPERATIONS[recipe["recipe"]] * size.parameters * examples
        trained = self._hours(operations * self._tokens_of_example(step, recipe["max_length"] or _LONGEST))
        if trained is not None and recipe["recipe"] == "grpo":  # a step's answers are generated together
            trained += self._decoding(size, recipe["steps"] * recipe["max_completion_length"])
        every = step.choices["eval_every"]
        if every is None or trained is None:
            return trained
        points: int = math.ceil(recipe["steps"] / every)
        running = step.about.get("running", {})
        new = running.get("max_new_tokens") or USUAL_ANSWER
        asked = self._scoring(size, self._questions(step, "validation"), new, running.get("eval_batch_size"))
        return trained + points * (asked or 0.0)

    def _adapting(self, step: Step, size: _Size) -> float | None:
        """Source, target and each rung are asked; scale asks a few prompts at each α; distil and tune train."""
        labelled = bool(_roles(step, "examples"))
        pool = self._questions(step, "examples" if labelled else "prompts")
        held = [self._questions(step, role) for role in ("select", "test")]
        if size.parameters is None or pool is None or None in held:
            return None
        rungs, fitting = step.choices["rungs"], step.choices["fitting"]
        given = [asked for part in held for asked in part or ()]
        count, tokens = sum(asked.count for asked in pool), _mean(pool)
        kept_apart = _held_out(count, sum(not part for part in held))
        asked = [*given, _Asked(kept_apart, tokens)]
        fit = min(count - kept_apart, math.inf if labelled else fitting["steps"] * fitting["batch_size"])
        new = step.choices["settings"].get("max_new_tokens") or USUAL_ANSWER
        batch = step.about.get("running", {}).get("eval_batch_size")

        def scored(questions: list[_Asked], times: int = 1) -> float | None:
            hours = self._scoring(size, questions, new, batch)
            return None if hours is None else times * hours

        found = [scored(asked, len(rungs) + 2)]
        longest = fitting["max_length"] or _LONGEST
        each = min(longest, self._study.cost.get("tokens_per_example") or (tokens or longest) + new)
        if "scale" in rungs:
            found.append(scored([_Asked(min(MOST_FITTED, fit), tokens)], len(SCALES) + 1))
        if "layers" in rungs:
            found.append(self._hours(_OPERATIONS["sft"] * size.parameters * STEPS * min(BATCH, fit) * each))
        if "distil" in rungs:  # the source answers, and its distribution is learned
            seen = fitting["steps"] * fitting["batch_size"]
            found += [scored([_Asked(fit, tokens)]), self._hours(_DISTILLING * size.parameters * seen * each)]
        if "tune" in rungs:
            found.append(self._hours(_OPERATIONS["sft"] * size.parameters * fitting["tune_epochs"] * fit * each))
        known = [hours for hours in found if hours is not None]
        return sum(known) if len(known) == len(found) else None

    def _tokens_of_example(self, step: Step, longest: int) -> float:
        """As the file of the study says, as the files of data hold, or the most there can be."""
        named: float | None = self._study.cost.get("tokens_per_example")
        found = [self._files.of(step.inputs.get(name, "")) for name in _roles(step, "data")]
        files = [rows for rows in found if rows is not None]
        if named is not None or not files or len(files) < len(found):
            return named or longest
        count = sum(rows.count for rows in files)
        return sum(rows.count * rows.mean_trained(longest) for rows in files) / max(count, 1)

    def _questions(self, step: Step, role: str) -> list[_Asked] | None:
        """How many a step asks: those that files beside the study's hold, and what is assumed where it asks others too."""
        cost, found, others = self._study.cost, [], step.choices.get("suite") is not None
        limit = step.choices.get("settings", {}).get("limit") or math.inf
        for name in _roles(step, role):
            rows = self._files.of(step.inputs.get(name, ""))
            if rows is None:
                others = True
            else:
                found.append(_Asked(min(rows.count, limit), rows.mean_asked()))
        if others and not {"questions", "tokens_per_question"} <= cost.keys():
            return None
        return [*found, _Asked(cost["questions"], None)] if others else found

    def _scoring(
        self, size: _Size, questions: list[_Asked] | None, new_tokens: float, batch: int | str | None
    ) -> float | None:
        """Hours of asking: prompts are read at once, answers are generated token by token, some of them together."""
        cost = self._study.cost
        if size.parameters is None or questions is None:
            return None
        hours, together = 0.0, batch if isinstance(batch, int) else BATCH_SIZE
        for asked in questions:
            named = cost.get("new_tokens_per_question")
            # Which tasks of the harness generate is not known, and how much.
            new = 0 if not new_tokens else named if named is not None else 0 if asked.tokens is None else new_tokens
            tokens = cost.get("tokens_per_question") or (asked.tokens or 0) + new
            read = self._hours(_SCORING * size.parameters * asked.count * tokens)
            if read is None:
                return None
            hours += read + self._decoding(size, new * math.ceil(asked.count / together))
        return hours

    def _decoding(self, size: _Size, tokens: float) -> float:
        """Hours in which all weights are read from memory so many times; none where its speed is not named."""
        speed = self._study.cost.get("bandwidth")
        if speed is None or size.parameters is None:
            return 0.0
        return float(tokens * size.parameters * (size.bytes_each or _ASSUMED_BYTES) / speed / 3600)

    def _hours(self, operations: float | None) -> float | None:
        rate = self._study.cost.get("flops")
        if operations is None or rate is None:
            return None
        return float(operations / (rate * self._study.cost.get("utilisation", 1.0)) / 3600)


def _roles(step: Step, role: str) -> list[str]:
    return [name for name in (*step.parents, *step.inputs) if name.rpartition(".")[0] == role]


def _held_out(count: float, parts: int) -> float:
    """How many of so many prompts `adapt` holds out, for the parts that no file is named for."""
    return parts * (HELD_OUT if count >= parts * HELD_OUT + FEWEST_FITTED else count // (2 + parts))


def _mean(asked: Iterable[_Asked]) -> float | None:
    """Tokens of a question of several files; None where one is not known."""
    every = list(asked)
    known = [each.count * each.tokens for each in every if each.tokens is not None]
    return sum(known) / max(sum(each.count for each in every), 1) if len(known) == len(every) else None


def _points(step: Step) -> int:
    """How many points of a line a path measures at most."""
    return how_many(step.choices["points"], step.choices["settings"].get("refine"), step.choices["beyond"])
