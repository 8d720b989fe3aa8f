"""Turn a study into a graph of steps, in the words of the paper: sections 4, 5 and 6, and Algorithm 1.

Every model that is made is evaluated. `study_models.py` says how each of them is made, `steps.py` what a step takes;
this module decides which are needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tuneport.results.schema import HEALED, HEALED_START, ITERATIVE, START, TUNED, Model
from tuneport.studies.declared import Pair, Study
from tuneport.studies.graph.graph import Graph
from tuneport.studies.graph.steps import Builder, StudyModel
from tuneport.studies.graph.study_inputs import Inputs
from tuneport.studies.graph.study_models import PaperModels, result_row

BEYOND = 1.5  # how far along target + α·Δ the loss is followed


def build(study: Study, inputs: Inputs) -> Graph:
    """The graph of everything that the file asks for."""
    builder = Builder(study, inputs)
    for family in study.each_family:
        _bases(builder, family)
        for seed in study.seeds:
            run = PaperModels(builder, family, seed)
            _fine_tunings(run)
            _transfers(run)
            _adaptations(run)
            _transfers_then_tunings(run)
            _recyclings(run)
            _same_totals(run)
            _paths(run)
            _distances(run)
            _comparisons(run)
    return builder.graph()


def _bases(builder: Builder, family: int | None) -> None:
    """M_i, as pretraining left it."""
    for version in builder.study.versions:
        base = builder.base(version.name, family)
        for evaluation in builder.study.evaluations.values():
            builder.ask(base, evaluation, [result_row(base)])


def _fine_tunings(run: PaperModels) -> None:
    """FT(M_i), for every version that has or can have one."""
    for version in run.study.versions:
        for tuning in run.study.tuning_names:
            tuned = run.tuned(version.name, tuning)
            if tuned is not None:
                run.evaluate(tuned)


def _transfers(run: PaperModels) -> None:
    """M_i + Δ_j (sections 2 to 4), and M_i + α·Δ_j."""
    for source, target in run.study.doing.transfer:
        for tuning in run.tunings_of(source):
            for scale in run.study.doing.scales:
                run.evaluate(run.transfer(source, target, tuning, scale))


def _adaptations(run: PaperModels) -> None:
    """What the ladder makes of M_i + Δ_j: adapted on prompts, without labels."""
    for source, target in run.study.doing.adapt:
        for tuning in run.tunings_of(source):
            run.evaluate(run.adapt(source, target, tuning))


def _transfers_then_tunings(run: PaperModels) -> None:
    """FT(M_i + Δ_j) (section 5), and the same at a reduced rate, reported separately."""
    for source, target in run.study.doing.transfer_then_tune:
        for tuning in run.trainable_of(source):
            for rate in run.rates:
                run.evaluate(run.transfer_then_tune(source, target, tuning, rate))


def _recyclings(run: PaperModels) -> None:
    """Algorithm 1 along each chain, iteratively, directly from FT(M_{i−1}), and healed at each version where asked."""
    heal = run.study.doing.healing.heal
    for chain in chains(run.study.doing.recycle):
        for tuning in run.trainable_of(chain[0]):
            for before, version, iterative in algorithm_1(run, chain, tuning):
                run.evaluate(iterative)
                for direct in _directly(run, before, version, tuning, iterative.steps_total):
                    run.evaluate(direct)
            for _, _, healed in algorithm_1(run, chain, tuning, heal) if heal is not None else ():
                run.evaluate(healed)


def _directly(run: PaperModels, before: str, version: str, tuning: str, total: int | None) -> Iterator[StudyModel]:
    """Direct recycling for the paper's steps, and until as many went into it in all as into the iterative one."""
    direct = run.recycle_directly(before, version, tuning)
    yield direct
    if run.study.doing.same_total and None not in (total, direct.steps_total) and total != direct.steps_total:
        yield run.recycle_directly(before, version, tuning, total)


def algorithm_1(
    run: PaperModels, chain: tuple[str, ...], tuning: str, heal: str | None = None
) -> Iterator[tuple[str, str, StudyModel]]:
    """M*_2 … M*_n of Algorithm 1, each with the version before and its own; M*_1 is FT(M_1).

    With ``heal`` each transfer climbs the ladder as far as that rung before its fine-tuning.
    """
    starred = run.tuned(chain[0], tuning)  # line 4
    assert starred is not None, "the file was checked"
    for before, version in itertools.pairwise(chain):  # line 5
        start = Model(START if heal is None else HEALED_START, before, version, tuning)
        carried = run.plus_delta(starred, start) if heal is None else run.heal(starred, start, heal)  # line 6
        run.evaluate(carried)
        run.rounding(before, starred)
        kind = ITERATIVE if heal is None else HEALED
        starred = run.fine_tune(carried, replace(carried.what, kind=kind))  # line 7
        yield before, version, starred


def _same_totals(run: PaperModels) -> None:
    """FT(M_i) for as many steps as went into each model that was fine-tuned from a transferred start, in all."""
    if not run.study.doing.same_total:
        return
    for target, tuning, steps in list(dict.fromkeys(run.totals)):
        if run.can_be_tuned_longer(target, tuning):
            run.evaluate(run.fine_tune_base(Model(TUNED, None, target, tuning, steps=steps)))


def _paths(run: PaperModels) -> None:
    """Loss on the straight line between two versions, their tuned models, and a transferred and a tuned one."""
    lines = run.study.lines
    for source, target in run.study.doing.paths:
        if lines.text:
            a, b = _in_order(run.study, source, target)
            run.path(run.base(a), run.base(b), lines.text, "bases", (a, b), None)
        for tuning in run.tunings_of(source) if lines.data else ():
            one, other = (run.tuned(name, tuning) for name in _in_order(run.study, source, target))
            if one is not None and other is not None:
                run.path(one, other, lines.data, "tuned", (one.what.target, other.what.target), tuning)
            moved = run.transfer(source, target, tuning)
            run.path(run.base(target), moved, lines.data, "along Δ", (source, target), tuning, beyond=BEYOND)
            tuned_target = run.tuned(target, tuning)
            if tuned_target is not None:
                run.path(moved, tuned_target, lines.data, "transferred to tuned", (source, target), tuning)


def _distances(run: PaperModels) -> None:
    """‖M_i − M_j‖, ‖Δ_i‖ and the cosine of Δ_i and Δ_j."""
    for source, target in run.study.doing.distances:
        a, b = _in_order(run.study, source, target)
        tunings = {version: run.tunings_of(version) for version in (a, b)}
        shared = [name for name in tunings[a] if name in tunings[b]]
        for tuning in shared or [*tunings[a], *tunings[b]]:  # if they share none, the norm of each is reported
            run.distance(a, b, tuning)
        if not any(tunings.values()):
            run.distance(a, b, None)


def _comparisons(run: PaperModels) -> None:
    """What `compare` says of carrying Δ_j onto M_i, before it is done."""
    for source, target in run.study.doing.compare:
        for tuning in run.tunings_of(source):
            run.compare(source, target, tuning)


def chains(pairs: Iterable[Pair]) -> list[tuple[str, ...]]:
    """Pairs, each of which begins where the one before ended, as chains of versions.

    >>> chains([("M1", "M2"), ("M2", "M3"), ("M4", "M5")])
    [('M1', 'M2', 'M3'), ('M4', 'M5')]
    """
    found: list[tuple[str, ...]] = []
    for source, target in pairs:
        if found and found[-1][-1] == source:
            found[-1] = (*found[-1], target)
        else:
            found.append((source, target))
    return found


def _in_order(study: Study, one: str, other: str) -> Pair:
    """Two versions in the file's order: what has no direction is done once."""
    names = [version.name for version in study.versions]
    first, second = sorted((one, other), key=names.index)
    return first, second
