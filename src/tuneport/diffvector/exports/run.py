"""Export a diff vector in the forms that others load (`export`), and show beforehand what an export will contain."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuneport.checkpoint.open_model import fetched
from tuneport.checkpoint.reading import readers_by_role
from tuneport.diffvector.exports.export_files import finish_export
from tuneport.diffvector.exports.peft_adapter import FACTORS, AdapterWork, WrittenMatrix, root
from tuneport.diffvector.exports.peft_files import adapter_config
from tuneport.diffvector.exports.prepared_export import PreparedExport, prepare_export, stop_if_doubtful
from tuneport.diffvector.exports.sparse_patch import COMPARED, PARTS, PatchedTensor, PatchWork
from tuneport.engine.budget import PIECES, budget
from tuneport.engine.checks.before_writing import ZERO_DIFF
from tuneport.engine.manifest import read_manifest
from tuneport.engine.pieces import Readers
from tuneport.engine.run import check_sidecars_unchanged
from tuneport.engine.run_options import ExportOptions
from tuneport.errors import NumericsError, named, spoken
from tuneport.files.printable import listed_names, quoted
from tuneport.files.writing import told
from tuneport.output.shards import Layout
from tuneport.output.workdir import workplace
from tuneport.output.write import MANIFEST, check_place
from tuneport.public_functions import takes
from tuneport.shown import Found, Shown

# From this error of an adapter on, measured against ‖Δ‖, there is a warning.
LOSSY = 0.1


@dataclass(frozen=True, repr=False)
class Exported(Shown):
    """A finished export, its manifest, and whether it existed already. ``told`` are warnings that ``warn`` got."""

    out: Path
    manifest: Mapping[str, Any]
    already_done: bool = False
    told: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints; ``manifest`` has all of it."""
        manifest = self.manifest
        return {
            "out": str(self.out),
            "already_done": self.already_done,
            "operation": "export",
            "form": manifest["form"],
            **manifest["exported"],
            "warnings": list(spoken(manifest["warnings"])),
        }

    def heading(self) -> str:
        """One line."""
        found, done = self.manifest["exported"], "already done" if self.already_done else "done"
        if self.manifest["form"] == "sparse":
            return f"{self.out}: {done}, {found['changed']:,} of {found['elements']:,} elements ({found['share']:.3%})"
        ranks = [each["rank"] for each in found["matrices"] if each["rank"]]
        span = f"{min(ranks)} to {max(ranks)}" if ranks and min(ranks) < max(ranks) else f"{max(ranks, default=0)}"
        words = f"{self.out}: {done}, LoRA of {len(ranks)} matrices, rank {span}, error {found['error']:.3g} of ‖Δ‖"
        return words + (f", {len(found['left_out'])} tensors left out" if found["left_out"] else "")

    def table(self) -> list[list[str]]:
        """For each matrix of an adapter its rank and what is lost; for each tensor of a patch how much changes."""
        found = self.manifest["exported"]
        if self.manifest["form"] == "sparse":
            rows = [[name, f"{each['changed']:,}"] for name, each in found["tensors"].items()]
            return [["tensor", "changed"], *rows]
        rows = [
            [each["name"], str(each["rank"]), _figure(each["survives"]), _figure(each["error"])]
            for each in found["matrices"]
        ]
        left = [[each["name"], "–", "0", each["reason"]] for each in found["left_out"]]
        return [["matrix", "rank", "kept / ‖Δ‖", "error / ‖Δ‖"], *rows, *left]

    def in_words(self) -> str:
        """The heading, and what is left out."""
        found = self.manifest["exported"]
        left = [
            f"{each['name']} ({_figure(each['share'])} of ‖Δ‖): {each['reason']}" for each in found.get("left_out", ())
        ]
        return self.heading() + (f"\nLeft out:{listed_names(left, 12)}" if left else "")


class PlannedExport(Found):
    """What an export would contain, by key as its JSON is."""

    def heading(self) -> str:
        """One line."""
        return f"plan of export as {self['form']}: {len(self['tensors'])} tensors, {len(self['left_out'])} left out"

    def in_words(self) -> str:
        """All of it, for a person."""
        lines = [self.heading()]
        if self["form"] == "peft":
            lines.append(f"needs about {-(-self['memory'] // 2**20)} MiB for its largest matrix")
            lines += [f"left out: {each['name']}: {each['reason']}" for each in self["left_out"]]
        return "\n".join(lines)


@takes(ExportOptions)
def export(given: ExportOptions) -> Exported:
    """Write a diff vector to the folder ``out`` in a form that others load.

    ``form="peft"``: a LoRA adapter of ``onto``, for peft and vLLM; the rank of each matrix by ``rank``, ``energy`` or ``budget``.
    ``form="sparse"``: a patch of ``onto``: the positions of values that change, and the new values. Raises `TuneportError`.

        tuneport.export("my-diff", "v2", "my-adapter", "peft", rank=32)
        tuneport.export("my-diff", "v2", "my-patch", "sparse")
    """
    out = Path(os.path.expanduser(given.out))
    prepared = prepare_export(given)
    check_place(out, [each.path for each in prepared.plan.inputs if each.hub_id is None])
    told_already = spoken(prepared.warnings) if given.warn is not None else ()
    for warning in told_already:
        assert given.warn is not None
        given.warn(warning)
    record = prepared.record
    scratch = [FACTORS, PARTS]
    with workplace(out, record, MANIFEST, overwrite=given.running.overwrite, on_the_way=scratch) as folder, told(out):
        if folder is None:
            return Exported(out, read_manifest(out), already_done=True, told=told_already)
        plan = replace(prepared.plan, inputs=tuple(fetched(each) for each in prepared.plan.inputs))
        prepared = replace(prepared, plan=plan)
        make = _make_adapter if given.form == "peft" else _make_patch
        with readers_by_role(plan.inputs) as readers:
            manifest = make(prepared, folder, out, readers, time.monotonic())
            for reader in readers.values():
                reader.check_unchanged()
        check_sidecars_unchanged(plan, record)
    return Exported(out, manifest, told=told_already)


@takes(ExportOptions)
def rehearse_export(given: ExportOptions) -> PlannedExport:
    """What `export` would write with these options, from headers and a sample of values; nothing is written."""
    prepared = prepare_export(given)
    peft, adapter = given.form == "peft", prepared.contents
    tensors = [*(each.name for each in adapter.held), *(each.name for each in adapter.saved)]
    left = [{"name": each.name, "reason": each.reason} for each in adapter.left_out]
    if not peft:
        tensors, left = [*tensors, *(each["name"] for each in left)], []
    return PlannedExport(
        {
            "operation": "export",
            "form": given.form,
            "tensors": tensors,
            "left_out": left,
            "memory": prepared.room if peft else None,
            "warnings": list(spoken(prepared.warnings)),
        }
    )


def _make_adapter(prepared: PreparedExport, folder: Path, out: Path, readers: Readers, begun: float) -> dict[str, Any]:
    plan, adapter = prepared.plan, prepared.contents
    work = AdapterWork(plan, adapter, prepared.choice, folder, readers, prepared.workers())
    found = work.factor_all()
    ranks = work.ranks(found)
    measured = work.measure(ranks, found)
    exported = _adapter_record(prepared, measured, work.left_out_squares(), work.saved_square())
    layout, digests = work.write(ranks)
    target = plan.inputs[-1]
    config = adapter_config(adapter, ranks, target.config, target.hub_id, target.revision)
    exported["rank"] = config["r"]
    files = {**prepared.files, "adapter_config.json": (json.dumps(config, indent=2) + "\n").encode()}
    warnings = (*prepared.warnings, *_losses(exported))
    stop_if_doubtful(warnings, prepared.given)
    tensors = _entries(layout, digests)
    return finish_export(folder, out, plan, prepared.record, "peft", tensors, exported, files, warnings, begun)


def _adapter_record(
    prepared: PreparedExport, measured: Sequence[WrittenMatrix], left: Sequence[float], saved: float
) -> dict[str, Any]:
    """What is kept and lost, as the manifest has it. Raises `NumericsError` where there is nothing to export."""
    total = sum(each.square for each in measured) + sum(left) + saved
    if not total:
        raise NumericsError(ZERO_DIFF)
    length = root(total)
    error = root(sum(each.error for each in measured) + sum(left)) / length
    kept = root(sum(each.kept for each in measured) + saved) / length
    matrices = [
        {
            "name": each.matrix.name,
            "module": each.matrix.module.name,
            "rank": each.rank,
            "diff_norm": root(each.square),
            "survives": root(each.kept) / root(each.square) if each.square else None,
            "error": root(each.error) / root(each.square) if each.square else None,
        }
        for each in measured
    ]
    left_out = [
        {"name": each.name, "share": root(square) / length, "reason": each.reason}
        for each, square in zip(prepared.contents.left_out, left, strict=True)
        if square
    ]
    rows = {prepared.plan.tasks[each.task].slot.shape[0] for each in prepared.contents.saved}
    return {
        "diff_norm": length,
        "survives": kept,
        "error": error,
        "rank": 0,
        "rows": max(rows, default=None),
        "matrices": matrices,
        "saved": [each.name for each in prepared.contents.saved],
        "left_out": sorted(left_out, key=lambda each: -float(each["share"])),
    }


def _losses(exported: Mapping[str, Any]) -> tuple[str, ...]:
    if exported["error"] < LOSSY:
        return ()
    return (
        f"The adapter differs from Δ by {exported['error']:.2g} of ‖Δ‖ ({exported['survives']:.2g} of ‖Δ‖ survives). "
        f"Give a higher {named('rank')}, {named('energy')} or {named('budget')}, or export it as a sparse patch, which "
        f"loses nothing.",
    )


def _make_patch(prepared: PreparedExport, folder: Path, out: Path, readers: Readers, begun: float) -> dict[str, Any]:
    plan, running = prepared.plan, prepared.given.running
    more = plan.more_memory + COMPARED * PIECES[0]
    pool = budget(running.memory_limit, running.workers, plan.default_limit, more)
    work = PatchWork(plan, folder, readers, pool)
    found = work.compute()
    bad = [each for each in found if each.nonfinite]
    if bad and not running.allow_nonfinite:
        raise NumericsError(
            f"The sums of these tensors hold NaN or infinity:"
            f"{listed_names([f'{each.name}: {each.nonfinite:,}' for each in bad], 8)}\n"
            f"Give {named('allow_nonfinite')} to write them; vLLM refuses a patch with NaN."
        )
    if not any(each.changed for each in found):
        raise NumericsError(
            "No element of the target changes: the diff vector is zero, or smaller everywhere than half a spacing of "
            f"the target's dtype. Is {quoted(prepared.plan.inputs[0].label)} the right diff vector?"
        )
    layout, digests = work.write(found, prepared.given.choices.shard_bytes)
    tensors = _entries(layout, digests)
    exported = _patch_record(prepared, found)
    warnings = (*prepared.warnings, *_too_large(layout.nbytes, plan.inputs[-1].nbytes))
    stop_if_doubtful(warnings, prepared.given)
    return finish_export(folder, out, plan, prepared.record, "sparse", tensors, exported, {}, warnings, begun)


def _too_large(nbytes: int, target: int) -> tuple[str, ...]:
    if nbytes < target:
        return ()
    return (
        f"The patch has {nbytes:,} bytes, but all weights of the target have {target:,}: most of them change. Write the "
        f"model with `tuneport apply`, and load that.",
    )


def _patch_record(prepared: PreparedExport, found: Sequence[PatchedTensor]) -> dict[str, Any]:
    target, changed = prepared.plan.inputs[-1], sum(each.changed for each in found)
    return {
        "changed": changed,
        "elements": target.parameters,
        "share": changed / max(target.parameters, 1),
        "tensors": {each.name: each.record() for each in found if each.changed},
    }


def _entries(layout: Layout, digests: Mapping[str, str]) -> list[dict[str, Any]]:
    """The manifest's entries of the tensors that were written."""
    return [
        {
            "name": slot.name,
            "fate": "written",
            "shape": list(slot.shape),
            "dtype": slot.dtype,
            "digest": digests[slot.name],
        }
        for slot in sorted(layout.slots.values(), key=lambda slot: slot.name)
    ]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
