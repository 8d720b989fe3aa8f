"""The manifest: what was done, for machines.

In come the plan and what the stream measured, out comes the JSON object that stands in the output as tuneport.json:
inputs with their digests, every decision with its reason, every tensor with its fate, digest and norms. It holds names
and digests, no absolute paths. docs/formats.md describes each field.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from tuneport import __version__
from tuneport.checkpoint.digest import root_of
from tuneport.checkpoint.journal import LeafRecord
from tuneport.json_text import finite
from tuneport.pairing.tensors import main_dtype
from tuneport.pairing.vocabulary import VocabularyMatch
from tuneport.transfer import kernel
from tuneport.transfer.arithmetic import ROUNDING, SUMS
from tuneport.transfer.budget import Budget
from tuneport.transfer.digests import tensor_digests
from tuneport.transfer.look import Verdict
from tuneport.transfer.pieces import Readers, Sum
from tuneport.transfer.plan import FORMAT, OutputTask, Plan
from tuneport.transfer.roles import Figures, MatrixSums, figures, is_matrix, of_size, pooled_cosines
from tuneport.transfer.rounding import Rounded, rounded, total
from tuneport.transfer.rounding_loss import RoundedPart, loss

# What every reader of a manifest relies on: kinds of values, by field; "*" is any name, "?" a field that may be missing.
_SHAPE: Mapping[str, Any] = {
    "operation": str,
    "formula": str,
    "inputs": [{"role": str, "name": str, "tensors?": {"*": str}}],
    "tensors": [{"name": str, "action": str}],
    "files": {"*": str},
    "measures": {},
    "warnings": [str],
    "plan": {"choices": {}, "inputs": {"*": {"files": {"*": {}}}}},
    "scales?": [float],
    "behaviour?": {"template": [str], "end_tokens": [{"id": int}]},
    "base_sample?": {"*": [{"start": int, "values": str}]},
    "ids_without_row?": [{}],
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
class TensorResult:
    """A finished tensor of the output and the records of its leaves."""

    task: OutputTask
    leaves: tuple[LeafRecord, ...]

    @property
    def digest(self) -> str:
        """The tensor's digest."""
        return root_of([leaf.digest for leaf in self.leaves])

    @property
    def nonfinite(self) -> int:
        """How many elements are NaN or infinite."""
        return sum(leaf.nonfinite for leaf in self.leaves)

    @property
    def sums(self) -> list[float]:
        """The sums of the tensor (see `arithmetic.SUMS`), added up in the order of its leaves."""
        totals = [0.0] * SUMS
        for leaf in self.leaves:
            totals = [total + value for total, value in zip(totals, leaf.sums, strict=True)]
        return totals

    @property
    def matrix(self) -> MatrixSums:
        """The sums as what they are, where the base was read.

        Rows that only the target has are in its square, and not in the base's: where there are some, neither says
        anything of the other.
        """
        diff, target, base, drift, along = self.sums[: ROUNDING.start]
        if not self._all_matched:
            target = base = math.nan
        return MatrixSums(self.task.slot.elements, diff, drift, along, base=base, target=target)

    @property
    def has_diff(self) -> bool:
        """Whether a difference was added to it (or is what it holds)."""
        return not isinstance(self.task.recipe, Sum) or any(scale != 0 for scale in self.task.scales)

    @property
    def has_rounded(self) -> bool:
        """Whether a difference was added to a target, and the sum rounded to what is stored."""
        return self.has_diff and isinstance(self.task.recipe, Sum)

    @property
    def reads_base(self) -> bool:
        """Whether the whole of the base's tensor was read and measured: for an adapter's change it is not."""
        recipe, pair = self.task.recipe, self.task.line.pair
        if not isinstance(recipe, Sum) or (pair is not None and pair.change is not None):
            return False
        return recipe.terms[0].minus is not None

    @property
    def _all_matched(self) -> bool:
        """Whether every row has its partner in base, tuned and target."""
        assert isinstance(self.task.recipe, Sum)
        runs = [term.runs for term in self.task.recipe.terms if term.runs is not None]
        return all(bool((each.partners[:, :3] >= 0).all()) for each in runs)


@dataclass(frozen=True)
class Measures:
    """What a run measured. None where a figure has no meaning, or was not measured.

    Over all tensors that took part: ``diff_norm`` is ‖Δ‖, ``drift_norm`` ‖target − base‖, ``rounding`` what storing the sums
    took from Δ. Over the matrices among them: ``cosine`` is that of the two, ``base_target_cosine`` that of the weights
    themselves, and ``roles`` what each says.
    ``lost_norm`` is ‖Δ‖ in rows of tokens that have no place in the output.
    """

    diff_norm: float | None
    drift_norm: float | None
    cosine: float | None
    base_target_cosine: float | None
    roles: Figures
    rounding: Rounded | None = None
    is_zero: bool = False
    lost_norm: float | None = None

    def record(self) -> dict[str, Any]:
        """The measures as they stand in a manifest."""
        return {name: value for name, value in asdict(self).items() if name not in ("is_zero", "roles")}


def measures(results: list[TensorResult]) -> Measures:
    """The measures of a run, from the sums of its tensors."""
    taking = [result for result in results if result.has_diff]
    dd, _, _, gg, *_ = [total(values) for values in zip(*(r.sums for r in taking), strict=True)] or [0.0] * SUMS
    zero = bool(taking) and dd == 0 and not any(result.nonfinite for result in taking)
    has_base = bool(taking) and all(r.reads_base for r in taking)
    read = [r for r in taking if r.reads_base and is_matrix(r.task.slot.dtype, r.task.slot.shape)] if has_base else []
    large = of_size([r.task.slot.elements for r in read])
    matrices = [r.matrix for r, counts in zip(read, large, strict=True) if counts]
    cosine, base_target = pooled_cosines(matrices)
    return Measures(
        _root(dd) if taking else None,
        _root(gg) if has_base else None,
        cosine,
        base_target,
        figures(matrices),
        rounded(r.sums[ROUNDING] for r in taking if r.has_rounded) if any(r.has_rounded for r in taking) else None,
        zero,
    )


def rounding_loss(plan: Plan, results: list[TensorResult], found: Rounded | None) -> tuple[str, ...]:
    """In words, where rounding to nearest took too much of the diff vector."""
    return loss(plan, [RoundedPart(r.task, tuple(r.sums[ROUNDING])) for r in results if r.has_rounded], found)


def input_digests(plan: Plan, readers: Readers, pool: Budget) -> dict[str, dict[str, str]]:
    """Digests of every tensor of every input, by role and name: with --digest-inputs, and always for a diff."""
    if not (plan.choices.digest_inputs or plan.operation == "diff"):
        return {}
    tensors = [(c.role, tensor) for c in plan.inputs for tensor in c.tensors.values()]
    digests = tensor_digests([(tensor, readers[role]) for role, tensor in tensors], pool, "digest of inputs")
    found: dict[str, dict[str, str]] = {}
    for (role, tensor), digest in zip(tensors, digests, strict=True):
        found.setdefault(role, {})[tensor.name] = digest
    return found


def make_manifest(
    plan: Plan,
    record: Mapping[str, Any],
    results: list[TensorResult],
    dropped: Mapping[str, float | None],
    totals: Measures,
    verdict: Verdict,
    warnings: tuple[str, ...],
    digests: Mapping[str, Mapping[str, str]],
    pool: Budget,
    seconds: float,
) -> dict[str, Any]:
    """The manifest of a run, as the JSON object that a reader of the file gets."""
    manifest = {
        "format": FORMAT,
        "operation": plan.operation,
        "formula": plan.formula,
        "inputs": [_input(checkpoint.identity(), digests.get(checkpoint.role)) for checkpoint in plan.inputs],
        "decisions": [asdict(decision) for decision in plan.decisions],
        "tensors": [*sorted(map(_tensor, results), key=_by_name), *_dropped_tensors(plan, dropped)],
        "config_differences": [asdict(difference) for difference in plan.differences],
        "tokens": [token_record(match) for match in plan.vocabulary],
        "measures": {
            **totals.record(),
            "dtype": main_dtype(task.line.target for task in plan.tasks if task.line.target) if plan.tasks else None,
        },
        "roles": verdict.record(),
        "warnings": list(warnings),
        "files": {
            name: blake3(content if isinstance(content, bytes) else Path(content).read_bytes()).hexdigest()
            for name, content in {**plan.files, **index_file(plan)}.items()
        },
        "plan": dict(record),
        **plan.extra,
        "environment": {
            "tuneport": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "system": f"{platform.system()} {platform.machine()}",
            "kernel": kernel.NAME,
            "workers": pool.workers,
            "seconds": round(seconds, 3),
        },
    }
    found: dict[str, Any] = finite(manifest)
    return found


def render_manifest(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as it stands on disk."""
    return (json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def misshapen(value: Any, shape: Any = _SHAPE, path: str = "") -> str | None:
    """The first field of a manifest that is not of the kind tuneport writes, or None: manifests come from anywhere."""
    if isinstance(shape, type):
        kinds = (int, float) if shape is float else (shape,)
        return None if isinstance(value, kinds) and not isinstance(value, bool) else path
    if isinstance(shape, list):
        inner = (
            [(f"{path}[{place}]", entry, shape[0]) for place, entry in enumerate(value)]
            if isinstance(value, list)
            else None
        )
    elif isinstance(value, dict):
        names = dict.fromkeys(value, shape["*"]) if "*" in shape else shape
        inner = [
            (f"{path}.{name.rstrip('?')}".lstrip("."), value.get(name.rstrip("?")), kind)
            for name, kind in names.items()
            if not name.endswith("?") or name.rstrip("?") in value
        ]
    else:
        inner = None
    if inner is None:
        return path
    return next((found for where, entry, kind in inner if (found := misshapen(entry, kind, where)) is not None), None)


def _tensor(result: TensorResult) -> dict[str, Any]:
    line, slot, sums = result.task.line, result.task.slot, result.sums
    entry: dict[str, Any] = {
        "name": slot.name,
        "action": line.fate,
        "shape": list(slot.shape),
        "dtype": slot.dtype,
        "digest": result.digest,
        "scale": result.task.scales[0] if len(result.task.scales) == 1 else list(result.task.scales),
        "norms": {
            "target": _root(sums[1]) if isinstance(result.task.recipe, Sum) else None,
            "diff": _root(sums[0]) if result.has_diff else None,
        },
        "rounding": rounded([sums[ROUNDING]]).record() if result.has_rounded else None,
    }
    if line.fate == "copied":
        entry["scale"] = None
    if line.reason:
        entry["reason"] = line.reason
    if result.nonfinite:
        entry["nonfinite"] = result.nonfinite
    return entry


def _dropped_tensors(plan: Plan, norms: Mapping[str, float | None]) -> list[dict[str, Any]]:
    return [
        {
            "name": line.name,
            "action": "dropped",
            "shape": list(line.pair.base.shape) if line.pair else None,
            "dtype": line.pair.base.dtype if line.pair else None,
            "digest": None,
            "scale": None,
            "norms": {"target": None, "diff": norms.get(line.name)},
            "rounding": None,
            "reason": line.reason,
        }
        for line in plan.account
        if line.fate == "dropped"
    ]


def token_record(match: VocabularyMatch) -> dict[str, Any]:
    """How the tokens were matched, as it stands in a manifest and in a plan."""
    return {
        "how": match.how,
        "matched": match.matched,
        "renamed": [asdict(rename) for rename in match.renamed],
        "added": [{"token": token.token, "id": token.id} for token in match.added],
        **{kind: list(getattr(match, kind)) for kind in ("dropped", "rowless", "placeholders", "kept", "lost")},
    }


def _input(identity: dict[str, Any], digests: Mapping[str, str] | None) -> dict[str, Any]:
    if digests:
        whole = blake3("".join(f"{name}\0{digest}\0" for name, digest in sorted(digests.items())).encode())
        return {**identity, "digest": f"tensors:{whole.hexdigest()}", "tensors": dict(sorted(digests.items()))}
    return identity


def index_file(plan: Plan) -> dict[str, bytes]:
    """The index of the output's shards, by its name; empty for a single file."""
    return {plan.layout.index_name: plan.layout.index or b""} if plan.layout.index_name else {}


def _by_name(entry: Mapping[str, Any]) -> str:
    return str(entry["name"])


def _root(square: float) -> float:
    return math.sqrt(square) if square >= 0 else math.nan
