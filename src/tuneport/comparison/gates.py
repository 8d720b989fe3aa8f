"""Reasons against a transfer, checked before all else: each gate passes, raises a doubt or says stop.

A failed gate alone makes the verdict `unlikely`; docs/verdict.md has the verdict's own measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tuneport.comparison.model_roles import SHARED, UNRELATED, Doubt, Figures
from tuneport.comparison.rounding import MOST
from tuneport.errors import named

Status = Literal["pass", "warn", "fail"]
# Where rounding takes this part of ‖Δ‖, what is left is mostly its noise.
LOST_TO_ROUNDING = 0.5
# From this share of ‖Δ‖ in rows without a place on, most of a fine-tuning may be lost with them.
LOST_WITH_TOKENS = 0.5
# A diff vector that changes fewer of its entries is sparse.
SPARSE = 0.05

_STRANGERS = ("base-and-target-unrelated", "base-and-tuned-unrelated", "base-unrelated", "all-unrelated")
_SWAPPED = ("swapped-with-tuned", "swapped-with-target")


@dataclass(frozen=True)
class Gate:
    """One gate: what was measured, against what, and why that matters. ``value`` None: not measured."""

    name: str
    status: Status
    value: float | None
    threshold: float | None
    reason: str

    def record(self) -> dict[str, Any]:
        """The gate as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Evidence:
    """What the gates read. ``lost_share`` is the share of ‖Δ‖ in rows of tokens without a place, ``lost_tokens`` how many they are.

    ``refusals`` and ``warnings`` are what a transfer says of config, tokenizer and tensors before it begins.
    """

    roles: Figures
    doubts: Sequence[Doubt]
    measures: Mapping[str, Any]
    lost_tokens: int = 0
    lost_share: float | None = None
    refusals: Sequence[str] = ()
    warnings: Sequence[str] = ()
    nonfinite: int = 0


def gates_of(evidence: Evidence) -> tuple[Gate, ...]:
    """All gates, in the order in which a person should look at them."""
    return (
        _strangers(evidence),
        _roles(evidence),
        _difference(evidence),
        _rounding(evidence),
        _tokens(evidence),
        _numbers(evidence),
        _files(evidence),
    )


def _strangers(evidence: Evidence) -> Gate:
    found, value = _doubt(evidence, _STRANGERS), evidence.roles.base_target
    if found is not None:
        return Gate("strangers", "fail", value, UNRELATED, found.message)
    if value is None:
        return Gate("strangers", "warn", None, UNRELATED, "Whether base and target are related could not be measured.")
    reason = f"The weights of base and target have a cosine of {value:.3f} (median matrix): versions of one model."
    return Gate("strangers", "pass", value, UNRELATED, reason)


def _roles(evidence: Evidence) -> Gate:
    value = evidence.roles.at_base
    if (found := _doubt(evidence, _SWAPPED)) is not None:
        return Gate("roles", "fail", value, SHARED, found.message)
    others = [doubt for doubt in evidence.doubts if doubt.kind not in _STRANGERS]
    if others:
        return Gate("roles", "warn", value, SHARED, others[0].message)
    if value is None:
        return Gate("roles", "pass", None, SHARED, "Neither names nor measurements suggest that the roles are wrong.")
    reason = f"Δ and target − base have a cosine of {value:z.2f} (median matrix), as with the right roles."
    return Gate("roles", "pass", value, SHARED, reason)


def _difference(evidence: Evidence) -> Gate:
    norm, share = evidence.measures["norm_diff"], evidence.measures["changed_share"]
    if norm == 0:
        words = f"Base and tuned hold the same weights: there is nothing to transfer. Check {named('base')} and {named('tuned')}."
        return Gate("difference", "fail", share, 0.0, words)
    if share is not None and share < SPARSE:
        words = f"Δ is sparse: it changes {share:.2%} of the entries. That is usual after reinforcement learning in bfloat16."
        return Gate("difference", "pass", share, SPARSE, words)
    words = (
        "What Δ changes was not measured." if share is None else f"Δ is dense: it changes {share:.1%} of the entries."
    )
    return Gate("difference", "pass", share, SPARSE, words)


def _rounding(evidence: Evidence) -> Gate:
    value = evidence.measures["rounding_loss"]
    if value is None:
        return Gate("rounding", "pass", None, MOST, "The loss by rounding was not measured.")
    words = f"Rounding to the target's dtype loses {value:.2g} of ‖Δ‖."
    if value <= MOST:
        return Gate("rounding", "pass", value, MOST, words)
    remedy = f"Give {named('dtype', 'float32')}, or {named('rounding', 'stochastic')}."
    if value <= LOST_TO_ROUNDING:
        return Gate("rounding", "warn", value, MOST, f"{words} {remedy}")
    return Gate("rounding", "fail", value, LOST_TO_ROUNDING, f"{words} Little of the fine-tuning remains. {remedy}")


def _tokens(evidence: Evidence) -> Gate:
    count, share = evidence.lost_tokens, evidence.lost_share
    if not count:
        return Gate("tokens", "pass", 0.0, LOST_WITH_TOKENS, "Every fine-tuned token has a row in the target.")
    words = f"{count:,} token(s) that base and tuned share have no row in the target"
    words += "." if share is None else f"; {share:.1%} of ‖Δ‖ is lost with them."
    remedy = f"Give {named('new_tokens', 'all')} to append them."
    if share is not None and share >= LOST_WITH_TOKENS:
        return Gate("tokens", "fail", share, LOST_WITH_TOKENS, f"{words} {remedy}")
    return Gate("tokens", "warn", share, LOST_WITH_TOKENS, f"{words} {remedy}")


def _numbers(evidence: Evidence) -> Gate:
    count = float(evidence.nonfinite)
    if count:
        words = f"{evidence.nonfinite:,} output values would be NaN or infinite; `transfer` names the tensors."
        return Gate("numbers", "fail", count, 0.0, words)
    return Gate("numbers", "pass", count, 0.0, "No output value would be NaN or infinite.")


def _files(evidence: Evidence) -> Gate:
    refused, warned = len(evidence.refusals), len(evidence.warnings)
    if refused:
        words = f"`transfer` would stop: {' '.join(evidence.refusals)}"
        return Gate("files", "fail", float(refused), 0.0, words)
    if warned:
        return Gate("files", "warn", float(warned), 0.0, " ".join(evidence.warnings))
    return Gate("files", "pass", 0.0, 0.0, "Config, tokenizer and chat template merge without conflicts.")


def _doubt(evidence: Evidence, kinds: Sequence[str]) -> Doubt | None:
    return next((doubt for doubt in evidence.doubts if doubt.kind in kinds), None)
