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
from tuneport.pairing.tensors import main_dtype
from tuneport.pairing.vocabulary import VocabularyMatch
from tuneport.transfer import kernel
from tuneport.transfer.arithmetic import SUMS
from tuneport.transfer.budget import Budget
from tuneport.transfer.digests import tensor_digests
from tuneport.transfer.pieces import Readers, Sum
from tuneport.transfer.plan import FORMAT, OutputTask, Plan

# A base and a target of one family have nearly the same weights; of two families, a cosine of about 0.
UNRELATED_COSINE = 0.1
# With the right roles the diff vector and the drift have nothing to do with each other; with base and tuned swapped,
# both hold the same vector and their cosine is ‖Δ‖ / √(‖Δ‖² + ‖drift‖²).
SWAPPED_COSINE = 0.3
# A fine-tuning moves a model less than the training between two versions does; tuned and target may be swapped.
SWAPPED_NORMS = 3.0


ZERO_DIFF = (
    "The diff vector is zero: base and tuned hold the same weights in every tensor that takes part. "
    "Is --tuned the fine-tuned model, and --base the model it was fine-tuned from?"
)


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
        """The five sums of the tensor, added up in the order of its leaves."""
        totals = [0.0] * SUMS
        for leaf in self.leaves:
            totals = [total + value for total, value in zip(totals, leaf.sums, strict=True)]
        return totals

    @property
    def has_diff(self) -> bool:
        """Whether a difference was added to it (or is what it holds)."""
        return not isinstance(self.task.recipe, Sum) or any(scale != 0 for scale in self.task.scales)

    @property
    def reads_base(self) -> bool:
        """Whether the whole of the base's tensor was read and measured: for an adapter's change it is not."""
        recipe, pair = self.task.recipe, self.task.line.pair
        if not isinstance(recipe, Sum) or (pair is not None and pair.change is not None):
            return False
        return recipe.terms[0].minus is not None


@dataclass(frozen=True)
class Measures:
    """Norms and cosines over all tensors that took part. None where a figure has no meaning.

    ``diff_norm`` is ‖Δ‖, ``drift_norm`` ‖target − base‖, ``cosine`` that of the two, ``base_target_cosine`` that of the
    weights themselves.
    """

    diff_norm: float | None
    drift_norm: float | None
    cosine: float | None
    base_target_cosine: float | None
    is_zero: bool = False

    def record(self) -> dict[str, float | None]:
        """The measures as they stand in a manifest."""
        return {name: value for name, value in asdict(self).items() if name != "is_zero"}


def measures(results: list[TensorResult]) -> Measures:
    """The measures of a run, from the sums of its tensors."""
    taking = [result for result in results if result.has_diff]
    dd, tt, bb, gg, dg = [math.fsum(values) for values in zip(*(r.sums for r in taking), strict=True)] or [0.0] * SUMS
    zero = bool(taking) and dd == 0 and not any(result.nonfinite for result in taking)
    has_base = all(r.reads_base for r in taking)
    if not has_base:
        return Measures(_root(dd) if taking else None, None, None, None, zero)
    return Measures(_root(dd), _root(gg), _cosine(dg, dd, gg), _cosine((tt + bb - gg) / 2, tt, bb), zero)


def doubts(plan: Plan, totals: Measures) -> tuple[str, ...]:
    """What the measured norms say against the roles, in words."""
    found = []
    base_target, cosine = totals.base_target_cosine, totals.cosine
    if base_target is not None and abs(base_target) < UNRELATED_COSINE:
        found.append(
            f"base and target look unrelated: the cosine of their weights is {base_target:.3f} (versions of one model "
            "have nearly 1). A diff vector means nothing on another model's weights."
        )
    if cosine is not None and cosine > SWAPPED_COSINE:
        found.append(
            f"base and tuned, or base and target, look swapped: the diff vector points the way of target − base (cosine "
            f"{cosine:.2f}, with the right roles near 0)."
        )
    if totals.diff_norm and totals.drift_norm and totals.diff_norm > SWAPPED_NORMS * totals.drift_norm:
        found.append(
            f"tuned and target look swapped: ‖Δ‖ = {totals.diff_norm:.4g} is far more than ‖target − base‖ = "
            f"{totals.drift_norm:.4g}."
        )
    return tuple(found)


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
    warnings: tuple[str, ...],
    digests: Mapping[str, Mapping[str, str]],
    pool: Budget,
    seconds: float,
) -> dict[str, Any]:
    """The manifest of a run, as a JSON object."""
    return {
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


def render_manifest(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as it stands on disk. Numbers that JSON has no word for (NaN) become null."""
    return (json.dumps(_finite(manifest), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


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


def _cosine(product: float, one: float, other: float) -> float | None:
    length = math.sqrt(one) * math.sqrt(other) if one >= 0 and other >= 0 else math.nan
    return product / length if length > 0 and math.isfinite(length) else None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
