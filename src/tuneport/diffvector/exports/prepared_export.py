"""Decide about an export before anything is computed: the plan, what stops it, and what is said beforehand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneport.checkpoint.small_files import TOKENIZER_FILES
from tuneport.diffvector.exports.peft_adapter import RankChoice, room_of
from tuneport.diffvector.exports.peft_contents import AdapterContents, contents_of, has_difference, has_new_rows
from tuneport.diffvector.run import plan_of
from tuneport.engine.budget import memory_held, usable_cpus
from tuneport.engine.checks.before_writing import RolesVerdict, look
from tuneport.engine.plan import Plan
from tuneport.engine.run_options import DEFAULT_RANK, ExportOptions
from tuneport.errors import DoubtError, NumericsError, OutputError, PairingError, listing, named
from tuneport.files.json_text import read_json
from tuneport.files.opening import contents, read_bytes
from tuneport.files.printable import listed_names, quoted
from tuneport.options import parse_size
from tuneport.output.workdir import PLAN

_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_CARRIED = (*TOKENIZER_FILES, *_TEMPLATES, "generation_config.json")
# Without a limit, workers take so much together; one takes what it needs.
_USUAL_ROOM = 2 * 2**30


@dataclass(frozen=True)
class PreparedExport:
    """An export that can begin. ``files`` are small files that an adapter's folder carries."""

    given: ExportOptions
    plan: Plan
    seen: RolesVerdict
    contents: AdapterContents
    choice: RankChoice
    files: Mapping[str, bytes | Path]
    warnings: tuple[str, ...]

    @property
    def record(self) -> dict[str, Any]:
        """What makes two exports the same, as JSON."""
        ranks = {"rank": self.choice.rank, "energy": self.choice.energy, "budget": self.choice.budget}
        own = {"operation": "export", "form": self.given.form, "ranks": ranks if self.given.form == "peft" else None}
        return {**self.plan.record(), **own}

    @property
    def room(self) -> int:
        """Bytes that the work on one matrix of an adapter takes at most, as far as headers tell."""
        return room_of(self.contents.held, self.choice)

    def workers(self) -> int:
        """How many matrices are worked on at once. Raises `OutputError` where --max-memory has no room for one."""
        limit, held, room = self.given.running.memory_limit, memory_held(), self.room
        if limit is not None and held + room > limit:
            raise OutputError(
                f"{named('max_memory', self.given.running.max_memory)} is too little: the largest matrix needs "
                f"{-(-(held + room) // 2**20)}MiB. Give that much, or a lower {named('rank')}."
            )
        wanted = self.given.running.workers or usable_cpus()
        return max(1, min(wanted, ((limit - held) if limit is not None else _USUAL_ROOM) // max(room, 1)))


def prepare_export(given: ExportOptions) -> PreparedExport:
    """The plan of an export. Raises `TuneportError` with every reason that stops it."""
    plan = plan_of((), given.onto, ((given.diff, None),), lambda names: given.choices)
    refusals = [*plan.tensor_refusals, *(_without_room(plan) if given.form == "sparse" else ())]
    if refusals:
        count = f"{len(refusals)} problem{'s' if len(refusals) > 1 else ''} found"
        raise PairingError(f"Cannot export: {count}:{listing(refusals)}")
    seen = look(plan)
    if seen.refusals:
        raise NumericsError("\n".join(seen.refusals))
    adapter = contents_of(plan)
    differing = _differing_files(plan)
    files = {name: content for name, content in differing.items() if name in _CARRIED}
    if files.keys() & set(TOKENIZER_FILES):  # a tokenizer's files belong together
        files |= {name: plan.files[name] for name in plan.files if name in TOKENIZER_FILES}
    if given.form == "sparse":
        files = {}
    doubts = tuple(doubt.message for doubt in seen.doubts)
    warnings = (*plan.token_warnings, *plan.warnings, *doubts, *_of_files(plan, differing.keys() - files.keys()))
    if adapter.saved and given.form == "peft":
        names = ", ".join(quoted(each.name) for each in adapter.saved)
        warnings += (
            f"{names}: the tuned model has new tokens, so the adapter has these matrices as a whole "
            f"(`modules_to_save`). peft loads them after `resize_token_embeddings`; vLLM does not load them. Give "
            f"{named('new_tokens', 'drop')} for an adapter without them.",
        )
    prepared = PreparedExport(given, plan, seen, adapter, _choice(given, plan), files, warnings)
    stop_if_doubtful(warnings, given)
    return prepared


def is_unfinished_export(folder: Path) -> bool:
    """Whether an export works in this folder, or was stopped in it."""
    try:
        plan = read_json(read_bytes(folder / PLAN, folder))
    except (OSError, ValueError):
        return False
    return isinstance(plan, dict) and plan.get("operation") == "export"


def stop_if_doubtful(warnings: tuple[str, ...], given: ExportOptions) -> None:
    """Raise `DoubtError` for warnings of a strict run."""
    if warnings and given.running.strict:
        raise DoubtError(f"{named('strict')} stopped this run, because of these warnings:{listing(list(warnings))}")


def _choice(given: ExportOptions, plan: Plan) -> RankChoice:
    if given.energy is not None:
        return RankChoice(energy=given.energy)
    if given.budget is not None:
        share = given.budget.endswith("%")
        whole = plan.inputs[-1].nbytes
        return RankChoice(budget=int(float(given.budget[:-1]) / 100 * whole) if share else parse_size(given.budget))
    return RankChoice(rank=given.rank or DEFAULT_RANK)


def _without_room(plan: Plan) -> list[str]:
    """Tensors of a server that a patch cannot change: without rows for new tokens, or stored in another dtype than the output's."""
    other = [
        task.slot.name
        for task in plan.tasks
        if task.line.target is not None and has_difference(task) and task.slot.dtype != task.line.target.dtype
    ]
    cast = f"{quoted(other[0])} and {len(other) - 1} more" if len(other) > 1 else quoted(other[0]) if other else ""
    dtypes = [
        f"{cast}: the target has another dtype than `tuneport apply` would write. Write the model with `tuneport apply`, and load that."
    ]
    return (dtypes if other else []) + [
        f"{quoted(task.slot.name)} gets rows for new tokens, which a patch cannot add to a running server. Give "
        f"{named('new_tokens', 'drop')} to leave them out."
        for task in plan.tasks
        if has_new_rows(task) and task.line.target is not None and task.slot.shape != task.line.target.shape
    ]


def _differing_files(plan: Plan) -> dict[str, bytes | Path]:
    """Small files that `apply` would write and that say something else than the target's."""
    target = plan.inputs[-1].sidecars
    return {
        name: content
        for name, content in plan.files.items()
        if not (target.has(name) and _alike(contents(content), contents(target.content(name)), name))
    }


def _alike(one: bytes, other: bytes, name: str) -> bool:
    if one == other or not name.endswith(".json"):
        return one == other
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def _of_files(plan: Plan, left: set[str]) -> tuple[str, ...]:
    found = []
    if left:
        found.append(
            f"An export carries weights: these files of the target stay as they are, though `tuneport apply` would "
            f"write others:{listed_names(sorted(left), 8)}"
        )
    if plan.sidecar_refusals:
        found.append(
            f"`tuneport apply` would stop here, because files of the models contradict each "
            f"other:{listing(list(plan.sidecar_refusals))}"
        )
    return tuple(found)
