"""Record what a loaded model says to prompts and expects at each token of its answers; of texts, what it expects at each token.

The folder is small beside a model: 8 bytes for each of at most 64 tokens at each place, or for the whole vocabulary if it is
small. A killed run resumes after the last lot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuneport.examples.questions import Example, OwnTask
from tuneport.progress import Progress
from tuneport.scoring.answers.answer_losses import KEPT, AnswerLosses, LikeliestTokens, likeliest
from tuneport.scoring.answers.greedy_answers import answers_as_said, given_prompts, prompt_lengths, said_tokens
from tuneport.scoring.evaluate_options import USUAL_ANSWER, Asking
from tuneport.scoring.harness import in_words
from tuneport.scoring.measured_tokens import Pair, answers_of
from tuneport.scoring.model_class import ids_that_end
from tuneport.tuning.distillation.recording import (
    LOT,
    NOTHING,
    RECORD,
    Spoken,
    check_keys,
    finish,
    key_of,
    lot_path,
    write_lot,
)

# Of a vocabulary up to this size all tokens are kept. Of larger ones the 64 likeliest: of SmolLM2 they held 94 % of the
# probability and 92 % of a KL to a near model, and the gradient pointed the same way (cosine 0.9999; 16: 0.998, 177 tokens).
SMALL_VOCABULARY = 1024


def record_answers(
    model: Any,
    tasks: Sequence[OwnTask],
    folder: Path,
    *,
    longest: int = USUAL_ANSWER,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Ask a model every prompt and keep its greedy answers, of at most ``longest`` tokens, with what it expected.

    ``model`` is the harness's, as `scoring.models.load` gives it: it is asked through its own template and ends answers with its
    own end tokens. ``folder`` may be given to `tune` as ``teacher``; ``about`` is kept in its record. Raises `DataError` where a
    prompt leaves no room, `TakenError` where the folder holds answers to other prompts.
    """
    examples = _numbered(tasks)
    what = f"model {model.name} could not be asked"
    with in_words(what):
        room = model.room_for_answers(prompt_lengths(model, examples), longest)
        ends = _ends(model)
        losses = AnswerLosses(model)
    for lot, progress in _lots(examples, folder, "teacher's answers"):
        with in_words(what):
            task = OwnTask("prompts", "prompt", tuple(lot.examples))
            said = answers_as_said(task, model, Asking(max_new_tokens=room))
            prompts = given_prompts(model.tokenizer, lot.examples)
            found = [
                _answer(losses, ends, example, prompt, words, rendered)
                for example, words, (prompt, rendered) in zip(lot.examples, said, prompts, strict=True)
            ]
        write_lot(lot.path, found, _strings(losses, found), sorted(ends))
        progress.add(len(found))
    finish(folder, about or {}, len(examples))


def record_texts(
    model: Any, tasks: Sequence[OwnTask], folder: Path, *, most: int, about: Mapping[str, Any] | None = None
) -> None:
    """Keep what a model expects at each token of texts (of answers, where there are prompts), up to ``most`` tokens."""
    examples = _numbered(tasks)
    losses = AnswerLosses(model)
    for lot, progress in _lots(examples, folder, "the start on texts"):
        with in_words(f"model {model.name} could not read the texts"):
            prompts = given_prompts(model.tokenizer, lot.examples)
            found = [
                _text(losses, model, example, prompt, rendered, most)
                for example, (prompt, rendered) in zip(lot.examples, prompts, strict=True)
            ]
        write_lot(lot.path, found, _strings(losses, found), ())
        progress.add(len(found))
    finish(folder, about or {}, len(examples))


def bytes_of_a_place(vocabulary: int) -> int:
    """Of what is kept of each token of an answer, for a vocabulary of this size."""
    return 8 * _count(vocabulary) + 4


def text_of(example: Example, prompt: str) -> str:
    """The text that is measured: an example's answer, as it follows its prompt."""
    return example.answer if example.way == "text" else answers_of(example, prompt)[0]


@dataclass(frozen=True)
class _Lot:
    path: Path
    examples: Sequence[Example]


def _lots(examples: Sequence[Example], folder: Path, what: str) -> Iterator[tuple[_Lot, Progress]]:
    """The lots that are not there yet; those that are must hold the same questions."""
    folder.mkdir(exist_ok=True)
    if (folder / RECORD).exists():
        return
    starts = range(0, len(examples), LOT)
    lots = [_Lot(lot_path(folder, number), examples[start : start + LOT]) for number, start in enumerate(starts)]
    there = [lot for lot in lots if lot.path.exists()]
    for lot in there:
        check_keys(lot.path, list(map(key_of, lot.examples)))
    with Progress(what, len(examples), "prompts", before=sum(len(lot.examples) for lot in there)) as progress:
        for lot in lots:
            if lot not in there:
                yield lot, progress


def _numbered(tasks: Sequence[OwnTask]) -> list[Example]:
    """The examples of all tasks, each under an id of its own."""
    examples = [example for task in tasks for example in task.examples]
    return [replace(example, id=str(place)) for place, example in enumerate(examples)]


def _ends(model: Any) -> frozenset[int]:
    """The ids at which the model's generation stops: its own, and the tokenizer's end token, which the harness adds."""
    own = ids_that_end(model.model.generation_config.eos_token_id, f"model {model.name}: its generation settings")
    return frozenset([*own, int(model.tokenizer.eos_token_id)])


def _answer(
    losses: AnswerLosses, ends: frozenset[int], example: Example, prompt: str, words: str, rendered: bool
) -> tuple[Spoken, LikeliestTokens]:
    said = said_tokens(losses, prompt, words, rendered=rendered, after=True) if words.strip() else None
    if said is None:
        return Spoken(key_of(example), "", (), ended=False), NOTHING
    text, pair, logs = said
    ended = int(logs[-1].argmax()) in ends
    tokens = tuple(losses.strings(pair.answer))
    return Spoken(key_of(example), text, tokens, ended), _kept(logs if ended else logs[:-1])


def _text(
    losses: AnswerLosses, model: Any, example: Example, prompt: str, rendered: bool, most: int
) -> tuple[Spoken, LikeliestTokens]:
    whole = losses.pair(prompt, text_of(example, prompt), rendered=rendered)
    room = min(most, model.max_length) - len(whole.prompt)
    pair = Pair(whole.prompt, whole.answer[: max(0, room)])
    spoken = Spoken(key_of(example), "", tuple(losses.strings(pair.answer)), ended=False)
    return spoken, _kept(losses.logs(pair)) if pair.answer else NOTHING


def _kept(logs: Any) -> LikeliestTokens:
    return likeliest(logs, _count(int(logs.shape[1])))


def _count(vocabulary: int) -> int:
    return vocabulary if vocabulary <= SMALL_VOCABULARY else KEPT


def _strings(losses: AnswerLosses, found: Sequence[tuple[Spoken, LikeliestTokens]]) -> dict[int, str]:
    """The strings of all ids that occur; ids without one are left out."""
    ids = sorted({int(id) for _, expected in found for id in set(expected.ids.ravel().tolist())})
    return {id: text for id, text in zip(ids, losses.strings(ids), strict=True) if text is not None}
