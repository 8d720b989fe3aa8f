"""TRL's SFT trainer with the loss of a distillation: KL from the teacher at each token of its answers, in batches of lessons.

The loss is the mean over all tokens of an update's answers. Where texts are to be kept, each answer comes with one of them, and
the mean KL from the start over the batch's text tokens is added with a weight.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from tuneport.scoring.answers.lumped_divergence import lumped_divergence
from tuneport.tuning.distillation.answer_lessons import Lesson, Lessons

_IGNORED = -100  # torch's label for a position that does not count in the loss


def places_of(lessons: Lessons) -> Any:
    """The data set of the trainer: numbers, from which `Collator` makes batches."""
    import datasets

    return datasets.Dataset.from_dict({"place": list(range(len(lessons)))})


class Collator:
    """Makes a batch of numbers: the answer and the text of each, padded on the right."""

    def __init__(self, lessons: Lessons, padding: int) -> None:
        """``padding`` is the id of a padding token."""
        self._lessons, self._padding = lessons, padding

    def __call__(self, items: Sequence[dict[str, int]]) -> dict[str, Any]:
        """Sequences as rows, then by position what is to be learned there."""
        import torch

        places = [item["place"] for item in items]
        answers, texts = self._lessons.answers, self._lessons.texts
        lot = [answers[place % len(answers)] for place in places]
        lot += [texts[place % len(texts)] for place in places] if texts else []
        size = (len(lot), max(len(lesson.ids) for lesson in lot))
        ids, mask = np.full(size, self._padding, np.int64), np.zeros(size, np.int64)
        labels = np.full(size, _IGNORED, np.int64)
        for row, lesson in enumerate(lot):
            ids[row, : len(lesson.ids)] = lesson.ids
            mask[row, : len(lesson.ids)] = 1
            if row < len(places):  # the trainer counts these
                labels[row, lesson.places] = ids[row, lesson.places]
        arrays = {"input_ids": ids, "attention_mask": mask, "labels": labels, **_positions(lot, len(places))}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _positions(lot: Sequence[Lesson], answers: int) -> dict[str, Any]:
    """Of each token that is learned: its row and column, what was expected, whether that is known, and whether it is a text's."""
    kept = max(lesson.expected.ids.shape[1] for lesson in lot)
    counts = [len(lesson.paired) for lesson in lot]
    wide = [
        np.pad(lesson.expected.ids, ((0, 0), (0, kept - lesson.expected.ids.shape[1])), constant_values=-1)
        for lesson in lot
    ]
    logs = [
        np.pad(lesson.expected.logs, ((0, 0), (0, kept - lesson.expected.logs.shape[1])), constant_values=-np.inf)
        for lesson in lot
    ]
    return {
        "rows": np.repeat(np.arange(len(lot)), counts),
        "columns": np.concatenate([lesson.places for lesson in lot]),
        "expected_ids": np.concatenate(wide).astype(np.int64),
        "expected_logs": np.concatenate(logs),
        "expected_rest": np.concatenate([lesson.expected.rest for lesson in lot]),
        "paired": np.concatenate([lesson.paired for lesson in lot]),
        "of_text": np.repeat(np.arange(len(lot)) >= answers, counts),
    }


def with_distil_loss(trainer: Any, retain_weight: float) -> Any:
    """TRL's SFT trainer with this loss."""

    class Distilling(trainer):  # type: ignore[misc]  # TRL has no types
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            ids, columns = inputs["input_ids"], inputs["columns"]
            first = int(columns.min()) - 1  # logits before this column are of prompts alone
            given = {"input_ids": ids, "attention_mask": inputs["attention_mask"], "use_cache": False}
            cuts = _cuts_logits(self.accelerator.unwrap_model(model))
            outputs = model(**given, **({"logits_to_keep": ids.shape[1] - first} if cuts else {}))
            logits = outputs.logits[:, -(ids.shape[1] - first) :]
            found = _losses(logits[inputs["rows"], columns - 1 - first].float(), ids[inputs["rows"], columns], inputs)
            answers, texts = found[~inputs["of_text"]], found[inputs["of_text"]]
            count = len(answers) if num_items_in_batch is None else num_items_in_batch
            loss = answers.sum() / count
            if len(texts):
                # In proportion to the answers, so that it is a mean over all batches of an update.
                loss = loss + retain_weight * texts.mean() * len(answers) / count
            if num_items_in_batch is not None and self.args.average_tokens_across_devices:
                loss = loss * self.accelerator.num_processes
            self._note(inputs, answers, texts)
            return (loss, outputs) if return_outputs else loss

        def _note(self, inputs: Any, answers: Any, texts: Any) -> None:
            """What the log shows beside the loss, which is all of it."""
            seen = self.accelerator.gather(inputs["attention_mask"].sum()).sum()
            self._total_train_tokens += int(seen)
            metrics = self._metrics["train"]
            metrics["num_tokens"] = [self._total_train_tokens]
            if len(texts):
                metrics["answer_kl"].append(float(self.accelerator.gather(answers.detach().mean()).mean()))
                metrics["retain_kl"].append(float(self.accelerator.gather(texts.detach().mean()).mean()))

    Distilling.__name__ = trainer.__name__
    return Distilling


def _losses(logits: Any, tokens: Any, inputs: Any) -> Any:
    """KL at each place; where no distribution is known, the loss of the teacher's token."""
    import torch

    expected = (inputs["expected_ids"], inputs["expected_logs"], inputs["expected_rest"])
    found = lumped_divergence(logits, *expected)
    if bool(inputs["paired"].all()):
        return found
    return torch.where(inputs["paired"], found, torch.nn.functional.cross_entropy(logits, tokens, reduction="none"))


def _cuts_logits(model: Any) -> bool:
    """Whether the class computes only the last logits, where it is asked to."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(type(base).forward).parameters
