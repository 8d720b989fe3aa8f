"""What the models' own files say against the roles: one names another as what it was made from."""

from __future__ import annotations

from collections.abc import Sequence

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.comparison.model_roles import Doubt
from tuneport.engine.checks.named_parents import is_called, named_parents
from tuneport.errors import named


def named_doubts(inputs: Sequence[Checkpoint]) -> tuple[Doubt, ...]:
    """Doubts from the names that stand in cards and configs. An adapter's own are told where it is laid onto its base."""
    given = {checkpoint.role: checkpoint for checkpoint in inputs}
    base, tuned, target = (given.get(role) for role in ("base", "tuned", "target"))
    if base is None or tuned is None or tuned.adapter is not None:
        return ()
    if _made_from(base, tuned) and not _made_from(tuned, base):
        return (
            Doubt(
                "base-names-tuned",
                f"base and tuned look swapped: the files of the base ({base.label}) say that it was made from {tuned.label}, "
                f"which is given as {named('tuned')}.",
            ),
        )
    if target is not None and _made_from(tuned, target) and not _made_from(tuned, base):
        return (
            Doubt(
                "tuned-names-target",
                f"base and target look swapped: the files of the tuned model ({tuned.label}) say that it was made from "
                f"{target.label}, which is given as {named('onto')}, and do not name {base.label}.",
            ),
        )
    if target is not None and _made_from(target, tuned):
        return (
            Doubt(
                "target-names-tuned",
                f"the target seems to hold this fine-tuning already: its files ({target.label}) say that it was made from "
                f"{tuned.label}, which is given as {named('tuned')}.",
            ),
        )
    return ()


def _made_from(model: Checkpoint, parent: Checkpoint) -> bool:
    """Whether a model's files name the other one, and that is not also its own name."""
    names = [name for name in named_parents(model) if not is_called(model, name)]
    return any(is_called(parent, name) for name in names)
