"""`path`: loss (and accuracy, if the data has answers) along the line between two models, and the barrier.

Read `path` from top to bottom: find all inputs and report all problems, plan, load the second model once, move it from
point to point, add points where the losses of one half of the data bend, and measure the barrier on the other half. A
killed run resumes from its finished points; a record is never written in part.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from tuneport.checkpoint.checkpoint import Checkpoint
from tuneport.checkpoint.open_model import fetched, open_checkpoint
from tuneport.checkpoint.reading import TensorReader
from tuneport.diagnosis.bend import halves, next_point, token_mean, verdict
from tuneport.diagnosis.line import joined, opened
from tuneport.diagnosis.measuring import Measuring, Point, read_examples
from tuneport.diagnosis.path_options import PathOptions
from tuneport.diagnosis.path_record import Measured, lines_of, record_of
from tuneport.diagnosis.points import Points, points_of
from tuneport.engine.budget import budget
from tuneport.engine.tensor_digests import tensor_digests
from tuneport.errors import DoubtError, listing, named, spoken
from tuneport.examples.questions import digest_of_task
from tuneport.libraries import quietly
from tuneport.pairing.common_tensors import Shared
from tuneport.progress import Progress
from tuneport.public_functions import takes
from tuneport.results.schema import PATH_FORMAT
from tuneport.scoring.keeping import already_done, keeping
from tuneport.scoring.models import Loading, find_models, look_over, names_of, need_device, need_harness
from tuneport.scoring.run import template_text, versions
from tuneport.shown import Found
from tuneport.tokenizer.tokenizer import tokenizer_fingerprint


class LossPath(Found):
    """The record of `path`, by key as its JSON is (docs/formats.md)."""

    def heading(self) -> str:
        """One line: the barrier."""
        if self["barrier"] is None:
            return "loss along the line; no point between the models was measured, so the barrier is unknown"
        low, high = self["interval"]
        told = f"barrier {self['barrier']:.4f} nats per token at α = {self['at']:g} (95 % {low:.4f} to {high:.4f})"
        return f"{told}. {verdict(self['connected'], self['threshold'])}".removesuffix(". ")

    def table(self) -> list[list[str]]:
        """A row for each point."""
        rows = [["α", "loss", "95 % interval", "above the line", *(["accuracy"] if self["accuracy"] else [])]]
        for place, alpha in enumerate(self["alphas"]):
            rise = self["rise"][place]
            interval = " to ".join(f"{end:.4f}" for end in self["loss_interval"][place])
            accuracy = [f"{self['accuracy'][place]:.3f}"] if self["accuracy"] else []
            loss, above = f"{self['loss'][place]:.4f}", "" if rise is None else f"{rise:+.4f}"
            rows.append([f"{alpha:g}", loss, interval, above, *accuracy])
        return rows


@takes(PathOptions)
def path(given: PathOptions) -> LossPath:
    """Measure loss (and accuracy) on the straight line from `a` (α = 0) to `b` (α = 1), and the barrier between them.
    The data are your own examples (docs/formats.md): texts, or questions with answers; the loss of a question is that
    of its answer's tokens. Answers are also generated, unless ``loss_only``. ``beyond`` continues past 1, to b +
    (beyond − 1)·(b − a). Interpolation and arithmetic are float32; config, tokenizer and template are b's throughout.
    If a's config would compute differently, there is no line, unless ``allow_config``. The models are *connected* if
    the barrier is below ``threshold``. With ``out``, the record is written there, with every example's outcome beside
    it. Raises `TuneportError`.

        tuneport.path("v1", "v2", "test.jsonl")

    The point α on the line from the target to a transfer is the transfer with ``scale=α``, so that line is also a search for the scale:

        tuneport.path("v2", "v2-carried", "validation.jsonl", alphas=[0.25, 0.5, 0.75, 1.25])
    """
    return LossPath(_path(given))


def _path(given: PathOptions) -> dict[str, Any]:
    need_harness("hf")
    a, b, threshold, seed, overwrite = given.a, given.b, given.threshold, given.seed, given.overwrite
    wanted = points_of(given.points, given.refine, given.alphas, given.beyond)
    out = None if given.out is None else Path(given.out).expanduser()
    asking = given.asking
    loading = Loading("hf", given.device, "float32", given.batch_size, template_text(given.chat_template))
    need_device(loading)
    examples = read_examples(given.data, given.loss_only, given.columns)
    one, other = fetched(open_checkpoint(a, "A")), fetched(open_checkpoint(b, "B"))
    names = names_of([os.fspath(a), os.fspath(b)])
    shared, otherwise = joined(one, other, allow_config=given.allow_config)
    seat = replace(find_models([os.fspath(b)])[0], name=names[1])
    with ExitStack() as stack:
        readers = stack.enter_context(opened(one, other))
        plan: dict[str, Any] = {
            "format": PATH_FORMAT,
            "a": {"name": names[0], **_identity(one, readers[0])},
            "b": {"name": names[1], **_identity(other, readers[1]), "behaviour": seat.identity.get("behaviour")},
            "data": [{"task": task.name, "digest": digest_of_task(task)} for task in examples.everything],
            "settings": {
                **asdict(wanted),
                "threshold": threshold,
                "match": asking.match,
                "max_new_tokens": asking.max_new_tokens,
                "device": given.device,
                "chat_template": loading.chat_template,
                "seed": seed,
                "allow_config": given.allow_config,
            },
            "versions": versions(),
        }
        plan = json.loads(json.dumps(plan))  # as written in the record: lists, not tuples
        if out is not None and (done := already_done(out, plan, overwrite)) is not None:
            return {**done, "already_done": True}
        kept = None if out is None else stack.enter_context(keeping(out, plan, overwrite))
        stack.enter_context(quietly())
        looked = look_over(seat, loading, examples.everything)
        twice = [warning for task in examples.losses for warning in task.warnings]
        warnings = [*twice, *one.warnings, *_told(shared, otherwise, names), *looked.warnings]
        if given.strict and warnings:
            raise DoubtError(
                f"{named('strict')} stopped this run before measuring, because of these warnings:{listing(warnings)}"
            )
        warnings += [note for task in examples.losses for note in task.notes]
        progress = stack.enter_context(Progress("path", len(wanted.alphas) + wanted.refine, "points", rate=False))
        measuring = Measuring(seat, loading, shared, readers, examples, asking, kept, warnings, progress, given.strict)
        locating = halves(examples.tasks, seed)
        measured = Measured(_along(measuring, wanted, locating), examples, locating)
        record = record_of(measured, shared, warnings, plan, out)
        if kept is not None:
            kept.finish(record, lines_of(measured))
    return {**record, "warnings": list(spoken(dict.fromkeys(warnings))), "plan": plan, "already_done": False}


def _along(measuring: Measuring, wanted: Points, locating: NDArray[np.bool_]) -> dict[float, Point]:
    """All points, in order: those asked for, then those that the losses of the locating half ask for."""
    found = {alpha: measuring.at(alpha) for alpha in wanted.alphas}
    for turn in range(wanted.refine):
        curve = {a: token_mean(point.losses[locating], point.tokens[locating]) for a, point in found.items()}
        alpha = next_point(curve, turn)
        if alpha is None:
            break
        found[alpha] = measuring.at(alpha)
    return dict(sorted(found.items()))


def _identity(checkpoint: Checkpoint, reader: TensorReader) -> dict[str, Any]:
    """What makes it the same weights, of the same tokens, wherever they lie: digests of all tensors and the tokenizer."""
    digests = tensor_digests(checkpoint.tensors, reader, budget(None, None), "digests")
    whole = blake3("".join(f"{name}\0{digest}\0" for name, digest in digests.items()).encode())
    return {
        "revision": checkpoint.revision,
        "digest": f"tensors:{whole.hexdigest()}",
        "tokenizer": tokenizer_fingerprint(checkpoint.sidecars),
    }


def _told(shared: Shared, otherwise: Sequence[str], names: Sequence[str]) -> list[str]:
    """In which respects the model at α = 0 is not quite the first one."""
    found = [f"The whole line uses the config of {names[1]}: {'; '.join(otherwise)}."] if otherwise else []
    if shared.tokens is None or not any(shared.tokens[1]):
        return found
    common, (only_a, only_b) = shared.tokens[0], shared.tokens[1]
    reasons = [f"the rows of {only_b:,} that only {names[1]} has stay unchanged along the line"] if only_b else []
    reasons += [f"{only_a:,} that only {names[0]} has are left out"] if only_a else []
    return [
        *found,
        f"{names[0]} and {names[1]} have {common:,} tokens in common; {', and '.join(reasons)}. So at α = 0 the model "
        f"is not exactly {names[0]}.",
    ]
