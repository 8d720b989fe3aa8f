"""The learning rates of the rungs that train, where the user gives none.

Half of the fine-tuning's rate was best for distilling tiny models and SmolLM2; at more than a quarter of it, tuning first lost
what was transferred (docs/adapt.md). `tune` leaves the rate beside the model. An adapter takes ten times as much as all
parameters do (Schulman et al., 2025, "LoRA Without Regret").
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tuneport.adaptation.adapt_options import Fitting
from tuneport.errors import CheckpointError
from tuneport.files.json_text import read_json
from tuneport.files.opening import MOST_RECORD_BYTES, read_bytes
from tuneport.output.replacing import TUNING

DISTIL, TUNE = 0.5, 0.25  # of the fine-tuning's rate
USUAL = {"distil": 1e-5, "tune": 1.25e-6}  # where nobody knows that one; the paper fine-tunes at 5e-6
ADAPTER = 10


def with_rates(fitting: Fitting, source: Path | None) -> Fitting:
    """The fitting with both rates; ``source`` is the tuned model's folder, if it has one. Raises `CheckpointError`."""
    known = None if source is None else _rate_of(source)
    adapter = ADAPTER if fitting.lora is not None else 1
    distil, tune = (USUAL["distil"], USUAL["tune"]) if known is None else (DISTIL * known, TUNE * known)
    return replace(
        fitting,
        learning_rate=fitting.learning_rate or distil * adapter,
        tune_learning_rate=fitting.tune_learning_rate or tune * adapter,
    )


def _rate_of(source: Path) -> float | None:
    """The rate that all parameters of the source were fine-tuned at, or would have been, in place of an adapter."""
    try:
        plan = read_json(read_bytes(source / TUNING, source, MOST_RECORD_BYTES))["plan"]
        rate = float(plan["recipe"]["learning_rate"])
        return rate / ADAPTER if plan["lora"] else rate
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{source / TUNING} is damaged ({error!r}). Restore it, or remove it.") from None
