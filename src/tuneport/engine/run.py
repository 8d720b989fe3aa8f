"""The stream: read, add, round, write.

In comes a plan, out comes a finished folder: every leaf of every output tensor is computed, written, hashed and
journalled by worker threads, then the sidecars, the manifest and the card are written and the folder is renamed into
place. What a killed run finished is checked and kept.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from tuneport.checkpoint import floats
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.open_model import fetched, open_checkpoint
from tuneport.checkpoint.reading import Workspace, readers_by_role
from tuneport.engine import arithmetic
from tuneport.engine.budget import PIECE, Budget, budget
from tuneport.engine.checks.before_writing import ZERO_DIFF, look
from tuneport.engine.checks.kept_sample import keep_base
from tuneport.engine.conclusion import conclude, lost_difference, measure_dropped
from tuneport.engine.leaf_results import LeafResults
from tuneport.engine.manifest import index_file, input_digests, read_manifest, render_manifest
from tuneport.engine.options import Choices, Running
from tuneport.engine.pieces import Readers, Source, Sum, equal, nonfinite_in
from tuneport.engine.plan import OutputTask, Plan, plan_transfer
from tuneport.engine.product import are_alike
from tuneport.engine.stream import Progress, run_leaves
from tuneport.engine.transfer_card import render_card
from tuneport.errors import CheckpointError, DoubtError, NumericsError, PairingError, listing
from tuneport.output.digest import LEAF_BYTES
from tuneport.output.journal import LeafRecord
from tuneport.output.write import AlreadyDone, OutputFolder, begin, check_place
from tuneport.pairing.tensors import stored_twice, ties_of

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a run left behind: the folder, its manifest, and whether it had been there already.

    ``told`` are those of the warnings that ``warn`` was called with beforehand.
    """

    out: Path
    manifest: Mapping[str, Any]
    already_done: bool = False
    told: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What looked wrong, in words."""
        return tuple(self.manifest.get("warnings", ()))


def transfer(
    base: str | os.PathLike[str],
    tuned: str | os.PathLike[str],
    onto: str | os.PathLike[str],
    out: str | os.PathLike[str],
    choices: Choices | None = None,
    running: Running | None = None,
    warn: Warn | None = None,
) -> Outcome:
    """Write target + (tuned − base) to the folder ``out`` (Lin et al. 2025, section 2).

    ``base``, ``tuned`` and ``onto`` are folders or Hub ids (``org/name@revision``); ``tuned`` may be a PEFT adapter of the
    base. ``warn`` is called with each warning that is known before the first byte is written. Raises `TuneportError`, and leaves
    ``out`` untouched, for whatever stands against it; a killed run is taken up again by the same call.
    """
    choices = choices or Choices()
    inputs = [open_checkpoint(spec, role) for spec, role in ((base, "base"), (tuned, "tuned"), (onto, "target"))]
    return execute(plan_transfer(inputs[0], inputs[1], inputs[2], choices), Path(out), running or Running(), warn)


def execute(plan: Plan, out: Path, running: Running, warn: Warn | None = None) -> Outcome:
    """Do what a plan says. The output appears under ``out`` when it is whole."""
    plan.stop_if_refused()
    before = (*plan.token_warnings, *plan.warnings)
    _stop_if_doubtful(before, running)
    check_place(out, [checkpoint.path for checkpoint in plan.inputs if checkpoint.hub_id is None])
    seen = look(plan)
    if seen.refusals:
        raise NumericsError(_with_noticed("\n".join(seen.refusals), plan))
    _stop_if_doubtful((*before, *seen.warnings), running)
    if warn is not None:
        for warning in (*plan.warnings, *seen.warnings):  # those of tokens wait for their share of Δ
            warn(warning)
    record = plan.record()
    pool = budget(running.memory_limit, running.workers, plan.default_limit, plan.more_memory, plan.leaves)
    try:
        with begin(out, record, plan.layout, running.overwrite) as folder:
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
            manifest = found.manifest(plan, record, results, dropped, digests, pool, time.monotonic() - begun)
            card = render_card(manifest)
            manifest["files"]["README.md"] = blake3(card).hexdigest()
            folder.finish({**plan.files, **index_file(plan), "README.md": card}, render_manifest(manifest))
    except AlreadyDone:
        return Outcome(out, read_manifest(out), already_done=True)
    known = {doubt.kind for doubt in seen.doubts}
    doubted = (doubt.message for doubt in found.verdict.doubts if doubt.kind in known)
    again = (*doubted, *(found.losses if seen.losses else ()))
    return Outcome(out, manifest, told=(*plan.warnings, *again) if warn is not None else ())


def _with_noticed(words: str, plan: Plan) -> str:
    """An error with what was noticed before, which may be its cause."""
    return words + (f"\nNoticed before:{listing(list(plan.warnings))}" if plan.warnings else "")


def check_sidecars_unchanged(plan: Plan, record: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` if a file that is to be copied is no longer the one the plan was made with."""
    changed = sorted(name for name, digest in plan.sidecar_digests().items() if record["sidecars"][name] != digest)
    if changed:
        raise CheckpointError(f"{', '.join(changed)} changed while the weights were carried over. Run again.")


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
    _check_exact(plan, readers)
    _check_tied(plan, readers)
    results = LeafResults(plan.tasks, plan.slots)
    results.take_up(folder.journal.recorded())

    def do(number: int, task: OutputTask, leaf: int, space: Workspace) -> bool:
        record = results.journalled(number, leaf)
        if record is None or not _still_there(task, leaf, record, folder, space, pool.piece):
            record = _do_leaf(task, leaf, folder, readers, space, pool.piece)
            folder.note(task.slot.name, leaf, record)
        results.put(number, leaf, record)
        return running.allow_nonfinite or not record.nonfinite

    run_leaves(plan.tasks, do, pool.workers, Progress(plan.operation, sum(slot.nbytes for slot in plan.slots)))
    if not running.allow_nonfinite:
        bad = [(plan.tasks[n], count) for n in range(len(plan.tasks)) if (count := results.nonfinite(n))]
        if bad:
            raise NumericsError(_tell_nonfinite(bad, readers))
    return results, measure_dropped(plan, readers)


def _do_leaf(
    task: OutputTask, leaf: int, folder: OutputFolder, readers: Readers, space: Workspace, piece: int
) -> LeafRecord:
    """Compute, write and hash one leaf."""
    itemsize, hasher, sums, bad = DTYPES[task.slot.dtype].itemsize, blake3(), np.zeros(arithmetic.SUMS), 0
    for start, stop, origin in leaf_pieces(task, leaf, piece):
        content, count = task.recipe.piece(start, stop, origin, readers, space, sums)
        folder.write(task.slot, start * itemsize, content)
        hasher.update(content)
        bad += count
    return LeafRecord(hasher.digest(), tuple(sums.tolist()), bad)


def _still_there(
    task: OutputTask, leaf: int, record: LeafRecord, folder: OutputFolder, space: Workspace, piece: int
) -> bool:
    """Whether the bytes that an earlier run journalled are really on disk, with as many NaN and infinities as it counted."""
    dtype, hasher, bad = DTYPES[task.slot.dtype], blake3(), 0
    for start, stop, _ in leaf_pieces(task, leaf, piece):
        view = space.buffer("out", (stop - start) * dtype.itemsize)
        folder.read_into(task.slot, start * dtype.itemsize, view)
        hasher.update(view)
        if dtype.kind == "float":
            bad += floats.count_nonfinite(floats.as_bits(view, task.slot.dtype), task.slot.dtype)
    # Those that are only copied from the target were not counted: such a leaf is computed again.
    return hasher.digest() == record.digest and bad == record.nonfinite


def _check_exact(plan: Plan, readers: Readers) -> None:
    """Integers and booleans have no difference: base and tuned must be equal."""
    space = Workspace()
    different = [
        pair.name
        for pair in plan.exact
        if pair.base.shape != pair.tuned.shape
        or not equal(Source("base", pair.base), Source("tuned", pair.tuned), readers, space, PIECE)
    ]
    if different:
        raise PairingError(
            "These tensors hold integers or booleans and differ between base and tuned, so no difference can be "
            f"carried over:{listing([f'`{name}`' for name in different])}"
        )


def _check_tied(plan: Plan, readers: Readers) -> None:
    """A tied head that is stored beside its embedding must hold the same: transformers 5 unties two that differ."""
    space = Workspace()
    different = [
        f"{checkpoint.role} {checkpoint.label}: `{head.name}` is not the same as `{embedding.name}`"
        for checkpoint in plan.inputs
        for embedding, head in stored_twice(checkpoint, ties_of(checkpoint))
        if (embedding.dtype, embedding.shape) != (head.dtype, head.shape)
        or not equal(Source(checkpoint.role, embedding), Source(checkpoint.role, head), readers, space, PIECE)
    ]
    differing = [alike for alike in plan.alike if not alike.fits or not are_alike(alike, readers["tuned"], space)]
    copies = [f"`{alike.one.name}` and `{alike.other.name}`" for alike in differing if alike.copies]
    if copies:
        raise PairingError(
            f"The adapter holds one trained matrix twice, and the two differ: {'; '.join(copies)}. Load it with peft and save "
            "it again (save_pretrained), or take the one that does not count out of its file."
        )
    apart = [f"`{alike.one.name}` and `{alike.other.name}`" for alike in differing]
    if apart:
        raise PairingError(
            "The base's config ties head and embedding, but the adapter trained them apart and saved two that differ: "
            f"{'; '.join(apart)}. Merge it with peft onto a base without `tie_word_embeddings`, and give both."
        )
    if different:
        raise PairingError(
            "The config ties head and embedding, but both are stored and hold different values, so one of them would be "
            f"lost:{listing(different)}\nIf the head counts, set `tie_word_embeddings` to false in that config.json; if "
            "it does not, take it out of the checkpoint."
        )


def _tell_nonfinite(bad: list[tuple[OutputTask, int]], readers: Readers) -> str:
    """Name each tensor, the count, and where the NaN or infinity comes from."""
    space, lines, too_large = Workspace(), [], False
    for task, count in bad:
        sources = _input_counts(task, readers, space)
        origin = ", ".join(f"{number:,} in {role}" for role, number in sources.items() if number)
        if not origin:
            origin = "too large for float16" if task.slot.dtype == "F16" else "made by the sum"
            too_large |= task.slot.dtype == "F16"
        lines.append(f"`{task.slot.name}`: {count:,} in the output ({origin})")
    told = f"NaN or infinity:{listing(lines)}\n"
    if too_large:
        told += "float16 ends at 65,504: choose --dtype bfloat16 or float32. "
    return (
        f"{told}Mend the inputs, leave such a tensor as the target has it (--rule NAME=0), or pass --allow-nonfinite to write it "
        "all the same."
    )


def _input_counts(task: OutputTask, readers: Readers, space: Workspace) -> dict[str, int]:
    pair, target = task.line.pair, task.line.target
    sources = [("target", target)] if target is not None else []
    if pair is not None and pair.change is not None:
        base = [("base", pair.base)] if pair.change.whole is not None or pair.change.rows is not None else []
        sources = [*base, *(("tuned", tensor) for tensor in pair.change.sources), *sources]
    elif pair is not None and not pair.exact:
        sources = [("base", pair.base), ("tuned", pair.tuned), *sources]
    if not isinstance(task.recipe, Sum):
        sources = [(role, tensor) for role, tensor in sources if role != "target"]
    counts: dict[str, int] = {}
    for role, tensor in sources:
        if role in readers:
            counts[role] = counts.get(role, 0) + nonfinite_in(Source(role, tensor), readers, space, PIECE)
    return counts


def _stop_if_doubtful(warnings: tuple[str, ...], running: Running) -> None:
    if warnings and running.strict:
        raise DoubtError(f"--strict was given, and this looks wrong:{listing(list(warnings))}")
