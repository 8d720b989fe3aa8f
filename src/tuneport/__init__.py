"""Carry a fine-tuning from one version of a language model to another: target + (tuned − base).

    import tuneport

    tuneport.transfer(base="v1", tuned="v1-tuned", onto="v2", out="v2-tuned")

The verbs are imported when they are first used, so that importing tuneport costs nothing.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

# Without importing typing, which takes longer than all else here: Ctrl-C meanwhile would end in a traceback (see __main__).
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tuneport.diagnose.path import path as path
    from tuneport.diff.run import apply as apply
    from tuneport.diff.run import diff as diff
    from tuneport.evaluate.run import evaluate as evaluate
    from tuneport.inspecting import inspect as inspect
    from tuneport.publishing import publish as publish
    from tuneport.report.run import report as report
    from tuneport.study.run import study as study
    from tuneport.transfer.run import transfer as transfer
    from tuneport.transfer.verify import verify as verify
    from tuneport.tune.run import tune as tune

__all__ = ["apply", "diff", "evaluate", "inspect", "path", "publish", "report", "study", "transfer", "tune", "verify"]

# Where each verb lives; diff, evaluate, report, study, transfer and tune are packages that can be called (see verbs.py).
_HOMES = {
    "apply": "tuneport.diff.run",
    "inspect": "tuneport.inspecting",
    "path": "tuneport.diagnose.path",
    "publish": "tuneport.publishing",
    "verify": "tuneport.transfer.verify",
}


def __getattr__(name: str) -> Any:
    if name in ("diff", "evaluate", "report", "study", "transfer", "tune"):
        return importlib.import_module(f"tuneport.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tuneport' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
