"""Run a plan: read, add, round, write.

Worker threads compute, write, hash and journal every leaf of every output tensor; then the small files, the manifest
and the card are written, and the folder is renamed into place. What a killed run finished is checked and kept.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from tuneport.checkpoint import floats
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.open_model import fetched
from tuneport.checkpoint.reading import Workspace, readers_by_role
from tuneport.engine import kernel
from tuneport.engine.budget import Budget, budget
from tuneport.engine.checks.before_writing import ZERO_DIFF, look
from tuneport.engine.checks.conclusion import conclude, lost_difference, measure_dropped
from tuneport.engine.checks.expected_verdict import verdict_in_words, verdict_of_run, verdict_record
from tuneport.engine.checks.kept_sample import keep_base
from tuneport.engine.checks.while_running import check_exact, check_tied, nonfinite_in_words
from tuneport.engine.choices import Running
from tuneport.engine.leaf_results import LeafResults
from tuneport.engine.manifest import index_file, input_digests, make_manifest, read_manifest, render_manifest
from tuneport.engine.pieces import Readers
from tuneport.engine.plan import OutputTask, Plan
from tuneport.engine.run_options import Warn
from tuneport.engine.stream import run_leaves
from tuneport.engine.summands.lineage import lineage_in_words
from tuneport.engine.transfer_card import render_card
from tuneport.errors import CheckpointError, DoubtError, NumericsError, listing, named, spoken
from tuneport.output.digest import LEAF_BYTES
from tuneport.output.encoded_folder import EncodedFolder
from tuneport.output.journal import LeafRecord
from tuneport.output.model_card import card_digest, own_text, with_own
from tuneport.output.parent_cards import card_facts
from tuneport.output.replacing import CARD
from tuneport.output.write import AlreadyDone, OutputFolder, begin, check_place
from tuneport.progress import BYTES, Progress
from tuneport.shown import Shown
from tuneport.sidecars.chat_behaviour import behaviour_in_words


@dataclass(frozen=True, repr=False)
class Output(Shown):
    """A finished folder, its manifest, and whether it existed already.

    ``told`` are the warnings that ``warn`` was called with beforehand; ``said`` are all warnings of this run. ``verdict``: whether
    a transfer that just ran is likely to work, as in `compare`.
    """

    out: Path
    manifest: Mapping[str, Any]
    already_done: bool = False
    told: tuple[str, ...] = ()
    said: tuple[str, ...] | None = None
    verdict: Mapping[str, Any] | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of the run."""
        return spoken(self.manifest.get("warnings", ()) if self.said is None else self.said)

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints; ``manifest`` has all of it."""
        manifest = self.manifest
        return {
            "out": str(self.out),
            "already_done": self.already_done,
            "operation": manifest["operation"],
            "formula": manifest["formula"],
            **{name: manifest[name] for name in ("behaviour", "lineage") if name in manifest},
            "measures": manifest["measures"],
            **({} if self.verdict is None else {"verdict": dict(self.verdict)}),
            "warnings": list(self.warnings),
        }

    def in_words(self) -> str:
        """The heading, and the verdict's line."""
        return "\n".join([self.heading(), *([] if self.verdict is None else [verdict_in_words(self.verdict)])])

    def heading(self) -> str:
        """One line: where it is, how many tensors, what the norms are."""
        manifest = self.manifest
        if self.already_done:
            words = f"{self.out}: already done"
        else:
            words = f"{self.out}: done, {len(manifest['tensors'])} tensors{_norms_in_words(manifest['measures'])}"
        lineage = f"; {lineage_in_words(manifest['lineage'])}" if "lineage" in manifest else ""
        return words + (f"; {behaviour_in_words(manifest['behaviour'])}" if "behaviour" in manifest else "") + lineage


def _norms_in_words(norms: Mapping[str, Any]) -> str:
    if norms["diff_norm"] is None:
        return ""
    words = f", ‖Δ‖ = {norms['diff_norm']:.4g}"
    if norms["shift_norm"] is not None:
        words += f", ‖target − base‖ = {norms['shift_norm']:.4g}"
    if norms["rounding"] is not None and norms["rounding"]["error"] is not None:
        words += f", rounding lost {norms['rounding']['error']:.2g} of ‖Δ‖"
    return words


def execute(plan: Plan, out: Path, running: Running, warn: Warn | None = None) -> Output:
    """Run a plan. ``out`` is created when complete."""
    plan.stop_if_refused()
    before = (*plan.token_warnings, *plan.warnings)
    _stop_if_doubtful(before, running)
    check_place(out, [checkpoint.path for checkpoint in plan.inputs if checkpoint.hub_id is None])
    seen = look(plan)
    if seen.refusals:
        raise NumericsError(_with_noticed("\n".join(seen.refusals), plan))
    _stop_if_doubtful((*before, *seen.warnings), running)
    if warn is not None:
        for warning in spoken((*plan.warnings, *seen.warnings)):  # those of tokens wait for their share of Δ
            warn(warning)
    record = plan.record()
    pool = budget(running.memory_limit, running.workers, plan.default_limit, plan.more_memory, plan.leaves)
    try:
        with begin(out, record, plan.layout, running.overwrite, _kind_of(plan)) as folder:
            begun = time.monotonic()
            plan = replace(plan, inputs=tuple(fetched(checkpoint) for checkpoint in plan.inputs))
            with readers_by_role(plan.inputs) as readers:
                results, dropped = _stream(plan, folder, readers, pool, running)
                lost = lost_difference(plan, results, readers)
                digests = input_digests(plan, readers, pool)
                if plan.operation == "diff":
                    plan = replace(plan, extra={**plan.extra, "base_sample": keep_base(plan, readers)})
                for reader in readers.values():
                    reader.check_unchanged()
            check_sidecars_unchanged(plan, record)
            found = conclude(plan, seen, results, lost)
            if found.totals.is_zero:
                folder.discard()
                raise NumericsError(_with_noticed(ZERO_DIFF, plan))
            _stop_if_doubtful(found.warnings, running)
            nonfinite = sum(map(results.nonfinite, range(len(plan.tasks)))) if running.allow_nonfinite else 0
            verdict = verdict_record(verdict_of_run(plan, found, nonfinite))
            seconds = time.monotonic() - begun
            manifest = make_manifest(plan, record, results, found, dropped, digests, pool, seconds)
            manifest["card"] = card_facts(plan.inputs)
            card = render_card(manifest)
            manifest["files"][CARD] = card_digest(card)
            card = with_own(card, own_text(out / CARD))
            folder.finish({**plan.files, **index_file(plan), CARD: card}, render_manifest(manifest))
    except AlreadyDone:
        return Output(out, read_manifest(out), already_done=True)
    known = {doubt.kind for doubt in seen.doubts}
    doubted = (doubt.message for doubt in found.verdict.doubts if doubt.kind in known)
    again = (*doubted, *(found.losses if seen.losses else ()))
    told = spoken((*plan.warnings, *again)) if warn is not None else ()
    return Output(out, manifest, told=told, said=found.warnings, verdict=verdict)


def _kind_of(plan: Plan) -> type[OutputFolder]:
    return EncodedFolder if plan.layout.encoded else OutputFolder


def _with_noticed(words: str, plan: Plan) -> str:
    """An error with what was noticed before, which may be its cause."""
    return words + (f"\nNoticed before:{listing(list(plan.warnings))}" if plan.warnings else "")


def check_sidecars_unchanged(plan: Plan, record: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` if a file that is to be copied is no longer the one the plan was made with."""
    changed = sorted(name for name, digest in plan.sidecar_digests().items() if record["sidecars"][name] != digest)
    if changed:
        raise CheckpointError(f"{', '.join(changed)} changed during the transfer. Run again.")


def leaf_pieces(task: OutputTask, leaf: int, piece: int) -> Iterator[tuple[int, int, int]]:
    """Element ranges (start, stop) of the pieces of a leaf, each with the first element of the leaf."""
    per_leaf = LEAF_BYTES // DTYPES[task.slot.dtype].itemsize
    origin = leaf * per_leaf
    end = min(origin + per_leaf, task.slot.elements)
    for start in range(origin, end, piece):
        yield start, min(start + piece, end), origin


def _stream(
    plan: Plan, folder: OutputFolder, readers: Readers, pool: Budget, running: Running
) -> tuple[LeafResults, dict[str, float | None]]:
    check_exact(plan, readers)
    check_tied(plan, readers)
    results = LeafResults(plan.tasks, plan.slots)
    results.take_up(folder.journal.recorded())
    progress = Progress(plan.operation, sum(slot.nbytes for slot in plan.slots), BYTES)

    def do(number: int, task: OutputTask, leaf: int, space: Workspace) -> bool:
        record = results.journalled(number, leaf)
        if record is None or not _still_there(task, leaf, record, folder, space, pool.piece):
            write = functools.partial(folder.write, task.slot)
            record = compute_leaf(task, leaf, readers, space, pool.piece, write)
            folder.note(task.slot.name, leaf, record)
        else:
            progress.taken_up(min(LEAF_BYTES, task.nbytes))
        results.put(number, leaf, record)
        return running.allow_nonfinite or not record.nonfinite

    run_leaves(plan.tasks, do, pool.workers, progress)
    if not running.allow_nonfinite:
        bad = [(plan.tasks[n], count) for n in range(len(plan.tasks)) if (count := results.nonfinite(n))]
        if bad:
            raise NumericsError(nonfinite_in_words(bad, readers))
    return results, measure_dropped(plan, readers)


def compute_leaf(
    task: OutputTask,
    leaf: int,
    readers: Readers,
    space: Workspace,
    piece: int,
    take: Callable[[int, memoryview], None],
) -> LeafRecord:
    """Compute and hash one leaf; ``take`` gets each piece, with its first byte in the tensor."""
    itemsize, hasher, sums, bad = DTYPES[task.slot.dtype].itemsize, blake3(), kernel.no_sums(), 0
    for start, stop, origin in leaf_pieces(task, leaf, piece):
        content, count = task.recipe.piece(start, stop, origin, readers, space, sums)
        take(start * itemsize, content)
        hasher.update(content)
        bad += count
    return LeafRecord(hasher.digest(), tuple(sums.tolist()), bad)


def _still_there(
    task: OutputTask, leaf: int, record: LeafRecord, folder: OutputFolder, space: Workspace, piece: int
) -> bool:
    """Whether the bytes that an earlier run recorded are really on disk, with as many NaN and infinities as it counted."""
    dtype, hasher, bad = DTYPES[task.slot.dtype], blake3(), 0
    for start, stop, _ in leaf_pieces(task, leaf, piece):
        view = space.buffer("out", (stop - start) * dtype.itemsize)
        folder.read_into(task.slot, start * dtype.itemsize, view)
        hasher.update(view)
        if dtype.kind == "float":
            bad += floats.count_nonfinite(floats.as_bits(view, task.slot.dtype), task.slot.dtype)
    # Those that are only copied from the target were not counted: such a leaf is computed again.
    return hasher.digest() == record.digest and bad == record.nonfinite


def _stop_if_doubtful(warnings: tuple[str, ...], running: Running) -> None:
    if warnings and running.strict:
        raise DoubtError(f"{named('strict')} stopped this run, because of these warnings:{listing(list(warnings))}")
