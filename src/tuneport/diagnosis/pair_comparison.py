"""`compare`: will a transfer work for this pair? Answered from the weights, before anything is written.

Each target (or each stored diff vector) is planned as by `transfer` and measured in one pass. Gates and verdict follow
from the measures; several targets are ranked.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.open_model import fetched, open_checkpoint
from tuneport.checkpoint.reading import readers_by_role
from tuneport.comparison.transfer_verdict import RANK
from tuneport.comparison.tuned_target import agreement
from tuneport.diagnosis.compare_options import CompareOptions
from tuneport.diffvector.run import plan_of
from tuneport.engine.budget import DEFAULT_MAX_MEMORY_PARSING, budget
from tuneport.engine.checks.before_writing import look, settle
from tuneport.engine.checks.conclusion import lost_norm
from tuneport.engine.checks.expected_verdict import judged
from tuneport.engine.measured.matrix_spectra import matrix_spectra, room_for_spectra
from tuneport.engine.measured.measured_run import measure
from tuneport.engine.plan import Plan
from tuneport.errors import OutputError, TakenError, named, recorded, spoken
from tuneport.files.json_text import chunks, finite
from tuneport.files.writing import told, whole
from tuneport.options import Place
from tuneport.output.replacing import read_record
from tuneport.progress import Progress
from tuneport.public_functions import takes
from tuneport.results.comparison_reading import FIGURE_NAMES
from tuneport.results.schema import COMPARE_FORMAT
from tuneport.shown import Found, Shown

if TYPE_CHECKING:
    from tuneport.diagnosis.probing.prompt_probe import Probe

_SHARES = ("changed_share", "opposed_share", "unchanged_share")


class PairComparison(Found):
    """One target (or one stored diff vector) compared, by key as its JSON is (docs/formats.md)."""

    @property
    def name(self) -> str:
        """What was compared with what: the last input is the target."""
        names = [each["name"] for each in self["inputs"]]
        return f"{' − '.join(reversed(names[:-1]))} onto {names[-1]}"

    def heading(self) -> str:
        """One line: the verdict and its first reason."""
        verdict = self["verdict"]
        return f"{self.name}: {verdict['word']}. {verdict['reasons'][0]}"

    def table(self) -> list[list[str]]:
        """The figures of all tensors, of matrices, of those in layers, and of all that are none."""
        measures = self["measures"]
        parts = (measures, *(measures[part] for part in ("matrices", "inner", "vectors")))
        rows = [[words, *(_shown(name, part[name]) for part in parts)] for name, words in FIGURE_NAMES.items()]
        if self["tuned_target"] is not None:
            of_target = self["tuned_target"]
            rows.append(["cosine of Δ and the target's own", _shown("", of_target["cosine_diffs"]), "–", "–", "–"])
            rows.append(["entries with the same sign in both", _percent(of_target["sign_agreement"]), "–", "–", "–"])
        return [["", "all tensors", "matrices", "of these in layers", "norms and biases"], *rows]

    def probe_table(self) -> list[list[str]] | None:
        """What prompts and texts say of tuned, target and target + Δ; None where they were not asked."""
        if self["probe"] is None:
            return None
        from tuneport.diagnosis.probing.probe_record import probe_rows

        return probe_rows(self["probe"])


class Ranking(Shown, Sequence[PairComparison]):
    """Several comparisons, the best first."""

    def __init__(self, comparisons: Sequence[PairComparison]) -> None:
        self._ranked = tuple(comparisons)

    def __len__(self) -> int:
        return len(self._ranked)

    def __getitem__(self, place: Any) -> Any:
        return self._ranked[place]

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {"ranked": [one.to_dict() for one in self._ranked]}

    def heading(self) -> str:
        """One line: how many, and which is the best."""
        return f"{len(self)} compared; the best is {self._ranked[0].heading()}"

    def table(self) -> list[list[str]]:
        """A row for each, the best first."""
        head = [
            "",
            "verdict",
            "‖target − base‖ / ‖base‖",
            "‖Δ‖ / ‖base‖",
            "cosine of base and target",
            "failed or doubtful",
        ]
        return [head, *(_row(number, one) for number, one in enumerate(self._ranked, 1))]


def _row(number: int, one: PairComparison) -> list[str]:
    measures = one["measures"]
    figures = [_shown(name, measures[name]) for name in ("relative_shift", "relative_diff", "cosine_base_target")]
    doubtful = [gate["name"] for gate in one["gates"] if gate["status"] != "pass"]
    return [f"{number}. {one.name}", one["verdict"]["word"], *figures, ", ".join(doubtful) or "–"]


def _shown(name: str, value: float | None) -> str:
    if name in _SHARES:
        return _percent(value)
    return "–" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


@takes(CompareOptions)
def compare(given: CompareOptions) -> PairComparison | Ranking:
    """Predict from the weights whether transferring tuned − base to a target will work; only ``out`` is written.

    With prompts (``probe``) and texts (``retain``) the models are also run, target + Δ in memory. Base, tuned and target
    are read once, within the memory limit. Gates come first (unrelated models, swapped roles, rounding, tokens), then the
    verdict: ``likely``, ``uncertain`` or ``unlikely``, with its reasons. For several targets (``onto``) or stored diff
    vectors (``diffs``) a `Ranking` is returned, the best first. Raises `TuneportError`.

        tuneport.compare("v1", "v1-tuned", "v2")
        tuneport.compare("v1", "v1-tuned", "v2", probe="prompts.jsonl", retain="texts.jsonl")
    """
    out = None if given.out is None else Path(given.out)
    if out is not None:
        _check_place(out, given.running.overwrite)
    probe = _probe_of(given)
    compared = [(onto, plan, _compared(plan, given)) for onto, plan in _plans(given)]
    compared.sort(key=lambda each: _rank(each[2]))
    found = [one for _, _, one in compared] if probe is None else list(_probed(probe, compared))
    if out is not None:
        with told(out), whole(out) as file:
            written = [_worded(one, recorded) for one in found]
            for text in chunks(written[0] if len(written) == 1 else written):
                file.write(text.encode())
            file.write(b"\n")
    found = [PairComparison(_worded(one, spoken)) for one in found]
    return found[0] if len(found) == 1 else Ranking(found)


def _worded(one: PairComparison, words: Callable[[Iterable[str]], Sequence[str]]) -> dict[str, Any]:
    """The record with its sentences as ``words`` writes the options in them."""
    verdict, roles = one["verdict"], one["roles"]
    return {
        **one,
        "roles": {**roles, "doubts": [{**each, "message": words([each["message"]])[0]} for each in roles["doubts"]]},
        "gates": [{**gate, "reason": words([gate["reason"]])[0]} for gate in one["gates"]],
        "verdict": {**verdict, "reasons": list(words(verdict["reasons"]))},
    }


def _check_place(out: Path, overwrite: bool) -> None:
    """Refuse a place with other contents. Raises `OutputError`."""
    if not out.parent.is_dir():
        raise OutputError(f"{out}: the folder {out.parent} does not exist. Create it first.")
    if not os.path.lexists(out):
        return
    if out.is_symlink() or out.is_dir() or not _is_comparison(out):
        raise TakenError(f"{out} exists and is not a comparison written by tuneport. Choose another {named('out')}.")
    if not overwrite:
        raise TakenError(f"{out} exists. Give {named('overwrite')} to replace it, or choose another {named('out')}.")


def _is_comparison(file: Path) -> bool:
    """Whether a file has the form that `compare` writes: one object, or a list of them."""
    try:
        found = read_record(file)
    except (OSError, ValueError):
        return False
    first = found[0] if isinstance(found, list) and found else found
    return isinstance(first, Mapping) and first.get("format") == COMPARE_FORMAT


def _probe_of(given: CompareOptions) -> Probe | None:
    """What is asked, looked over before weights are read; its modules are imported where something is asked."""
    if not given.probing.probe and not given.probing.retain:
        return None
    from tuneport.diagnosis.probing.prompt_probe import prepared

    return prepared(given.probing, given.base, given.tuned, given.running.workers)


def _probed(probe: Probe, compared: Sequence[tuple[Place, Plan, PairComparison]]) -> Iterator[PairComparison]:
    """Each with what prompts and texts say; a pair that a transfer would refuse cannot be asked."""
    asked = [plan for _, plan, one in compared if not _unasked(plan, one)]
    with Progress("probe", bool(probe.given.probe) + 2 * len(asked), "models", rate=False) as progress:
        for onto, plan, one in compared:
            yield one if _unasked(plan, one) else PairComparison({**one, "probe": probe.of(plan, onto, progress)})


def _unasked(plan: Plan, one: PairComparison) -> bool:
    """Whether there is no output that could be asked: the gates say why."""
    return bool(plan.refusals) or any(gate["name"] == "numbers" and gate["status"] == "fail" for gate in one["gates"])


def _plans(given: CompareOptions) -> Iterator[tuple[Place, Plan]]:
    for onto in given.onto:
        for diff in given.diffs or (None,):
            pairs = [] if given.base is None or given.tuned is None else [(given.base, given.tuned)]
            yield onto, plan_of(pairs, onto, () if diff is None else (diff,), lambda names: given.choices)


def _compared(plan: Plan, given: CompareOptions) -> PairComparison:
    seen = look(plan)
    running, limit, more = given.running, plan.default_limit, plan.more_memory
    if given.spectrum:
        limit, more = DEFAULT_MAX_MEMORY_PARSING, more + room_for_spectra(plan)
    pool = budget(running.memory_limit, running.workers, limit, more, plan.leaves)
    inputs = tuple(fetched(checkpoint) for checkpoint in plan.inputs)
    with readers_by_role(inputs) as readers:
        run = measure(plan, readers, pool)
        measured = run.measured()
        lost = lost_norm(plan, readers)
        spectra = matrix_spectra(plan, readers, pool) if given.spectrum else {}
        for reader in readers.values():
            reader.check_unchanged()
    measures = measured.whole()
    roles = settle(seen, measured.roles(), measures["norm_shift"])
    gates, verdict = judged(plan, roles, measured.roles(), measures, lost, run.nonfinite)
    return PairComparison(
        {
            "format": COMPARE_FORMAT,
            "inputs": [finite(each.identity()) for each in plan.inputs],
            "formula": plan.formula,
            "measures": measures,
            "layers": measured.layers(),
            "tensors": measured.tensors(spectra),
            "tuned_target": None if given.tuned_target is None else _agreement(inputs, given.tuned_target),
            "roles": roles.record(),
            "gates": [gate.record() for gate in gates],
            "config_differences": [finite(asdict(each)) for each in plan.differences],
            "probe": None,
            "verdict": verdict.record(),
        }
    )


def _agreement(inputs: Sequence[Checkpoint], tuned_target: Place) -> dict[str, Any]:
    base, tuned, target = inputs
    return agreement(base, tuned, target, fetched(open_checkpoint(tuned_target, "tuned target")))


def _rank(one: PairComparison) -> tuple[int, float, float]:
    """The better verdict first, then the larger predicted gain, then the shorter way."""
    verdict, distance = one["verdict"], one["measures"]["relative_shift"]
    gain = verdict["gain"][1] if verdict["gain"] else 0.0
    return RANK[verdict["word"]], -gain, math.inf if distance is None else distance
