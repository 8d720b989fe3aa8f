"""What `tuneport adapt` wrote, read back: for each rung its figures, what it retains, and why it was kept or not.

`adaptation_of` makes an `AdaptationResult` from the parsed file. All numbers are the file's own; whoever wrote the file, its texts are texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneport.errors import ReportError
from tuneport.files.json_text import read_json
from tuneport.files.opening import read_text
from tuneport.results.schema import ADAPT_FORMAT
from tuneport.results.torn_json import Interval, interval, mapping, mappings, number_or, text_or, texts, whole

ADD = "add"  # the rung that all others are compared with
SOURCE, TARGET = "source", "target"
_PLAN = "plan.json"  # what a folder has until it is complete
_MOST_BYTES = 16 * 2**20
QUALITY = "quality"  # a part is judged by the user's answers; else by the source's: agreement


@dataclass(frozen=True)
class ReadChange:
    """A difference of shares, with its 95 % interval."""

    value: float
    interval: Interval | None

    @property
    def sign(self) -> int:
        """1 where it is clearly above 0, −1 where it is below, else 0."""
        low, high = self.interval or (0.0, 0.0)
        return 1 if low > 0 else -1 if high < 0 else 0


@dataclass(frozen=True)
class ReadShare:
    """The share of a part's prompts that was answered as wanted. ``change``: against the best so far (select) or add (test)."""

    value: float
    interval: Interval | None
    n: int
    change: ReadChange | None


@dataclass(frozen=True)
class ReadRetention:
    """What is left of what the target could; None: not measured. ``loss`` is in nats per token, ``length`` in tokens."""

    loss: float | None
    ended: float | None
    length: float | None
    repeated: float | None


@dataclass(frozen=True)
class LadderModel:
    """One model's figures; None: not measured."""

    select: ReadShare | None
    test: ReadShare | None
    retention: ReadRetention


@dataclass(frozen=True)
class TriedScale:
    """One α: the share of prompts answered as the tuned source does, and the loss of its answers in nats per token."""

    scale: float
    agreement: float | None
    loss: float | None


@dataclass(frozen=True)
class LayerScale:
    """The α of a kind of tensor in a layer (None: outside the layers)."""

    layer: int | None
    kind: str
    alpha: float


@dataclass(frozen=True)
class ReadRung:
    """One rung. ``start``: the rung that it was trained from; ``starts``: the share of select from each that was tried;
    ``scale`` and ``tried``: the α that was chosen, and all; ``layers``: those of a rung that has one for each kind in each layer.
    """

    name: str
    status: str
    why: str
    measured: LadderModel
    seconds: float | None
    examples: int | None
    steps: int | None
    start: str | None
    final_loss: float | None
    scale: float | None
    tried: tuple[TriedScale, ...]
    layers: tuple[LayerScale, ...]
    starts: Mapping[str, float]
    warnings: tuple[str, ...]

    @property
    def was_tried(self) -> bool:
        """Whether something was done."""
        return self.status != "skipped"


@dataclass(frozen=True)
class PromptPart:
    """Prompts, or texts, that were used: the name of the part, how many, and their digest."""

    name: str
    examples: int | None
    digest: str


@dataclass(frozen=True)
class AdaptationResult:
    """An adaptation, as a page needs it. ``wanted`` are the rungs that were asked for; ``references`` are by role."""

    name: str
    rungs: tuple[ReadRung, ...]
    chosen: str
    wanted: tuple[str, ...]
    select_measure: str
    test_measure: str
    references: Mapping[str, LadderModel]
    inputs: tuple[Mapping[str, Any], ...]
    parts: tuple[PromptPart, ...]
    warnings: tuple[str, ...]
    settings: Mapping[str, Any]
    versions: Mapping[str, Any]

    def rung(self, name: str) -> ReadRung | None:
        """The rung of this name."""
        return next((rung for rung in self.rungs if rung.name == name), None)

    @property
    def is_quality(self) -> bool:
        """Whether figures of the test part are of right answers, not of agreement with the source."""
        return self.test_measure == QUALITY

    def in_a_line(self) -> str:
        """The rung that was chosen, and its figures of the test part."""
        rung = self.rung(self.chosen)
        share = None if rung is None else rung.measured.test
        if share is None:
            return f"{self.chosen} was chosen"
        of = "right answers" if self.is_quality else "agreement with the tuned source (not quality)"
        told = f"{self.chosen} was chosen: {share.value:.1%} {of} on {share.n:,} test prompts"
        if share.change is None or self.chosen == ADD:
            return told
        told += f", {100 * share.change.value:+.1f} points against plain addition"
        if share.change.interval is None:
            return told
        low, high = share.change.interval
        return f"{told} (95 % {100 * low:+.1f} to {100 * high:+.1f})"


def is_adaptation(found: Any) -> bool:
    """Whether what was parsed is an adaptation."""
    return isinstance(found, dict) and found.get("format") == ADAPT_FORMAT


def is_unfinished(folder: Path) -> bool:
    """Whether `tuneport adapt` works in this folder, or was stopped in it."""
    try:
        plan = read_json(read_text(folder / _PLAN, folder, _MOST_BYTES), kept=False)
    except (OSError, ValueError):
        return False  # none, or one that nobody can read: nothing says that it is of `adapt`
    return is_adaptation(plan)


def adaptation_of(found: Mapping[str, Any], name: str) -> AdaptationResult:
    """The adaptation in a parsed file that `is_adaptation`, called ``name``. Raises `ReportError` where it has no rungs."""
    rungs = tuple(map(_rung, mappings(found, "rungs")))
    if not rungs:
        raise ReportError(f"{name}: it has no rungs. Give the adapt.json that `tuneport adapt` wrote.")
    plan, measure, references = (mapping(found, field) for field in ("plan", "measure", "references"))
    return AdaptationResult(
        name=name,
        rungs=rungs,
        chosen=text_or(found.get("chosen"), "?"),
        wanted=texts(plan.get("rungs")) or tuple(rung.name for rung in rungs),
        select_measure=text_or(measure.get("select"), "agreement"),
        test_measure=text_or(measure.get("test"), "agreement"),
        references={role: _model(mapping(references, role)) for role in (TARGET, SOURCE) if mapping(references, role)},
        inputs=mappings(plan, "inputs"),
        parts=tuple(
            PromptPart(text_or(row.get("part"), "?"), whole(row.get("examples")), text_or(row.get("digest"), ""))
            for row in mappings(plan, "data")
        ),
        warnings=texts(found.get("warnings")),
        settings=mapping(plan, "settings"),
        versions=mapping(plan, "versions"),
    )


def _rung(row: Mapping[str, Any]) -> ReadRung:
    starts = {name: _between(told, 0, 1) for name, told in mapping(row, "tried").items()}
    tried = [
        TriedScale(scale, number_or(told.get("agreement"), None), number_or(told.get("loss"), None))
        for name, told in mapping(row, "tried").items()
        if isinstance(told, dict) and (scale := _parsed(name)) is not None
    ]
    return ReadRung(
        name=text_or(row.get("name"), "?"),
        status=text_or(row.get("status"), "?"),
        why=text_or(row.get("why"), ""),
        measured=_model(row),
        seconds=number_or(row.get("seconds"), None),
        examples=whole(row.get("examples")),
        steps=whole(row.get("steps")),
        start=text_or(row.get("from"), None),
        final_loss=number_or(row.get("final_loss"), None),
        scale=number_or(row.get("scale"), None),
        tried=tuple(sorted(tried, key=lambda each: each.scale)),
        layers=tuple(_layer_scales(row)),
        starts={name: value for name, value in starts.items() if value is not None},
        warnings=texts(row.get("warnings")),
    )


def _layer_scales(row: Mapping[str, Any]) -> Iterator[LayerScale]:
    for each in mappings(row, "layers"):
        alpha = number_or(each.get("alpha"), None)
        if alpha is not None:
            yield LayerScale(whole(each.get("layer")), text_or(each.get("kind"), "?"), alpha)


def _model(row: Mapping[str, Any]) -> LadderModel:
    kept = mapping(row, "retention")
    figures = (number_or(kept.get(name), None) for name in ("loss", "ended", "length", "repeated"))
    return LadderModel(_share(mapping(row, "select")), _share(mapping(row, "test")), ReadRetention(*figures))


def _share(told: Mapping[str, Any]) -> ReadShare | None:
    value, change = _between(told.get("value"), 0, 1), mapping(told, "difference")
    if value is None:
        return None
    moved = _between(change.get("value"), -1, 1)
    read = None if moved is None else ReadChange(moved, _ends(change.get("interval"), -1, 1))
    return ReadShare(value, _ends(told.get("interval"), 0, 1), max(0, whole(told.get("n")) or 0), read)


def _between(value: Any, low: float, high: float) -> float | None:
    """A number that a share, or a difference of shares, can be."""
    found: float | None = number_or(value, None)
    return found if found is not None and low <= found <= high else None


def _ends(value: Any, low: float, high: float) -> Interval | None:
    found = interval(value)
    return found if found is not None and low <= found[0] <= found[1] <= high else None


def _parsed(name: str) -> float | None:
    """α, which is a key of the file."""
    try:
        found: float | None = number_or(float(name), None)
    except ValueError:
        return None
    return found
