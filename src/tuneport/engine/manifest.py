"""The manifest: what was done, in machine-readable form.

Made from the plan and what the run measured, and written to the output as tuneport.json: inputs with their digests,
every decision with its reason, every tensor with its fate, digest and norms. It contains names and digests, no absolute
paths. docs/formats.md describes each field.
"""

from __future__ import annotations

import math
import platform
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from tuneport import __version__
from tuneport.comparison.measures import is_in_a_layer
from tuneport.comparison.model_roles import Figures, MatrixColumns, figures, is_matrix, pooled_cosines
from tuneport.comparison.rounding import Rounded, rounded, rounded_of_columns, total
from tuneport.engine import kernel
from tuneport.engine.arithmetic import ROUNDING, SUMS
from tuneport.engine.budget import Budget
from tuneport.engine.checks.before_writing import RolesVerdict
from tuneport.engine.checks.rounding_loss import RoundedPart, loss
from tuneport.engine.leaf_results import LeafResults, TensorResult
from tuneport.engine.measured.summed_tensor import MeasuredKind, SumsByKind
from tuneport.engine.pieces import Readers, Sum
from tuneport.engine.plan import FORMAT, Plan
from tuneport.engine.scaling.scales import scales_of_rows
from tuneport.engine.tensor_digests import tensor_digests
from tuneport.errors import CheckpointError, recorded
from tuneport.files.json_text import chunks, finite
from tuneport.files.lazy_sequences import LazySequence
from tuneport.files.opening import contents
from tuneport.files.printable import quoted
from tuneport.output.replacing import read_record
from tuneport.output.write import MANIFEST
from tuneport.pairing.tensors import main_dtype
from tuneport.pairing.vocabulary import VocabularyMatch

# Bits of JSON that are written together.
_CHUNKS = 10_000
# What every reader of a manifest relies on: kinds of values, by field; "*" is any name, "?" a field that may be missing.
_SHAPE: Mapping[str, Any] = {
    "operation": str,
    "formula": str,
    "inputs": [{"role": str, "name": str, "tensors?": {"*": str}}],
    "tensors": [{"name": str, "fate": str}],
    "files": {"*": str},
    "measures": {},
    "warnings": [str],
    "plan": {"choices": {}, "inputs": {"*": {"files": {"*": {}}}}},
    "scales?": [float],
    "behaviour?": {"template": [str], "end_tokens": [{"id": int}]},
    "base_sample?": {"*": [{"start": int, "values": str}]},
    "ids_without_row?": [{}],
    "lineage?": [{"name": str, "kin": str}],
    "diff?": {
        "*": {
            "base": {"dtype": str, "shape": [int]},
            "tuned": {"dtype": str, "shape": [int]},
            "raw_ids?": [int],
            "ids?": [int],
        }
    },
}


@dataclass(frozen=True)
class Measures:
    """What a run measured. None where a figure has no meaning, or was not measured.

    Over all tensors that took part: ``diff_norm`` is ‖Δ‖, ``shift_norm`` ‖target − base‖, ``rounding`` what storing the sums
    took from Δ. Over the matrices among them: ``cosine`` is that of the two, ``base_target_cosine`` that of the weights
    themselves, and ``roles`` what each says.
    ``lost_norm`` is ‖Δ‖ in rows of tokens that have no place in the output; ``figures`` are those of a comparison.
    """

    diff_norm: float | None
    shift_norm: float | None
    cosine: float | None
    base_target_cosine: float | None
    roles: Figures
    rounding: Rounded | None = None
    is_zero: bool = False
    lost_norm: float | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The measures as written in a manifest."""
        return {name: value for name, value in asdict(self).items() if name not in ("is_zero", "roles", "figures")}


def measures(results: LeafResults, *, several: bool = False) -> Measures:
    """The measures of a run, from the sums of its tensors; ``several`` differences have no one base to be measured beside."""
    diffs, drifts = array("d"), array("d")
    has_base, nonfinite = True, False
    parts = [array("d") for _ in range(SUMS)[ROUNDING]]
    read, kinds = MatrixColumns(), SumsByKind()
    for result in results:
        if not result.has_diff:
            continue
        sums = result.sums
        diffs.append(sums[0])
        drifts.append(sums[3])
        nonfinite |= bool(result.nonfinite)
        reads_base, matrix = (
            result.reads_base and not several,
            is_matrix(result.task.slot.dtype, result.task.slot.shape),
        )
        has_base &= reads_base
        if result.has_rounded:
            inner = matrix and is_in_a_layer(result.task.slot.name)
            kind = MeasuredKind(matrix, inner, reads_base, result.all_matched)
            kinds.add(sums, result.met, kind)
            for column, value in zip(parts, sums[ROUNDING], strict=True):
                column.append(value)
        if reads_base and matrix:
            read.append(result.matrix)
    taking = bool(diffs)
    dd, gg = total(diffs), total(drifts)
    has_base = has_base and taking
    matrices = read.large() if has_base else ()
    cosine, base_target = pooled_cosines(matrices)
    return Measures(
        _root(dd) if taking else None,
        _root(gg) if has_base else None,
        cosine,
        base_target,
        figures(matrices),
        rounded_of_columns(parts) if parts[0] else None,
        taking and dd == 0 and not nonfinite,
        figures=kinds.columns().whole(),
    )


def rounding_loss(plan: Plan, results: LeafResults, found: Rounded | None) -> tuple[str, ...]:
    """In words, where rounding to nearest took too much of the diff vector."""
    return loss(plan, (RoundedPart(r.task, tuple(r.sums[ROUNDING])) for r in results if r.has_rounded), found)


def input_digests(plan: Plan, readers: Readers, pool: Budget) -> dict[str, Mapping[str, str]]:
    """Digests of every tensor of every input, by role and name: with --digest-inputs, and always for a diff."""
    if not (plan.choices.digest_inputs or plan.operation == "diff"):
        return {}
    return {
        each.role: tensor_digests(each.tensors, readers[each.role], pool, f"digest of {each.role}")
        for each in plan.inputs
    }


@dataclass(frozen=True)
class Conclusion:
    """The figures of a whole pass, and what they say. ``losses`` are the warnings about rounding."""

    totals: Measures
    verdict: RolesVerdict
    warnings: tuple[str, ...]
    losses: tuple[str, ...]


def make_manifest(
    plan: Plan,
    record: Mapping[str, Any],
    results: LeafResults,
    found: Conclusion,
    dropped: Mapping[str, float | None],
    digests: Mapping[str, Mapping[str, str]],
    pool: Budget,
    seconds: float,
) -> dict[str, Any]:
    """The manifest of a run, without the card's digest, as the JSON object that a reader of the file gets."""
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "operation": plan.operation,
        "formula": plan.formula,
        "inputs": [],
        "decisions": [asdict(decision) for decision in plan.decisions],
        "tensors": [],
        "config_differences": [asdict(difference) for difference in plan.differences],
        "tokens": [token_record(match) for match in plan.vocabulary],
        "measures": {
            **found.totals.record(),
            "dtype": main_dtype(task.line.target for task in plan.tasks if task.line.target) if plan.tasks else None,
        },
        "roles": found.verdict.record(),
        "warnings": recorded(found.warnings),
        "files": {
            name: blake3(contents(content)).hexdigest() for name, content in {**plan.files, **index_file(plan)}.items()
        },
        "plan": dict(record),
        **{name: {} if name == "diff" else value for name, value in plan.extra.items()},
        "environment": environment(workers=pool.workers, seconds=round(seconds, 3)),
    }
    manifest = finite(manifest)
    manifest["inputs"] = [_input(finite(each.identity()), digests.get(each.role)) for each in plan.inputs]
    if "diff" in plan.extra:
        manifest["diff"] = plan.extra["diff"]  # as it is: most of its entries are one and the same
    manifest["tensors"] = _tensors(results, _dropped_tensors(plan, dropped))
    return manifest


def environment(**more: Any) -> dict[str, Any]:
    """What a run was made with, and ``more`` of it."""
    return {
        "tuneport": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "kernel": kernel.NAME,
        **more,
    }


def _tensors(results: LeafResults, dropped: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The entries of a manifest's ``tensors``, each made when it is looked at: by name, then those that were dropped."""
    names = [slot.name for slot in results.slots]
    order = array("q", sorted(range(len(names)), key=names.__getitem__))

    def make(place: int) -> dict[str, Any]:
        written = place < len(order)
        found: dict[str, Any] = finite(_tensor(results[order[place]]) if written else dropped[place - len(order)])
        return found

    return LazySequence(len(order) + len(dropped), make)


def render_manifest(manifest: Mapping[str, Any]) -> Iterator[bytes]:
    """The manifest as written to disk, piece by piece: it is never in memory as a whole."""
    lines: list[str] = []
    for text in chunks(manifest):
        lines.append(text)
        if len(lines) == _CHUNKS:
            yield "".join(lines).encode()
            lines.clear()
    yield "".join([*lines, "\n"]).encode()


def misshapen(value: Any, shape: Any = _SHAPE, path: str = "") -> str | None:
    """The first field of a manifest that is not of the kind tuneport writes, or None: manifests come from anywhere."""
    if isinstance(shape, type):
        kinds = (int, float) if shape is float else (shape,)
        return None if isinstance(value, kinds) and not isinstance(value, bool) else path
    if isinstance(shape, list):
        if not isinstance(value, Sequence) or isinstance(value, str):
            return path
        inner = ((f"{path}[{place}]", entry, shape[0]) for place, entry in enumerate(value))
    elif isinstance(value, Mapping):
        any_name = "*" in shape
        inner = (
            (f"{path}.{name.rstrip('?')}".lstrip("."), value.get(name.rstrip("?")), shape["*" if any_name else name])
            for name in (value if any_name else shape)
            if any_name or not name.endswith("?") or name.rstrip("?") in value
        )
    else:
        return path
    return next((found for where, entry, kind in inner if (found := misshapen(entry, kind, where)) is not None), None)


def _tensor(result: TensorResult) -> dict[str, Any]:
    line, slot, sums = result.task.line, result.task.slot, result.sums
    entry: dict[str, Any] = {
        "name": slot.name,
        "fate": line.fate,
        "shape": list(slot.shape),
        "dtype": slot.dtype,
        "digest": result.digest,
        "scale": result.task.scales[0] if len(result.task.scales) == 1 else list(result.task.scales),
        "norms": {
            "target": _root(sums[1]) if isinstance(result.task.recipe, Sum) else None,
            "diff": _root(sums[0]) if result.has_diff else None,
        },
        "rounding": asdict(rounded([sums[ROUNDING]])) if result.has_rounded else None,
    }
    if line.fate == "copied":
        entry["scale"] = None
    elif (by_row := scales_of_rows(result.task.recipe)) is not None:
        entry["row_scales"] = by_row
    if line.reason:
        entry["reason"] = line.reason
    if result.nonfinite:
        entry["nonfinite"] = result.nonfinite
    return entry


def _dropped_tensors(plan: Plan, norms: Mapping[str, float | None]) -> list[dict[str, Any]]:
    return [
        {
            "name": line.name,
            "fate": "dropped",
            "shape": list(line.pair.base.shape) if line.pair else None,
            "dtype": line.pair.base.dtype if line.pair else None,
            "digest": None,
            "scale": None,
            "norms": {"target": None, "diff": norms.get(line.name)},
            "rounding": None,
            "reason": line.reason,
        }
        for line in plan.account.of("dropped")
    ]


def token_record(match: VocabularyMatch) -> dict[str, Any]:
    """How the tokens were matched, as written in a manifest and a plan."""
    return {
        "how": match.how,
        "matched": match.matched,
        "renamed": [asdict(rename) for rename in match.renamed],
        "added": [{"token": token.token, "id": token.id} for token in match.added],
        **{
            kind: list(getattr(match, kind))
            for kind in ("dropped", "without_row", "placeholders", "kept", "lost", "without_base")
        },
    }


def _input(identity: dict[str, Any], digests: Mapping[str, str] | None) -> dict[str, Any]:
    if not digests:
        return identity
    whole = blake3()
    for name, digest in digests.items():
        whole.update(f"{name}\0{digest}\0".encode())
    return {**identity, "digest": f"tensors:{whole.hexdigest()}", "tensors": digests}


def index_file(plan: Plan) -> dict[str, bytes]:
    """The index of the output's shards, by its name; empty for a single file."""
    return {plan.layout.index_name: plan.layout.index or b""} if plan.layout.index_name else {}


def _root(square: float) -> float:
    return math.sqrt(square) if square >= 0 else math.nan


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of a finished folder. Raises `CheckpointError` if there is none, or it is not a manifest."""

    try:
        manifest = read_record(out / MANIFEST, out)
    except FileNotFoundError:
        if not out.exists():
            raise CheckpointError(f"{out}: no such folder.") from None
        raise CheckpointError(f"{out} has no {MANIFEST}; tuneport did not write it, or it is not finished.") from None
    except OSError as error:
        raise CheckpointError(f"{out / MANIFEST} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise CheckpointError(f"{out / MANIFEST} cannot be read: {error}.") from None
    if not isinstance(manifest, dict) or not str(manifest.get("format", "")).startswith("tuneport.manifest/"):
        raise CheckpointError(f"{out / MANIFEST} is not a manifest of tuneport.")
    damaged = misshapen(manifest)
    if damaged:
        raise CheckpointError(f"{out / MANIFEST} is damaged: {quoted(damaged)} is missing or has the wrong type.")
    return manifest
