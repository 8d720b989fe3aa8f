"""Transfer a fine-tuning from one version of a language model to another: target + (tuned − base).

    import tuneport

    tuneport.transfer("v1", "v1-tuned", "v2", "v2-tuned")

Each function is imported at its first use, so importing tuneport is fast.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

# Without importing typing, which takes longer than all else here: Ctrl-C meanwhile would end in a traceback (see __main__).
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tuneport.adaptation.run import adapt as adapt
    from tuneport.comparison.distances import distances as distances
    from tuneport.diagnosis.loss_path import path as path
    from tuneport.diagnosis.pair_comparison import compare as compare
    from tuneport.diffvector.exports.run import export as export
    from tuneport.diffvector.run import apply as apply
    from tuneport.diffvector.run import diff as diff
    from tuneport.diffvector.run import plan as plan
    from tuneport.diffvector.run import transfer as transfer
    from tuneport.inspection import inspect as inspect
    from tuneport.publishing.push import publish as publish
    from tuneport.reporting.run import report as report
    from tuneport.scoring.run import evaluate as evaluate
    from tuneport.studies.run.run import study as study
    from tuneport.tuning.run import tune as tune
    from tuneport.verification import verify as verify

__all__ = [
    "adapt",
    "apply",
    "compare",
    "diff",
    "distances",
    "evaluate",
    "export",
    "inspect",
    "path",
    "plan",
    "publish",
    "report",
    "study",
    "transfer",
    "tune",
    "verify",
]

# Where each public function lives.
_HOMES = {
    "adapt": "tuneport.adaptation.run",
    "apply": "tuneport.diffvector.run",
    "compare": "tuneport.diagnosis.pair_comparison",
    "diff": "tuneport.diffvector.run",
    "distances": "tuneport.comparison.distances",
    "evaluate": "tuneport.scoring.run",
    "export": "tuneport.diffvector.exports.run",
    "inspect": "tuneport.inspection",
    "path": "tuneport.diagnosis.loss_path",
    "plan": "tuneport.diffvector.run",
    "publish": "tuneport.publishing.push",
    "report": "tuneport.reporting.run",
    "study": "tuneport.studies.run.run",
    "transfer": "tuneport.diffvector.run",
    "tune": "tuneport.tuning.run",
    "verify": "tuneport.verification",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tuneport' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*(name for name in globals() if name.startswith("__")), *__all__])  # not the rooms
