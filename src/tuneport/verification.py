"""Verify an output against its manifest alone, or against its parents.

Returns what was checked, or raises a `VerificationError` that lists every difference. Without parents this checks only
integrity: a manifest cannot vouch for itself. With them the plan is made again and bytes are recomputed: a seeded
sample, or all of them.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.dtypes import DTYPES
from tuneport.checkpoint.local_folder import open_folder
from tuneport.checkpoint.open_model import fetched
from tuneport.checkpoint.reading import TensorReader, Workspace, readers_by_role, reading
from tuneport.checkpoint.weights import StoredTensor
from tuneport.diffvector.exports.export_card import render_export_card
from tuneport.diffvector.vector import decoded_as_told
from tuneport.engine.budget import DEFAULT_MAX_MEMORY_PARSING, Budget, budget
from tuneport.engine.checks.before_writing import look
from tuneport.engine.checks.conclusion import conclude, lost_difference, measure_dropped
from tuneport.engine.checks.kept_sample import keep_base
from tuneport.engine.checks.output_contradictions import in_a_folder
from tuneport.engine.choices import Choices
from tuneport.engine.leaf_results import LeafResults
from tuneport.engine.manifest import input_digests, make_manifest, read_manifest
from tuneport.engine.manifest_comparison import OF_THAT_RUN, OF_THAT_VECTOR, differences, in_words
from tuneport.engine.plan import OutputTask, Plan
from tuneport.engine.run import compute_leaf
from tuneport.engine.run_options import VerifyOptions, paired
from tuneport.engine.scaling.scales import scales_of_rows
from tuneport.engine.stream import run_leaves
from tuneport.engine.tensor_digests import tensor_digests
from tuneport.engine.transfer_card import render_card
from tuneport.errors import ABSENT, CheckpointError, Fault, UsageError, VerificationError, listing, named
from tuneport.files.expressions import Expression, ExpressionError, try_expressions
from tuneport.files.json_text import as_json
from tuneport.files.printable import printable_line, quoted
from tuneport.output.digest import leaf_count
from tuneport.output.finished_folder import compare_entries
from tuneport.output.model_card import card_digest
from tuneport.output.signature import SIGNATURE, Signature, check_signature, sign
from tuneport.output.write import MANIFEST
from tuneport.pairing.name_rules import Rename, ScaleRule
from tuneport.pairing.row_rules import RowRule
from tuneport.progress import BYTES, Progress
from tuneport.public_functions import takes
from tuneport.shown import Shown

CARD = "README.md"
# Leaves of 4 MiB that are recomputed without --full.
SAMPLE = 64


@dataclass(frozen=True, repr=False)
class Proof(Shown):
    """What was proved: ``integrity only``, ``sample`` or ``full``; how many tensors and leaves were looked at.

    ``of_that_run`` are the manifest's fields that a full proof takes as they stand: what only the run itself could know.
    ``signature``: who signed the folder, if anybody did.
    """

    kind: str
    tensors: int
    leaves: int
    recomputed: int
    of_that_run: tuple[str, ...] = ()
    signature: Signature | None = None

    def heading(self) -> str:
        """One line."""
        return str(self)

    def __str__(self) -> str:
        """One line for a person."""
        return self._proved() + ("" if self.signature is None else f" {self.signature}")

    def _proved(self) -> str:
        whole = f"{self.tensors} tensors ({self.leaves} leaves of 4 MiB) match the manifest"
        if self.kind == "integrity only":
            return f"integrity only: {whole}. Give base, tuned and target to also check where they come from."
        part = "all of them" if self.kind == "full" else f"a sample of {self.recomputed} leaves"
        proved = f"{self.kind}: {whole}. Recomputed from the parents, bit for bit the same: {part}."
        if not self.of_that_run:
            return proved
        return f"{proved} Every field of the manifest matches too, except what only that run could know: {in_words(self.of_that_run)}."


@takes(VerifyOptions)
def verify(given: VerifyOptions) -> Proof:
    """Check a folder against its manifest and, with parents, against what they give.

    An output of `apply` takes ``diffs`` and ``onto``, or the three models if it was one diff vector. A signature is checked where
    there is one; ``sign`` makes one, once everything else is proved. Raises `VerificationError` with every difference.

        tuneport.verify("v2-tuned", "v1", "v1-tuned", "v2", full=True)
    """
    out = Path(os.path.expanduser(given.out))
    signature = None if given.sign is not None else check_signature(out, given.signers)
    proof = _prove(given)
    if given.sign is not None:
        sign(out, given.sign)
        signature = check_signature(out, given.signers)
    return replace(proof, signature=signature)


def _prove(given: VerifyOptions) -> Proof:
    """Everything but the signature."""
    out, running, full = Path(os.path.expanduser(given.out)), given.running, given.full
    manifest = read_manifest(out)
    operation = str(manifest.get("operation"))
    plan = _plan_again(manifest, given)
    if plan is None and full:
        parents = f"{named('base')}, {named('tuned')} and {named('onto')} (or {named('diffs')} and {named('onto')})"
        raise UsageError(Fault("full", ABSENT, "needs the parents", f"Give {parents}"))
    produced = _opened(manifest, operation, out)
    more, leaves = (0, 0) if plan is None else (plan.more_memory, plan.leaves)
    pool = budget(running.memory_limit, running.workers, DEFAULT_MAX_MEMORY_PARSING, more, leaves)
    faults = _compare_tables(manifest, produced)
    with reading(produced) as reader:
        faults += _compare_digests(manifest, produced, reader, pool)
    faults += _compare_files(manifest, out, set(produced.files))
    if operation not in ("diff", "export"):
        with _telling(faults, out):
            faults += in_a_folder(produced, manifest)
    leaves = sum(leaf_count(tensor.nbytes) for tensor in produced.tensors.values())
    if plan is None:
        _stop_if(faults, out)
        return Proof("integrity only", len(produced.tensors), leaves, 0)
    faults += _compare_parents(manifest, plan)
    faults += _compare_plans(manifest, plan)
    faults += [
        f"these parents would give a different header for {name}"
        for name, header in ({} if plan.layout.encoded else plan.layout.headers).items()
        if name in produced.files and produced.files[name].header_digest != blake3(header[8:]).hexdigest()
    ]
    if plan.refusals:
        _stop_if(faults, out)
    plan = replace(plan, inputs=tuple(fetched(checkpoint) for checkpoint in plan.inputs))
    with readers_by_role(plan.inputs) as readers, reading(produced) as reader:
        digests = _digests_again(manifest, plan, readers, pool) if full else {}
        faults += _compare_input_digests(manifest, digests)
        if plan.operation == "diff" and manifest.get("base_sample", {}) != keep_base(plan, readers):
            faults.append("the base's sample in the manifest is from another base")
        results, recomputed, different = _recompute(plan, produced, reader, readers, pool, full, given.seed)
        faults += different
        if (
            full
            and manifest["operation"] == plan.operation
            and recomputed == sum(leaf_count(slot.nbytes) for slot in plan.slots)
        ):
            faults += differences(manifest, _manifest_again(plan, manifest, results, readers, digests, pool))
    _stop_if(faults, out)
    if not full:
        return Proof("sample", len(produced.tensors), leaves, recomputed)
    of_run = tuple(field for field in OF_THAT_RUN if re.split(r"\W", field)[0] in manifest)
    known = of_run if manifest["operation"] == plan.operation else (*of_run, *OF_THAT_VECTOR)
    return Proof("full", len(produced.tensors), leaves, recomputed, known)


def _stem(manifest: Mapping[str, Any], operation: str) -> str:
    """What the names of the files with weights begin with."""
    if operation == "export":
        return {"peft": "adapter_model", "sparse": "patch"}.get(str(manifest.get("form")), "model")
    return "diff" if operation == "diff" else "model"


@contextmanager
def _telling(faults: list[str], out: Path) -> Iterator[None]:
    """A file that cannot be read since somebody changed it is first of all one that was changed."""
    try:
        yield
    except CheckpointError as error:
        _stop_if([*faults, str(error)] if faults else [], out)
        raise


def _opened(manifest: Mapping[str, Any], operation: str, out: Path) -> Checkpoint:
    """The output. If it cannot be opened since somebody changed a file, that is said first."""
    try:
        found = open_folder(out, "output", stem=_stem(manifest, operation))
        return decoded_as_told(found, manifest) if operation == "diff" else found
    except CheckpointError as error:
        recorded = manifest.get("files", {})
        changed = compare_entries(
            {name: recorded[name] for name in recorded}, {path.name for path in out.iterdir()}, out
        )
        _stop_if([*changed, str(error)] if changed else [], out)
        raise


def _manifest_again(
    plan: Plan,
    manifest: Mapping[str, Any],
    results: LeafResults,
    readers: Mapping[str, TensorReader],
    digests: Mapping[str, Mapping[str, str]],
    pool: Budget,
) -> dict[str, Any]:
    """The manifest as a run of today would write it from these parents."""
    if plan.operation == "diff":
        plan = replace(plan, extra={**plan.extra, "base_sample": manifest.get("base_sample")})
    found = conclude(plan, look(plan), results, lost_difference(plan, results, readers))
    return make_manifest(plan, plan.record(), results, found, measure_dropped(plan, readers), digests, pool, 0.0)


def _plan_again(manifest: Mapping[str, Any], given: VerifyOptions) -> Plan | None:
    """The plan as the manifest's choices and the given parents make it; None where no parents are given."""
    from tuneport.diffvector.run import plan_of

    if not (given.base or given.tuned or given.onto or given.diffs):
        return None
    operation, scales = str(manifest["operation"]), manifest.get("scales")
    if operation == "export":
        raise UsageError(
            "An export is checked against its manifest alone: leave out the parents. To check where it comes from, "
            "export the diff vector again and compare the digests in `tuneport.json`."
        )
    pairs = paired(given.base, given.tuned) if given.base or given.tuned or not given.diffs else ()
    if given.diffs and (operation == "diff" or given.onto is None):
        raise UsageError(Fault("diffs", ABSENT, f"needs {named('onto')}, for an output of `apply` or `transfer`"))
    if given.onto is None and operation != "diff":
        raise UsageError(
            f"Give all of the parents: {named('base')}, {named('tuned')} and, for an output model, {named('onto')}."
        )
    _check_parents(manifest, len(pairs), len(given.diffs))

    def choices_of(names: Iterable[str]) -> Choices:
        return _choices_of(manifest, names)

    # Words tell of a model by its name: by the one that it had then, wherever it lies now.
    called = {entry["role"]: entry["name"] for entry in manifest["inputs"]}
    onto = None if operation == "diff" else given.onto
    with _following():
        scaled, encoding = tuple((diff, None) for diff in given.diffs), str(manifest.get("encoding", "float32"))
        return plan_of(pairs, onto, scaled, choices_of, tuple(scales or ()), called, encoding)


def _check_parents(manifest: Mapping[str, Any], pairs: int, diffs: int) -> None:
    """Raise `VerificationError` where another number of differences was added, or taken, than there are parents given.

    Of an output of `apply` each diff vector, or the pair that it was taken from, may be given.
    """
    roles = [entry["role"] for entry in manifest["inputs"]]
    of_pairs, of_diffs = (sum(role.startswith(kind) for role in roles) for kind in ("tuned", "diff"))
    if pairs + diffs != of_pairs + of_diffs or pairs < of_pairs or (pairs and diffs and not of_pairs):
        made = [f"{n} {what}" for n, what in ((of_pairs, "tuned model(s)"), (of_diffs, "diff vector(s)")) if n]
        found = [f"{n} {what}" for n, what in ((pairs, "tuned model(s)"), (diffs, "diff vector(s)")) if n]
        raise VerificationError(f"The output was made of {' and '.join(made)}, but {' and '.join(found)} are given.")


@contextmanager
def _following() -> Iterator[None]:
    """Options in a manifest that no run would accept are the manifest's fault, not the verifier's."""
    try:
        yield
    except UsageError as error:
        raise VerificationError(f"The options in the manifest are not valid: {error}") from None


def _choices_of(manifest: Mapping[str, Any], names: Iterable[str]) -> Choices:
    """The choices in the manifest, whose expressions are of whoever wrote it: they are tried with ``names`` first."""
    try:
        recorded = dict(manifest["plan"]["choices"])
        if expressions := list(_expressions(recorded)):  # a hundred thousand names are listed only where there is one
            try_expressions(expressions, ["", *names])
        recorded["rules"] = tuple(
            ScaleRule(rule["pattern"], rule["scale"], rule.get("last")) for rule in recorded["rules"]
        )
        recorded["row_rules"] = tuple(
            RowRule(tuple(rule["tokens"]), rule["scale"]) for rule in recorded.get("row_rules", ())
        )
        recorded["renames"] = tuple(
            Rename(each["pattern"], each["replacement"]) for each in recorded.get("renames", ())
        )
        # What an earlier version did not ask is as it was then: the default.
        return Choices(**{field.name: recorded[field.name] for field in fields(Choices) if field.name in recorded})
    except UsageError:
        raise
    except (KeyError, TypeError, AttributeError) as error:
        raise VerificationError(f"The manifest lacks the options of its run ({error!r}).") from None
    except ExpressionError as error:
        raise VerificationError(f"The options in the manifest are not valid: {error}.") from None


def _expressions(recorded: Mapping[str, Any]) -> Iterator[Expression]:
    for each in recorded.get("renames", ()):
        yield Expression("renames", each["pattern"], "sub", each["replacement"])
    drop = recorded.get("drop") or ()
    for each in recorded["rules"]:
        yield Expression("rules", each["pattern"])
    for pattern in [drop] if isinstance(drop, str) else drop:
        yield Expression("drop", pattern)
    for pattern in recorded.get("vocabulary_rules", {}):
        yield Expression("vocabulary_rules", pattern)


def _written_entries(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        for entry in manifest["tensors"]:
            if entry["fate"] != "dropped":
                yield entry["name"], entry
    except (KeyError, TypeError) as error:
        raise VerificationError(f"The manifest's list of tensors is damaged ({error!r}).") from None


def _compare_tables(manifest: Mapping[str, Any], produced: Checkpoint) -> list[str]:
    faults, left = [], set(produced.tensors)
    for name, entry in _written_entries(manifest):
        if name not in produced.tensors:
            faults.append(f"{quoted(name)} is in the manifest, but not in the files")
            continue
        if name not in left:
            faults.append(f"{quoted(name)} is listed twice in the manifest")
        left.discard(name)
        tensor = produced.tensors[name]
        if entry.get("dtype") != tensor.dtype or entry.get("shape") != list(tensor.shape):
            faults.append(
                f"{quoted(name)} is {tensor.dtype} {list(tensor.shape)}, but the manifest says {entry.get('dtype')} "
                f"{entry.get('shape')}"
            )
    return faults + [f"{quoted(name)} is in the files, but not in the manifest" for name in sorted(left)]


def _compare_digests(
    manifest: Mapping[str, Any], produced: Checkpoint, reader: TensorReader, pool: Budget
) -> list[str]:
    digests = tensor_digests(produced.tensors, reader, pool, "digests")
    return [
        f"{quoted(name)} has the digest {digest}, but the manifest says {entry.get('digest')}"
        for name, entry in _written_entries(manifest)
        if name in digests and entry.get("digest") != (digest := digests[name])
    ]


def _compare_files(manifest: Mapping[str, Any], out: Path, shards: set[str]) -> list[str]:
    recorded = manifest.get("files", {})
    faults = compare_entries(recorded, {*shards, MANIFEST, SIGNATURE}, out)
    if recorded.get(CARD) != _digest_of_card(manifest):
        faults.append(f"{CARD} is not the card of this manifest")
    return faults


def _digest_of_card(manifest: Mapping[str, Any]) -> str | None:
    render = render_export_card if manifest.get("operation") == "export" else render_card
    try:
        return card_digest(render(manifest))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None  # a manifest of another form gives no card


def _compare_parents(manifest: Mapping[str, Any], plan: Plan) -> list[str]:
    """Whether the given parents have the headers of those the manifest names, role by role."""
    recorded = manifest.get("plan", {}).get("inputs", {})
    faults = []
    for checkpoint in plan.inputs:
        files = recorded.get(checkpoint.role, {}).get("files")
        given = {file.name: {"size": file.size, "header": file.header_digest} for file in checkpoint.files.values()}
        if files is None:
            continue  # an output of apply, proved from base and tuned: the manifest names the diff vector only
        wanted = {name: {"size": entry.get("size"), "header": entry.get("header")} for name, entry in files.items()}
        if given != wanted:
            given_as = checkpoint.hub_id or checkpoint.path  # its label is the name that the parent had then
            faults.append(
                f"{checkpoint.role}: {printable_line(str(given_as))} is not the {printable_line(checkpoint.label)} that was "
                f"used: its files differ"
            )
    return faults


def _compare_plans(manifest: Mapping[str, Any], plan: Plan) -> list[str]:
    faults = [f"a transfer with these parents would stop: {reason}" for reason in plan.refusals]
    numbers = {slot.name: number for number, slot in enumerate(plan.slots)}
    for name, entry in _written_entries(manifest):
        number = numbers.pop(name, None)
        if number is None:
            faults.append(f"{quoted(name)} is in the output, but these parents do not give it")
            continue
        task = plan.tasks[number]
        scale = None if task.line.fate == "copied" else task.scales[0] if len(task.scales) == 1 else list(task.scales)
        for field, wanted in (
            ("fate", task.line.fate),
            ("shape", list(task.slot.shape)),
            ("dtype", task.slot.dtype),
            ("scale", scale),
            ("row_scales", scales_of_rows(task.recipe)),
        ):
            if entry.get(field) != wanted:
                faults.append(
                    f"{quoted(name)}: {field} is {entry.get(field)!r} in the manifest, these parents give {wanted!r}"
                )
    faults += [f"{quoted(name)} is missing" for name in numbers]
    recorded = manifest.get("files", {})
    for name, digest in plan.sidecar_digests().items():
        if recorded.get(name) != digest:
            faults.append(f"these parents would give a different {name}")
    return faults + _compare_words(manifest, plan)


def _compare_words(manifest: Mapping[str, Any], plan: Plan) -> list[str]:
    """The sentences in the manifest."""
    if manifest["operation"] != plan.operation:
        return []  # an output of apply, proved from base and tuned: its words name the diff vector
    wanted = {
        "formula": plan.formula,
        "decisions": [asdict(decision) for decision in plan.decisions],
        "config_differences": [asdict(difference) for difference in plan.differences],
    }
    said = as_json(wanted)
    return [
        f"these parents would give a different {field} from the one in the manifest"
        for field in said
        if manifest.get(field) != said[field]
    ]


def _digests_again(
    manifest: Mapping[str, Any], plan: Plan, readers: Mapping[str, TensorReader], pool: Budget
) -> dict[str, Mapping[str, str]]:
    """Digests of the inputs, where the manifest has them."""
    asked = plan.choices.digest_inputs or any("tensors" in entry for entry in manifest["inputs"])
    return input_digests(replace(plan, choices=replace(plan.choices, digest_inputs=asked)), readers, pool)


def _compare_input_digests(manifest: Mapping[str, Any], given: Mapping[str, Mapping[str, str]]) -> list[str]:
    recorded = {entry["role"]: entry["tensors"] for entry in manifest["inputs"] if "tensors" in entry}
    return [
        f"{role}: {quoted(name)} is not the tensor used"
        for role, digests in recorded.items()
        for name, digest in digests.items()
        if role in given and given[role].get(name) != digest
    ]


def _recompute(
    plan: Plan,
    produced: Checkpoint,
    reader: TensorReader,
    readers: Mapping[str, TensorReader],
    pool: Budget,
    full: bool,
    seed: int,
) -> tuple[LeafResults, int, list[str]]:
    """The results of the leaves that were computed again, how many these are, and what is different on disk."""
    results = LeafResults(plan.tasks, plan.slots)
    there = [
        number for number, slot in enumerate(plan.slots) if _is_there(slot, produced)
    ]  # what is missing was told before
    counts = [results.leaves(number) for number in there]
    places = range(sum(counts))
    begins = dict(zip(there, itertools.accumulate(counts, initial=0), strict=False))
    chosen = places if full else set(random.Random(seed).sample(places, min(SAMPLE, len(places))))
    different: dict[str, int] = {}
    lock = threading.Lock()

    def do(number: int, task: OutputTask, leaf: int, space: Workspace) -> bool:
        if number not in begins or begins[number] + leaf not in chosen:
            return True
        name = task.slot.name

        def compare(start: int, content: memoryview) -> None:
            written = space.buffer("written", len(content))
            reader.read_into(produced.tensors[name], start, written)
            if written != content:
                first = next(i for i, (one, other) in enumerate(zip(written, content, strict=True)) if one != other)
                with lock:
                    found = (start + first) // DTYPES[task.slot.dtype].itemsize
                    different[name] = min(found, different.get(name, found))

        results.put(number, leaf, compute_leaf(task, leaf, readers, space, pool.piece, compare))
        return True

    run_leaves(plan.tasks, do, pool.workers, Progress("recompute", sum(slot.nbytes for slot in plan.slots), BYTES))
    return (
        results,
        len(chosen),
        [
            f"{quoted(name)}: element {element} differs from what the parents give"
            for name, element in sorted(different.items())
        ],
    )


def _is_there(slot: StoredTensor, produced: Checkpoint) -> bool:
    tensor = produced.tensors.get(slot.name)
    return tensor is not None and (tensor.dtype, tensor.shape) == (slot.dtype, slot.shape)


def _stop_if(faults: list[str], out: Path) -> None:
    if faults:
        raise VerificationError(f"{out} failed verification:{listing(faults)}")
