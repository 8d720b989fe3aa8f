"""Compute and save a diff vector (`diff`), add saved ones to a target (`apply`), and show beforehand what a run would do.

`diff` followed by `apply` gives the same bytes as `transfer`: the same pairing, arithmetic and merge of small files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType

from tuneport.checkpoint.adapter_names import weight_names
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.diffvector.apply_plan import plan_apply
from tuneport.diffvector.extract import plan_diff
from tuneport.diffvector.vector import open_diff
from tuneport.engine.checks.before_writing import look
from tuneport.engine.choices import Choices
from tuneport.engine.plan import Plan, plan_transfer
from tuneport.engine.plan_text import PlannedRun, plan_as_json
from tuneport.engine.run import Output, execute
from tuneport.engine.run_options import ApplyOptions, DiffOptions, PlanOptions, Scaled
from tuneport.options import Place
from tuneport.public_functions import takes


@takes(DiffOptions)
def diff(given: DiffOptions) -> Output:
    """Write the diff vector tuned − base to the folder ``out``, in the working dtype, with both parents' digests.

    Raises `TuneportError`.

        tuneport.diff("v1", "v1-tuned", "my-diff")
    """
    plan = plan_of(given.base, given.tuned, None, None, lambda names: given.choices)
    return execute(plan, Path(given.out), given.running, given.warn)


@takes(ApplyOptions)
def apply(given: ApplyOptions) -> Output:
    """Write target + Σ scale·Δ to the folder ``out``; the diff vectors are added one after another, in this order.

    A scale of its own replaces ``scale``, and ``rules`` replace every scale. Raises `TuneportError`.

        tuneport.apply("my-diff", "v2", "v2-tuned")
        tuneport.apply({"first-diff": 0.5, "second-diff": 1}, "v2", "v2-both")
    """
    plan = plan_of(None, None, given.onto, given.diffs, lambda names: given.choices)
    return execute(plan, Path(given.out), given.running, given.warn)


@takes(PlanOptions)
def plan(given: PlanOptions) -> PlannedRun:
    """Plan a run with these options, from headers and a sample of values; nothing is written. With base, tuned and onto
    it is the plan of `transfer`; without onto, of `diff`; with ``diffs`` and onto, of `apply`. Problems that would stop
    the run are in ``plan["refused"]``. Raises `TuneportError` if there can be no plan.

        print(tuneport.plan("v1", "v1-tuned", "v2").in_words())
    """
    found = plan_of(given.base, given.tuned, given.onto, given.diffs, lambda names: given.choices)
    out = None if given.out is None else Path(given.out)
    return PlannedRun(found, plan_as_json(found, given.running, look(found), out))


def plan_of(
    base: Place | None,
    tuned: Place | None,
    onto: Place | None,
    diffs: Scaled | None,
    choices_of: Callable[[Iterable[str]], Choices],
    called: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """The plan of `apply` where there are ``diffs``, of `transfer` where there is ``onto``, else of `diff`.

    ``choices_of`` gets the names of all tensors that expressions may be for; ``called`` are names of models by role, where words
    are not to tell of them by the place they lie at.
    """

    def opened(spec: Place | None, role: str) -> Checkpoint:
        assert spec is not None, "whoever asks has looked that the parents are there"
        return open_checkpoint(spec, role, called.get(role))

    if diffs:
        roles = ["diff"] if len(diffs) == 1 else [f"diff{i}" for i in range(1, len(diffs) + 1)]
        vectors = [open_diff(spec, role, called.get(role)) for (spec, _), role in zip(diffs, roles, strict=True)]
        target = opened(onto, "target")
        names = (name for vector in vectors for name in (*vector.entries, *vector.stored.tensors))
        choices = choices_of(chain(names, target.tensors))
        return plan_apply(vectors, [choices.scale if own is None else own for _, own in diffs], target, choices)
    parents = opened(base, "base"), opened(tuned, "tuned")
    names = (name for parent in parents for name in chain(parent.tensors, weight_names(parent.tensors)))
    if onto is None:
        return plan_diff(*parents, choices_of(names))
    target = opened(onto, "target")
    return plan_transfer(*parents, target, choices_of(chain(names, target.tensors)))
