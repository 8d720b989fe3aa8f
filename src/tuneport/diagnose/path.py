"""The verb: loss, and accuracy where the data has answers, along the straight line between two models; the barrier.

Read `path` from top to bottom: find everything and tell every fault, plan, load the second model once, move it from point
to point, set more points where the losses of one half of the data bend, and say how high the barrier is on the other half.
A killed run goes on from the points it has; a record is never half there.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.open import open_checkpoint
from tuneport.checkpoint.reading import TensorReader
from tuneport.checkpoint.tokenizer import tokenizer_fingerprint
from tuneport.diagnose.bend import barrier, halves, next_point, rises, token_mean
from tuneport.diagnose.line import Line, joined, laid, opened
from tuneport.errors import NumericsError, ScoringError, TuneportError, UsageError
from tuneport.evaluate import measures
from tuneport.evaluate.asking import Asking, ask_own
from tuneport.evaluate.examples import OwnTask, read_tasks
from tuneport.evaluate.harness import quietly
from tuneport.evaluate.keeping import Kept, already_done, examples_file, keeping
from tuneport.evaluate.models import Loading, Seat, find_models, load, look_over, names_of, need_harness
from tuneport.evaluate.outcomes import TaskResult
from tuneport.evaluate.run import checked_batch_size, digest_of_task, template_text, versions
from tuneport.pairing.shared import Shared
from tuneport.transfer.budget import budget
from tuneport.transfer.digests import tensor_digests
from tuneport.transfer.run import fetched

FORMAT = "tuneport-path-1"
POINTS = 5
REFINE = 4
_FEWEST = 4  # two examples to locate a peak, two to measure it


@dataclass(frozen=True)
class Points:
    """Where losses are measured: `alphas` to begin with (0 and 1 always), then `refine` more where they bend."""

    alphas: tuple[float, ...]
    refine: int


@dataclass(frozen=True)
class _Data:
    """The examples as they are asked: the loss of each, and its answer where that is wanted."""

    losses: tuple[OwnTask, ...]
    answers: tuple[OwnTask, ...]

    @property
    def everything(self) -> tuple[OwnTask, ...]:
        return self.losses + self.answers

    @property
    def tasks(self) -> list[str]:
        """The task of each example, in order."""
        return [task.name for task in self.losses for _ in task.examples]


@dataclass(frozen=True)
class _Point:
    """What was measured at one point: each example's loss a token and its tokens, and whether its answer was right."""

    results: tuple[TaskResult, ...]
    count: int  # how many of the results are losses

    @property
    def losses(self) -> NDArray[np.float64]:
        return np.array([score for result in self.results[: self.count] for score in result.scores])

    @property
    def tokens(self) -> NDArray[np.float64]:
        return np.array([weight for result in self.results[: self.count] for weight in result.weights])

    @property
    def right(self) -> list[bool]:
        return [score == 1.0 for result in self.results[self.count :] for score in result.scores]


def path(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    data: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    points: int | None = None,
    refine: int | None = None,
    alphas: Sequence[float] | None = None,
    beyond: float | None = None,
    threshold: float | None = None,
    loss_only: bool = False,
    match: str | None = None,
    max_new_tokens: int = 256,
    chat_template: str | Path | None = None,
    device: str | None = None,
    batch_size: int | str = 16,
    seed: int = 0,
    allow_config: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Measure loss (and accuracy) on the straight line from `a` (α = 0) to `b` (α = 1), and the barrier between them.

    `data` are JSONL files of one's own examples (docs/formats.md): texts, or questions with answers, whose loss is that of
    the answer's tokens; answers are generated too unless `loss_only`. `points` (5) are set at equal distances, `refine`
    (4) more where the loss rises and bends; or `alphas` says where. `beyond` goes on past 1, to b + (beyond − 1)·(b − a).
    Interpolation and arithmetic are float32; config, tokenizer and template are b's throughout; where a's config would
    compute otherwise there is no line, unless `allow_config`. The barrier is *connected*
    or not against `threshold` (nats a token), if one was stated. With `out` the record is written there, every example's
    outcome beside it. Returns the record; raises `TuneportError`.
    """
    need_harness("hf")
    wanted = _points(points, refine, alphas, beyond)
    if threshold is not None and not (math.isfinite(threshold) and threshold >= 0):
        raise UsageError(f"--threshold {threshold}: give a rise of loss from 0 on, in nats a token.")
    out = None if out is None else Path(out).expanduser()
    asking = Asking(match=match, max_new_tokens=max_new_tokens)
    examples = _examples(data, loss_only)
    one, other = fetched(open_checkpoint(a, "A")), fetched(open_checkpoint(b, "B"))
    names = names_of([os.fspath(a), os.fspath(b)])
    shared, otherwise = joined(one, other, allow_config=allow_config)
    seat = replace(find_models([os.fspath(b)])[0], name=names[1])
    loading = Loading("hf", device, "float32", checked_batch_size(batch_size), template_text(chat_template))
    with ExitStack() as stack:
        readers = stack.enter_context(opened(one, other))
        plan: dict[str, Any] = {
            "format": FORMAT,
            "a": {"name": names[0], **_identity(one, readers[0])},
            "b": {"name": names[1], **_identity(other, readers[1]), "manners": seat.identity.get("manners")},
            "data": [{"task": task.name, "digest": digest_of_task(task)} for task in examples.everything],
            "settings": {
                **asdict(wanted),
                "threshold": threshold,
                "match": match,
                "max_new_tokens": max_new_tokens,
                "device": device,
                "chat_template": loading.chat_template,
                "seed": seed,
                "allow_config": allow_config,
            },
            "versions": versions(),
        }
        plan = json.loads(json.dumps(plan))  # as it stands in the record: lists, not tuples
        if out is not None and (done := already_done(out, plan, overwrite)) is not None:
            return {**done, "already_done": True}
        kept = None if out is None else stack.enter_context(keeping(out, plan, overwrite))
        stack.enter_context(quietly())
        needs_template = any(example.messages for task in examples.losses for example in task.examples)
        warnings = _told(shared, otherwise, names) + look_over(seat, loading, needs_template=needs_template).warnings
        measuring = _Measuring(seat, loading, shared, readers, examples, asking, kept, warnings)
        locating = halves(examples.tasks, seed)
        found = _along(measuring, wanted, locating)
        record = _record(found, names, examples, locating, shared, threshold, warnings, plan, out)
        if kept is not None:
            kept.finish(record, _lines(found, examples, locating))
    return {**record, "plan": plan, "already_done": False}


@dataclass
class _Measuring:
    """Measures points; the model is loaded for the first one that an earlier run has not measured."""

    seat: Seat
    loading: Loading
    shared: Shared
    readers: tuple[TensorReader, TensorReader]
    examples: _Data
    asking: Asking
    kept: Kept | None
    warnings: list[str]
    done: int = 0
    loaded: tuple[Any, Line] | None = None

    def at(self, alpha: float) -> _Point:
        """Everything asked at one point. Points are measured in the same order by every run of a plan."""
        results = []
        there = False
        for number, task in enumerate(self.examples.everything):
            earlier = None if self.kept is None else self.kept.get(self.done, number)
            if earlier is None:
                model, line = self._model()
                if not there:
                    line.put(alpha)
                    there = True
                _progress(f"α = {alpha:g} (point {self.done + 1}): {task.name}")
                before = len(self.warnings)
                result = _ask(task, model, self.asking, alpha)
                earlier = result, self.warnings[before:]
                if self.kept is not None:
                    self.kept.put(self.done, number, *earlier)
            else:
                self.warnings += earlier[1]
            results.append(earlier[0])
        self.done += 1
        point = _Point(tuple(results), len(self.examples.losses))
        if not np.isfinite(point.losses).all():
            raise NumericsError(
                f"At α = {alpha:g} the loss is NaN or infinite. Choose points nearer to the two models."
            )
        return point

    def _model(self) -> tuple[Any, Line]:
        if self.loaded is None:
            model = load(self.seat, self.loading, self.warnings.extend)
            self.loaded = model, laid(model.model, f"B {self.seat.name}", self.shared, self.readers)
        return self.loaded


def _along(measuring: _Measuring, wanted: Points, locating: NDArray[np.bool_]) -> dict[float, _Point]:
    """All points, in order: those asked for, then those that the losses of the locating half ask for."""
    found = {alpha: measuring.at(alpha) for alpha in wanted.alphas}
    for turn in range(wanted.refine):
        curve = {a: token_mean(point.losses[locating], point.tokens[locating]) for a, point in found.items()}
        alpha = next_point(curve, turn)
        if alpha is None:
            break
        found[alpha] = measuring.at(alpha)
    return dict(sorted(found.items()))


def _record(
    found: Mapping[float, _Point],
    names: Sequence[str],
    examples: _Data,
    locating: NDArray[np.bool_],
    shared: Shared,
    threshold: float | None,
    warnings: Sequence[str],
    plan: Mapping[str, Any],
    out: Path | None,
) -> dict[str, Any]:
    """What `--out` holds, apart from the plan (see docs/formats.md)."""
    seed = plan["settings"]["seed"]
    tokens = found[0.0].tokens
    assert all((point.tokens == tokens).all() for point in found.values()), "one tokenizer, the same tokens"
    losses = {alpha: point.losses for alpha, point in found.items()}
    drawn = measures.weighted_means(np.array(list(losses.values())), tokens, seed=seed)
    curve = {alpha: token_mean(of_point, tokens) for alpha, of_point in losses.items()}
    high = barrier(losses, tokens, locating, seed)
    record: dict[str, Any] = {
        "format": FORMAT,
        "a": names[0],
        "b": names[1],
        "data": "answers" if examples.losses[0].examples[0].question else "texts",
        "n": len(tokens),
        "tokens": int(tokens.sum()),
        "alphas": list(curve),
        "loss": list(curve.values()),
        "loss_interval": [list(measures.central(column)) for column in drawn.T],
        "rise": [rises(curve).get(alpha) for alpha in curve],
        "accuracy": None,
        "accuracy_interval": None,
        "barrier": None if high is None else high.value,
        "interval": None if high is None else list(high.interval),
        "at": None if high is None else high.at,
        "threshold": threshold,
        "connected": None if high is None else high.connected(threshold),
        "halves": {
            name: _half(losses, tokens, part) for name, part in (("locating", locating), ("measuring", ~locating))
        },
        "tasks": _by_task(found, examples),
    }
    if examples.answers:
        right = [measures.accuracy(point.right) for point in found.values()]
        record["accuracy"] = [estimate.value for estimate in right]
        record["accuracy_interval"] = [list(estimate.interval) for estimate in right]
    return {
        **record,
        "rows": None
        if shared.tokens is None
        else {"matched": shared.tokens[0], "only_a": shared.tokens[1][0], "only_b": shared.tokens[1][1]},
        "warnings": list(dict.fromkeys(warnings)),
        "settings": plan["settings"],
        "versions": plan["versions"],
        "examples": None if out is None else examples_file(out).name,
    }


def _half(losses: Mapping[float, NDArray[Any]], tokens: NDArray[Any], part: NDArray[np.bool_]) -> dict[str, Any]:
    means = [token_mean(of_point[part], tokens[part]) for of_point in losses.values()]
    return {"n": int(part.sum()), "tokens": int(tokens[part].sum()), "loss": means}


def _by_task(found: Mapping[float, _Point], examples: _Data) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for number, task in enumerate(examples.losses):
        results = [point.results[number] for point in found.values()]
        curve = [token_mean(np.array(result.scores), np.array(result.weights)) for result in results]
        told[task.name] = {"n": len(task.examples), "loss": curve}
    for number, task in enumerate(examples.answers, start=len(examples.losses)):
        results = [point.results[number] for point in found.values()]
        told[task.name]["accuracy"] = [sum(result.scores) / len(result.scores) for result in results]
    return told


def _lines(found: Mapping[float, _Point], examples: _Data, locating: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    """Every example at every point."""
    for alpha, point in found.items():
        place = 0
        for number, task in enumerate(examples.losses):
            said = point.results[point.count + number].outcomes if examples.answers else None
            for at, outcome in enumerate(point.results[number].outcomes):
                line: dict[str, Any] = {
                    "alpha": alpha,
                    "task": task.name,
                    "id": outcome.id,
                    "loss": outcome.score,
                    "tokens": int(outcome.weight),
                    "half": "locating" if locating[place] else "measuring",
                }
                if said is not None:
                    line |= {"right": said[at].score == 1.0, "said": said[at].said, "answer": said[at].answer}
                yield line
                place += 1


def _points(points: int | None, refine: int | None, alphas: Sequence[float] | None, beyond: float | None) -> Points:
    if alphas is not None and (points is not None or beyond is not None):
        raise UsageError("--alphas says where the points are; leave out --points and --beyond.")
    if refine is not None and refine < 0:
        raise UsageError(f"--refine {refine}: give a number from 0 on.")
    if alphas is not None:
        if not all(math.isfinite(alpha) for alpha in alphas):
            raise UsageError("--alphas: give finite numbers.")
        given = {float(alpha) for alpha in alphas} | {0.0, 1.0}
        return Points(tuple(sorted(given)), 0 if refine is None else refine)
    count = POINTS if points is None else points
    if count < 3:
        raise UsageError(f"--points {count}: give at least 3, the two models and one between them.")
    chosen = {place / (count - 1) for place in range(count)}
    if beyond is not None:
        if not (math.isfinite(beyond) and beyond > 1):
            raise UsageError(f"--beyond {beyond}: give a number above 1, where the second model is.")
        further = (place / (count - 1) for place in range(count, math.ceil(beyond * (count - 1))))
        chosen |= {*further, float(beyond)}
    return Points(tuple(sorted(chosen)), REFINE if refine is None else refine)


def _examples(data: Sequence[str | Path], loss_only: bool) -> _Data:
    if not data:
        raise UsageError("No data was given. Name a JSONL file of texts, or of questions with answers, with --data.")
    losses = tuple(read_tasks([Path(file).expanduser() for file in data], loss=True))
    kinds = {bool(task.examples[0].question) for task in losses}
    if len(kinds) > 1:
        named = "; ".join(f"{task.name}: {'answers' if task.examples[0].question else 'texts'}" for task in losses)
        raise UsageError(f"The data mixes texts and questions with answers ({named}). Measure them in two runs.")
    count = sum(len(task.examples) for task in losses)
    if count < _FEWEST:
        raise UsageError(f"The data holds {count} examples; a barrier needs at least {_FEWEST}, two to a half.")
    answered = () if loss_only or kinds == {False} else tuple(replace(task, kind="match") for task in losses)
    return _Data(losses, answered)


def _identity(checkpoint: Checkpoint, reader: TensorReader) -> dict[str, Any]:
    """What makes it the same weights, of the same tokens, wherever they lie: digests of all tensors and the tokenizer."""
    tensors = list(checkpoint.tensors.values())
    digests = tensor_digests([(tensor, reader) for tensor in tensors], budget(None, None), "digests")
    whole = blake3("".join(f"{t.name}\0{digest}\0" for t, digest in zip(tensors, digests, strict=True)).encode())
    return {
        "revision": checkpoint.revision,
        "digest": f"tensors:{whole.hexdigest()}",
        "tokenizer": tokenizer_fingerprint(checkpoint.sidecars),
    }


def _told(shared: Shared, otherwise: Sequence[str], names: Sequence[str]) -> list[str]:
    """In which respects the model at α = 0 is not quite the first one."""
    found = [f"All of the line is computed by {names[1]}'s config: {'; '.join(otherwise)}."] if otherwise else []
    if shared.tokens is None or not any(shared.tokens[1]):
        return found
    common, (only_a, only_b) = shared.tokens[0], shared.tokens[1]
    reasons = [f"the rows of {only_b:,} that only {names[1]} has stay as they are all along the line"] if only_b else []
    reasons += [f"{only_a:,} that only {names[0]} has are left out"] if only_a else []
    return [
        *found,
        f"{names[0]} and {names[1]} have {common:,} tokens in common; {', and '.join(reasons)}. So at α = 0 the model is "
        f"not quite {names[0]}.",
    ]


def _ask(task: OwnTask, model: Any, asking: Asking, alpha: float) -> TaskResult:
    try:
        return ask_own(task, model, asking)
    except TuneportError:
        raise
    except Exception as error:
        # The harness and the libraries under it raise anything; the cause is kept for --debug.
        raise ScoringError(
            f"{task.name} could not be measured at α = {alpha:g}: {type(error).__name__}: {error}"
        ) from error


def _progress(what: str) -> None:
    if sys.stderr.isatty():
        print(what, file=sys.stderr)
