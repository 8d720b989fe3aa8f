"""Take a diff vector and keep it; add kept ones to a target; say beforehand what a run would do.

Taking and then adding gives, byte for byte, what `transfer` gives: the same pairing, the same arithmetic, the same merge of
sidecars.
"""

from __future__ import annotations

from pathlib import Path

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
    inputs = open_checkpoint(given.base, "base"), open_checkpoint(given.tuned, "tuned")
    return execute(plan_diff(*inputs, given.choices), Path(given.out), given.running, given.warn)


@takes(ApplyOptions)
def apply(given: ApplyOptions) -> Output:
    """Write target + Σ scale·Δ to the folder ``out``; the diff vectors are added one after another, in this order.

    A scale of its own replaces ``scale``, and ``rules`` replace every scale. Raises `TuneportError`.

        tuneport.apply("my-diff", "v2", "v2-tuned")
        tuneport.apply({"first-diff": 0.5, "second-diff": 1}, "v2", "v2-both")
    """
    plan = plan_of(given.diffs, given.onto, given.choices)
    return execute(plan, Path(given.out), given.running, given.warn)


@takes(PlanOptions)
def plan(given: PlanOptions) -> PlannedRun:
    """What a run with these options would do, from headers and a sample of values; nothing is written.

    With base, tuned and onto it is the plan of `transfer`; without onto, of `diff`; with ``diffs`` and onto, of `apply`. What would
    be refused stands in it (``plan["refused"]``). Raises `TuneportError` where there can be no plan.

        print(tuneport.plan("v1", "v1-tuned", "v2").in_words())
    """
    if given.diffs is not None:
        assert given.onto is not None, "PlanOptions asks for it"
        found = plan_of(given.diffs, given.onto, given.choices)
    else:
        assert given.base is not None and given.tuned is not None, "PlanOptions asks for them"
        parents = open_checkpoint(given.base, "base"), open_checkpoint(given.tuned, "tuned")
        if given.onto is None:
            found = plan_diff(*parents, given.choices)
        else:
            found = plan_transfer(*parents, open_checkpoint(given.onto, "target"), given.choices)
    out = None if given.out is None else Path(given.out)
    return PlannedRun(found, plan_as_json(found, given.running, look(found), out))


def plan_of(diffs: Scaled, onto: Place, choices: Choices) -> Plan:
    """The plan of `apply`, from headers alone."""
    vectors = [open_diff(spec, "diff" if len(diffs) == 1 else f"diff{i}") for i, (spec, _) in enumerate(diffs, 1)]
    scales = [choices.scale if scale is None else scale for _, scale in diffs]
    return plan_apply(vectors, scales, open_checkpoint(onto, "target"), choices)
