"""The public functions of the core: add a fine-tuning to a target (`transfer`), keep it (`diff`), add what was kept
(`apply`), and show beforehand what a run would do (`plan`).

`diff` followed by `apply` gives the same bytes as `transfer`: the same pairing, arithmetic and merge of small files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType

from tuneport.checkpoint.adapter_names import weight_names
from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.open_model import open_checkpoint
from tuneport.diffvector.apply_plan import add_vector
from tuneport.diffvector.extract import as_encoded, plan_diff
from tuneport.diffvector.vector import open_diff
from tuneport.engine.checks.before_writing import look
from tuneport.engine.choices import Choices
from tuneport.engine.plan import Plan
from tuneport.engine.plan_text import PlannedRun, plan_as_json
from tuneport.engine.run import Output, execute
from tuneport.engine.run_options import (
    ApplyOptions,
    DiffOptions,
    Pairs,
    PlanOptions,
    Scaled,
    TransferOptions,
    scales_of,
)
from tuneport.engine.summands.pair_summand import add_pair, plan_transfer
from tuneport.engine.summands.summand import Summand, renames_of_each
from tuneport.engine.summands.summed_plan import plan_sum
from tuneport.options import Place
from tuneport.public_functions import takes


@takes(TransferOptions)
def transfer(given: TransferOptions) -> Output:
    """Write target + (tuned − base) to the folder ``out`` (Lin et al. 2025, section 2).

    ``base``, ``tuned`` and ``onto`` are folders or Hub ids (``org/name@revision``). Several tuned models, each with its base, are
    added one after another, then ``diffs``. Raises `TuneportError` for any problem and leaves ``out`` untouched. The same call
    again resumes a killed run.

        tuneport.transfer("v1", "v1-tuned", "v2", "v2-tuned", scale=0.8, rules={"embed": 0})
        tuneport.transfer("v1", ["v1-chat", "v1-code"], "v2", "v2-both", scale=[1, 0.8])
    """
    plan = plan_of(given.pairs, given.onto, given.diffs, lambda names: given.choices, given.scales.scale)
    return execute(plan, Path(given.out), given.running, given.warn)


@takes(DiffOptions)
def diff(given: DiffOptions) -> Output:
    """Write the diff vector tuned − base to the folder ``out``, coded without loss, with both parents' digests.

    Raises `TuneportError`.

        tuneport.diff("v1", "v1-tuned", "my-diff")
    """
    plan = plan_of([(given.base, given.tuned)], None, (), lambda names: given.choices, encoding=given.encoding)
    return execute(plan, Path(given.out), given.running, given.warn)


@takes(ApplyOptions)
def apply(given: ApplyOptions) -> Output:
    """Write target + Σ scale·Δ to the folder ``out``; the diff vectors are added one after another, in this order.

    A scale of its own replaces ``scale``, and ``rules`` replace every scale. Raises `TuneportError`.

        tuneport.apply("my-diff", "v2", "v2-tuned")
        tuneport.apply({"first-diff": 0.5, "second-diff": 1}, "v2", "v2-both")
    """
    plan = plan_of((), given.onto, given.diffs, lambda names: given.choices, given.scales.scale)
    return execute(plan, Path(given.out), given.running, given.warn)


@takes(PlanOptions)
def plan(given: PlanOptions) -> PlannedRun:
    """Plan a run with these options, from headers and a sample of values; nothing is written. With base, tuned and onto
    it is the plan of `transfer`; without onto, of `diff`; with ``diffs`` and onto alone, of `apply`. Problems that would stop
    the run are in ``plan["refused"]``. Raises `TuneportError` if there can be no plan.

        print(tuneport.plan("v1", "v1-tuned", "v2").in_words())
    """
    found = plan_of(given.pairs, given.onto, given.diffs, lambda names: given.choices, given.scales.scale)
    out = None if given.out is None else Path(given.out)
    return PlannedRun(found, plan_as_json(found, given.running, look(found), out))


def plan_of(
    pairs: Pairs | Sequence[tuple[Place, Place]],
    onto: Place | None,
    diffs: Scaled,
    choices_of: Callable[[Iterable[str]], Choices],
    scale: tuple[float, ...] = (),
    called: Mapping[str, str] = MappingProxyType({}),
    encoding: str = "exact",
) -> Plan:
    """The plan of `transfer` where there are ``pairs`` and ``onto``, of `diff` without the latter, of `apply` with ``diffs`` alone.

    ``choices_of`` gets the names of all tensors that expressions may be for; ``scale`` is that of all, or of each in order (none:
    the choices'). ``called`` are names of models by role, where words are not to tell of them by the place they lie at. ``encoding`` is that of a diff vector
    that is computed.
    """
    opened = [
        (
            open_checkpoint(base, (role := f"base{number}"), called.get(role)),
            open_checkpoint(tuned, (role := f"tuned{number}"), called.get(role)),
        )
        for (base, tuned), number in zip(pairs, _numbers(pairs), strict=True)
    ]
    vectors = [
        open_diff(spec, (role := f"diff{number}"), called.get(role))
        for (spec, _), number in zip(diffs, _numbers(diffs), strict=True)
    ]

    def names() -> list[Iterable[str]]:  # a hundred thousand are listed only where there is an expression
        of_pairs = [chain.from_iterable(map(_names_in, pair)) for pair in opened]
        return [*of_pairs, *(chain(vector.entries, vector.stored.tensors) for vector in vectors)]

    if onto is None:
        plan = plan_diff(*opened[0], choices_of(chain(*names())))
        return as_encoded(plan) if encoding == "exact" else plan
    target = open_checkpoint(onto, "target", called.get("target"))
    choices = choices_of(chain(*names(), target.tensors))
    scales = scales_of(scale or (choices.scale,), [None] * len(pairs) + [own for _, own in diffs])
    if len(opened) == 1 and not vectors:
        return plan_transfer(*opened[0], target, replace(choices, scale=scales[0]))
    own = [replace(choices, renames=renames) for renames in renames_of_each(choices.renames, names())]
    summands: list[Summand] = [
        add_pair(*pair, target, scale, each, f"Δ{number}")
        for pair, scale, each, number in zip(opened, scales, own, _numbers(opened), strict=False)
    ]
    summands += [
        add_vector(vector, target, scale, each, "Δ" if len(scales) == 1 else f"Δ({vector.stored.label})")
        for vector, scale, each in zip(vectors, scales[len(opened) :], own[len(opened) :], strict=True)
    ]
    return plan_sum("transfer" if opened else "apply", summands, target, choices)


def _numbers(several: Sequence[object]) -> list[str]:
    """What tells the roles of several apart; nothing where there is one."""
    return [""] if len(several) == 1 else [str(place + 1) for place in range(len(several))]


def _names_in(checkpoint: Checkpoint) -> Iterable[str]:
    return chain(checkpoint.tensors, weight_names(checkpoint.tensors))
