"""What a student is trained on: each prompt with the teacher's answer in the student's tokens, and what to expect at each of them.

Tokens of the two are paired by their strings. Where the student cuts an answer into other tokens, those that both have in the
same place of the text are paired, and the others are left out; of an answer with few pairs all others are learned as plain
text. (Measured: docs/design/tuning.md.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuneport.errors import DataError, named
from tuneport.scoring.answers.answer_losses import LikeliestTokens
from tuneport.tuning.distillation.recording import Recorded


@dataclass(frozen=True)
class Lesson:
    """One sequence: its tokens, the places of those that are learned, and for each of these what to expect.

    ``expected`` has the student's ids (-1: it has no such token); where ``paired`` is False its row says nothing.
    """

    ids: Sequence[int]
    places: NDArray[np.int64]
    expected: LikeliestTokens
    paired: NDArray[np.bool_]


@dataclass
class LessonCounts:
    """What became of the teacher's answers."""

    answers: int = 0
    empty: int = 0  # no tokens: their prompts are left out
    endless: int = 0  # not ended by the teacher: no end is learned from them
    cut: int = 0  # lost their end to the sequence length
    tokens: int = 0  # ends included
    left_out: int = 0  # of these: without a partner
    as_text: int = 0  # of these: without a partner, in answers that have few

    def warnings(self, longest: int) -> list[str]:
        """Warnings for the user."""
        of = f"of {self.answers + self.empty:,} answers of the teacher"
        found = []
        if self.empty:
            found.append(f"{self.empty:,} {of} are empty; these prompts are left out.")
        if self.endless:
            found.append(
                f"{self.endless:,} {of} do not end within {longest} tokens, so the model does not learn from them where to "
                f"stop. Raise {named('max_completion_length')}."
            )
        if self.cut:
            found.append(f"{self.cut:,} {of} are longer than the sequence length allows and are cut off.")
        if self.left_out or self.as_text:
            found.append(
                f"{self.left_out + self.as_text:,} of {self.tokens:,} tokens of the teacher's answers are other tokens in the "
                f"model's tokenizer, for which the teacher's distribution is not known: {self.left_out:,} are left out, "
                f"{self.as_text:,} are learned as plain text."
            )
        return found


@dataclass(frozen=True)
class Lessons:
    """Answers to learn, and texts on which the model stays as it is."""

    answers: tuple[Lesson, ...]
    texts: tuple[Lesson, ...] = ()
    counts: LessonCounts = field(default_factory=LessonCounts)

    def __len__(self) -> int:
        """Items of a pass: each has one answer, and one text where there are any; whichever there are more of come once."""
        return max(len(self.answers), len(self.texts))


@dataclass(frozen=True)
class Student:
    """What pairing needs of the student: ids by their strings, the end token's, and the longest sequence."""

    vocabulary: Mapping[str, int]
    strings: Mapping[int, str]
    end_id: int
    length: int

    def lesson(
        self, prompt: Sequence[int], answer: Sequence[int], heard: Recorded, counts: LessonCounts
    ) -> Lesson | None:
        """The lesson of one answer, in the student's tokens; None where nothing is left of it."""
        learned = [*answer, *([self.end_id] if heard.spoken.ended else [])]
        room = self.length - len(prompt)
        counts.cut += len(learned) > room
        learned = learned[: max(0, room)]
        if not learned:
            return None
        own = [self.strings.get(id) for id in answer]
        partners = np.array([*same_places(heard.spoken.tokens, own)], np.int64)
        few = 2 * int((partners >= 0).sum()) < len(partners)
        if heard.spoken.ended:
            partners = np.append(partners, len(heard.spoken.tokens))
        rows = partners[: len(learned)]
        paired = rows >= 0
        counts.tokens += len(rows)
        counts.as_text += int((~paired).sum()) if few else 0
        counts.left_out += 0 if few else int((~paired).sum())
        kept = np.flatnonzero(paired | few)
        found = self._own_ids(heard)
        chosen = np.maximum(rows[kept], 0)
        taken = LikeliestTokens(found.ids[chosen], found.logs[chosen], found.rest[chosen])
        return Lesson([*prompt, *learned], len(prompt) + kept, taken, paired[kept])

    def _own_ids(self, heard: Recorded) -> LikeliestTokens:
        """What was expected, by the student's ids. All ends of the teacher are the student's one end."""
        ids, logs = heard.expected.ids, heard.expected.logs.copy()
        unique = np.unique(ids)
        own = np.array([self._own(id, heard) for id in unique.tolist()], np.int32)
        mapped = own[np.searchsorted(unique, ids)] if ids.size else ids
        ends = np.isin(ids, list(heard.ends))
        if heard.ends and (several := ends.sum(axis=1) > 1).any():
            for row in np.flatnonzero(several):
                places = np.flatnonzero(ends[row])
                logs[row, places[0]] = np.logaddexp.reduce(logs[row, places])
                mapped[row, places[1:]], logs[row, places[1:]] = -1, -np.inf
        return LikeliestTokens(mapped, logs, heard.expected.rest)

    def _own(self, id: int, heard: Recorded) -> int:
        if id in heard.ends:
            return self.end_id
        own = self.vocabulary.get(heard.strings.get(id, ""), -1)
        return -1 if heard.ends and own == self.end_id else own


def same_places(theirs: Sequence[str | None], own: Sequence[str | None]) -> Iterator[int]:
    """For each own token the place of theirs that is the same string at the same place of the text; -1 where there is none."""
    if tuple(theirs) == tuple(own):
        yield from range(len(own))
        return
    begun = dict(zip(_starts(theirs), range(len(theirs)), strict=True))
    same = "".join(map(str, theirs)) == "".join(map(str, own))
    for start, token in zip(_starts(own), own, strict=True):
        place = begun.get(start, -1) if same else -1
        yield place if place >= 0 and token is not None and theirs[place] == token else -1


def _starts(tokens: Sequence[str | None]) -> list[int]:
    """Where each token begins in the text of all."""
    return list(accumulate((len(str(token)) for token in tokens), initial=0))[:-1]


def need_lessons(lessons: Sequence[Lesson], counts: LessonCounts) -> None:
    """Raise `DataError` where there is nothing to learn."""
    if not lessons:
        raise DataError(
            f"All {counts.empty:,} answers of the teacher are empty: there is nothing to learn. Check that it answers these "
            f"prompts (`tuneport evaluate`), and that its chat template is its own."
        )


def learned(counts: LessonCounts, log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the record says of a distillation: the counts, and KL at the first step and at the end (nats a token).

    At the end: the mean over the last tenth of the steps, since each step sees other prompts.
    """
    last = -(-len(log) // 10)
    answers = [float(line.get("answer_kl", line["loss"])) for line in log]
    texts = [float(line["retain_kl"]) for line in log if "retain_kl" in line]
    return {
        **vars(counts),
        "first_kl": answers[0] if answers else None,
        "last_kl": fmean(answers[-last:]) if answers else None,
        "last_retain_kl": fmean(texts[-last:]) if texts else None,
    }
