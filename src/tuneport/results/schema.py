"""The schema of results: names of files, formats, kinds of models, and the fields of results.json.

Nothing of tuneport is imported here. A `Model` is the same over families and seeds (such as M5 + Δ(M4)); a `Run` is one
of its results. Names are the study's own: M4, FT(M4), M5 + Δ(M4), M5 + Δ(M4) → adapted, M5 + Δ(M4) → FT, M5 + Δiter(M4)
→ FT, M5 + Δiter(M4) → adapted → FT, M5 + Δdir(M4) → FT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RESULTS, STUDY, STEPS, RECORD = "results.json", "study.toml", "steps", "record.json"
SCORES, EXAMPLES, CURVE = "scores.json", "scores.examples.jsonl", "model/curve.jsonl"  # in a step's folder
EVALUATION_FORMAT, PATH_FORMAT, COMPARE_FORMAT = "tuneport.evaluation/1", "tuneport.path/1", "tuneport.compare/1"
ADAPTATION, ADAPT_FORMAT = "adapt.json", "tuneport.adapt/1"
RECORD_FORMAT, RESULTS_FORMAT = "tuneport.record/1", "tuneport.results/1"

BASE, TUNED, TRANSFER, THEN_TUNED = "base", "tuned", "transfer", "transfer-then-tune"
ADAPTED = "adapted"  # what the ladder of `adapt` makes of a transfer
ITERATIVE, HEALED, DIRECT = "recycle-iterative", "recycle-healed", "recycle-direct"
# M_i + Δ^iter (adapted or not) and M_i + Δ^dir before their fine-tuning: no models of the paper's tables.
START, HEALED_START, DIRECT_START = "recycle-start", "recycle-healed-start", "recycle-direct-start"
RECYCLED = (DIRECT, ITERATIVE, HEALED)
FURTHER = (THEN_TUNED, *RECYCLED)  # fine-tuned from a transferred start
DONE, FAILED, NOT_RUN, DROPPED = "done", "failed", "not run", "dropped"
PENDING = "pending"  # not run, and nothing that failed is the reason
LOSS = ", loss"  # ends the name of the loss of a task's answers, beside the task itself
_ITER, _DIR = (
    dict.fromkeys((ITERATIVE, HEALED, START, HEALED_START), "Δiter"),
    dict.fromkeys((DIRECT, DIRECT_START), "Δdir"),
)
_DELTA = {**_ITER, **_DIR}  # of the other kinds it is Δ
_CLIMBED = (ADAPTED, HEALED, HEALED_START)


@dataclass(frozen=True)
class Model:
    """What a scored model is. `steps`: fine-tuned until as many went into it in all; None for the study's own number."""

    kind: str
    source: str | None
    target: str
    tuning: str | None = None
    scale: float = 1.0
    rate: float = 1.0
    steps: int | None = None

    @property
    def delta(self) -> str:
        """What was added to its target, and at which rate it was tuned on: Δ(M4)."""
        return f"{_DELTA.get(self.kind, 'Δ')}({self.source}){self._at_rate}"

    @property
    def _at_rate(self) -> str:
        return "" if self.rate == 1 else f" at {self.rate:g} of the rate"

    def name(self, with_tuning: bool = False) -> str:
        """What it is called; the tuning is named where a study has several."""
        of = f", {self.tuning}" if with_tuning and self.tuning and self.kind != BASE else ""
        if self.kind == BASE:
            return self.target
        if self.kind == TUNED:
            return f"FT({self.target}{of})" + ("" if self.steps is None else f" for {self.steps} steps")
        factor = "" if self.scale == 1 else f"{self.scale:g}·"
        added = f"{self.target} + {factor}{_DELTA.get(self.kind, 'Δ')}({self.source}{of})"
        added += " → adapted" if self.kind in _CLIMBED else ""
        if self.kind in (TRANSFER, ADAPTED, START, HEALED_START, DIRECT_START):
            return added
        return f"{added} → FT{self._at_rate}" + ("" if self.steps is None else f", {self.steps} steps in all")


@dataclass(frozen=True)
class Score:
    """The value of a task's metric, its standard error, and of how many examples it is."""

    metric: str
    value: float
    stderr: float | None
    n: int
    higher_is_better: bool = True
    folder: str | None = None  # of the step that scored it
    asked_as: str | None = None  # the task's name in the step's examples, where it is another one

    @property
    def is_share(self) -> bool:
        """Whether it is a share of examples, shown in per cent; a loss is not."""
        return self.higher_is_better and 0 <= self.value <= 1

    @property
    def counts(self) -> bool:
        """Whether it is a number of right answers over the number of examples: then Wilson's interval applies."""
        right = self.value * self.n
        return self.is_share and abs(right - round(right)) < 1e-6


@dataclass(frozen=True)
class Run:
    """One result: a model of one family, fine-tuned with one seed; `step` is a number on a curve, None at the end."""

    model: Model
    family: int | None
    seed: int | None
    step: int | None
    steps_total: int | None  # all fine-tuning steps that went into it; None where others made it
    status: str
    error: str | None
    scores: Mapping[str, Score]
    steps_on_target: int | None = None  # of these, on the version itself

    def goes_with(self, other: Run) -> bool:
        """Whether the two are compared: of one family and seed, or of none where others made it."""
        return other.family in (self.family, None) and other.seed in (self.seed, None)

    @property
    def in_part(self) -> bool:
        """Whether some of its scores are there although not all that was asked was done."""
        return self.status != DONE and bool(self.scores)

    @property
    def pending(self) -> bool:
        """Whether it is still to come: not run, and nothing that failed is the reason."""
        return self.status == NOT_RUN and self.error is None

    @property
    def missing(self) -> bool:
        """Whether nothing of it is there."""
        return self.status != DONE and not self.scores

    @property
    def folders(self) -> tuple[str, ...]:
        """Of the steps that scored it."""
        return tuple(dict.fromkeys(score.folder for score in self.scores.values() if score.folder is not None))
