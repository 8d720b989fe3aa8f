"""Tokenize examples with a label for each token: the token itself if it belongs to an answer, else nothing.

Returns flat arrays that the trainers read as a data set. TRL would do this too, example by example. It is done here
because labels define a fine-tuning, and because the user must know how many examples lose their answer. What the loss
sees:

- ``text``: every token, and the end.
- ``prompt`` and ``completion``: the completion, and the end token (added unless it is there).
- ``messages``: every answer of the assistant, each with its end-of-turn token, and nothing else.

Conversations that the chat template cannot render are refused, all of them together.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuneport.errors import DataError, RenderingError, named
from tuneport.examples.answer_tokens import marked_answers, marks_answers, tokens_inside, written_answers
from tuneport.examples.conversation_template import Chat
from tuneport.examples.digests import answered_digest, example_digest
from tuneport.examples.forms import Row
from tuneport.examples.prompt_boundary import answer_after, beginning_of_texts, begun
from tuneport.examples.rendering import Unwritten, render
from tuneport.examples.training_data import DataSource

IGNORED = -100  # torch's label for a position that does not count in the loss
_BATCH = 512

Refused = Callable[[int, RenderingError], None]  # by a row's place among those that are encoded together


@dataclass
class Counts:
    """What became of the examples."""

    examples: int = 0
    tokens: int = 0
    answer_tokens: int = 0
    longest: int = 0
    cut: int = 0  # lost the end of an answer to the sequence length
    without_answer: int = 0  # left out: the prompt alone fills the sequence length
    parted: int = 0  # the tokens of prompt and answer together are not those of the prompt, then the answer's
    hidden: int = 0  # begin inside a token of what the template writes before an answer, which is not learned
    endless: int = 0  # no end token in what is trained on

    def warnings(self, length: int) -> list[str]:
        """Warnings for the user."""
        found = []
        if self.without_answer:
            found.append(
                f"{self.without_answer} example(s) are left out: their prompt alone fills the sequence length of "
                f"{length}. Raise {named('max_length')}."
            )
        if self.cut:
            found.append(
                f"{self.cut} example(s) are longer than the sequence length of {length}, so their answers are cut off."
            )
        if self.endless:
            found.append(
                f"{self.endless} example(s) have no end token, so the model does not learn from them where to stop."
            )
        if self.parted:
            found.append(
                f"{self.parted} prompt(s) end in the middle of a token that spans prompt and answer. They are "
                f"tokenized separately, as in generation. End prompts at the end of a word."
            )
        if self.hidden:
            found.append(
                f"{self.hidden} answer(s) begin in the middle of a token that starts in the chat template's text; "
                f"this token is not trained. Use a template whose text before an answer ends at the end of a token, "
                f"not with a space."
            )
        return found

    def record(self) -> dict[str, int]:
        """The counts as JSON."""
        return dict(vars(self))


@dataclass
class Column:
    """Lists of numbers, one an example, kept flat: millions of tokens in four bytes each."""

    values: array[int] = field(default_factory=lambda: array("i"))
    ends: array[int] = field(default_factory=lambda: array("q", [0]))

    def add(self, numbers: Sequence[int]) -> None:
        """The next example's."""
        self.values.extend(numbers)
        self.ends.append(len(self.values))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def lengths(self) -> Iterator[int]:
        """The number of numbers of each example."""
        return (end - start for start, end in zip(self.ends, self.ends[1:], strict=False))


@dataclass(frozen=True)
class Encoded:
    """All examples, as columns that the trainer reads; what became of them; and their digests."""

    columns: dict[str, Column]
    counts: Counts
    digests: frozenset[str] = frozenset()

    def lengths(self) -> list[int]:
        """Tokens of each example, over all columns but the labels."""
        parts = [list(column.lengths()) for name, column in self.columns.items() if name != "labels"]
        return [sum(lengths) for lengths in zip(*parts, strict=True)]


def encode_sft(sources: Sequence[DataSource], tokenizer: Any, chat: Chat, length: int) -> Encoded:
    """Token ids and labels of every example. Raises `DataError` where nothing is left to train on."""
    ids_column, labels_column, counts = Column(), Column(), Counts()
    digests: set[str] = set()
    unwritten = _unwritten()
    for source in sources:
        for start in range(0, len(source.rows), _BATCH):
            rows = source.rows[start : start + _BATCH]
            for row in rows:
                digests.update(_digests(row, source.form))
            refused = _noting(unwritten, source, start)
            for ids, wanted in _encode_rows(rows, source.form, tokenizer, chat, counts, refused):
                _end_check(ids, wanted, chat, counts)
                labels = [id if mine else IGNORED for id, mine in zip(ids, wanted, strict=True)][:length]
                # The first token is predicted from nothing, so its label counts for no loss.
                if not any(label != IGNORED for label in labels[1:]):
                    counts.without_answer += 1
                    continue
                counts.cut += len(ids) > length and any(wanted[length:])
                ids_column.add(ids[:length])
                labels_column.add(labels)
                counts.examples += 1
                counts.tokens += len(labels)
                counts.answer_tokens += sum(label != IGNORED for label in labels[1:])
                counts.longest = max(counts.longest, len(ids))
    unwritten.check()
    _check_something(counts, length)
    return Encoded({"input_ids": ids_column, "labels": labels_column}, counts, frozenset(digests))


def encode_preferences(sources: Sequence[DataSource], tokenizer: Any, chat: Chat, length: int) -> Encoded:
    """Token ids of prompts and of both answers. A pair is left out where the sequence length leaves no answer."""
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    columns, counts = {name: Column() for name in names}, Counts()
    digests: set[str] = set()
    unwritten = _unwritten()
    for row, refused in _each(sources, unwritten):
        sides = []
        for answer in ("chosen", "rejected"):
            pair = {"prompt": row["prompt"], "completion": row[answer]}
            digests.update(_digests(pair, "prompt-completion"))
            for ids, wanted in _encode_rows([pair], "prompt-completion", tokenizer, chat, counts, refused):
                _end_check(ids, wanted, chat, counts)
                sides.append((ids, wanted.index(True) if any(wanted) else len(ids)))
        if len(sides) < 2:
            continue
        (chosen, chosen_start), (rejected, rejected_start) = sides
        # A token that begins in the prompt and ends in an answer is another one in the other answer, so it is the answers'.
        same = sum(1 for _ in itertools.takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
        start, counts.hidden = min(chosen_start, rejected_start, same), 0
        if start >= length:
            counts.without_answer += 1
            continue
        longest = max(len(chosen), len(rejected))
        counts.cut += longest > length
        parts = (chosen[:start], chosen[start:length], rejected[start:length])
        for name, part in zip(names, parts, strict=True):
            columns[name].add(part)
        counts.examples += 1
        counts.tokens += 2 * start + len(parts[1]) + len(parts[2])
        counts.answer_tokens += len(parts[1]) + len(parts[2])
        counts.longest = max(counts.longest, longest)
    unwritten.check()
    _check_something(counts, length)
    return Encoded(columns, counts, frozenset(digests))


def prompt_lengths(sources: Sequence[DataSource], tokenizer: Any, length: int) -> tuple[list[list[bool]], Counts]:
    """Of prompts whose answers are made: which leave room for an answer, and the counts."""
    counts, kept = Counts(), []
    unwritten = _unwritten()
    for source in sources:
        fits = []
        for row, refused in _each([source], unwritten):
            prompt = question_of(row)
            if isinstance(prompt, list):
                try:
                    text = render(tokenizer, prompt, ask=True)
                except RenderingError as error:
                    refused(0, error)
                    continue
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            else:
                ids = tokenizer(prompt)["input_ids"]
            fits.append(len(ids) < length)
            counts.without_answer += not fits[-1]
            if fits[-1]:
                counts.examples += 1
                counts.tokens += len(ids)
                counts.longest = max(counts.longest, len(ids))
        kept.append(fits)
    unwritten.check()
    _check_something(counts, length)
    return kept, counts


def check_written(sources: Sequence[DataSource], tokenizer: Any, whose: str) -> None:
    """Raise `RenderingError` with every line with messages that the template cannot render."""
    unwritten = Unwritten(whose, f"choose another {named('chat_template')}")
    for row, refused in _each(sources, unwritten):
        before = row.get("prompt") if "messages" not in row else []
        if not isinstance(before, list):
            continue
        answers = [row[field] for field in ("messages", "completion", "chosen", "rejected") if field in row]
        try:
            for answer in answers or [[]]:
                render(tokenizer, [*before, *answer], ask=not answer)
        except RenderingError as error:
            refused(0, error)
    unwritten.check()


def _each(sources: Sequence[DataSource], unwritten: Unwritten) -> Iterator[tuple[Row, Refused]]:
    """Every row, with what notes the template's refusal of it."""
    for source in sources:
        for place, row in enumerate(source.rows):
            yield row, _noting(unwritten, source, place)


def _unwritten() -> Unwritten:
    return Unwritten("The chat template", f"choose another {named('chat_template')}")


def _noting(unwritten: Unwritten, source: DataSource, start: int) -> Refused:
    """Notes what the template says to a row, counted from ``start`` of the source."""
    return lambda place, error: unwritten.note(source.name, source.place(start + place), error)


def prompt_digests(sources: Sequence[DataSource]) -> frozenset[str]:
    """Digests of prompts, and of prompts with the answer that a reward compares with."""
    found: set[str] = set()
    for row in (row for source in sources for row in source.rows):
        prompt = _text(question_of(row))
        found |= {example_digest(prompt), *_last_question(question_of(row))}
        if isinstance(row.get("answer"), str):
            found.add(answered_digest(prompt, row["answer"]))
    return frozenset(found)


def question_of(row: Row) -> Any:
    """What is asked, of rows without answers: a text, or messages."""
    return row["prompt"] if "prompt" in row else row["messages"]


def _check_something(counts: Counts, length: int) -> None:
    if not counts.examples:
        raise DataError(
            f"No example has room for an answer in the sequence length of {length}. Raise {named('max_length')}."
        )


def _encode_rows(
    rows: Sequence[Row], form: str, tokenizer: Any, chat: Chat, counts: Counts, refused: Refused
) -> Iterator[tuple[list[int], list[bool]]]:
    """Of each row its token ids, and whether each is to be learned; none of those that the template refuses."""
    if form == "text":
        for ids in _tokens(tokenizer, [row["text"] for row in rows]):
            ended = _ended(ids, chat)
            yield ended, [True] * len(ended)
        return
    if form == "messages" or isinstance(rows[0]["prompt"], list):
        conversations = [_conversation(row, form) for row in rows]
        yield from _encode_conversations(conversations, tokenizer, chat, counts, refused)
        return
    prompts = _tokens(tokenizer, [row["prompt"] for row in rows])
    together = _tokens(tokenizer, [row["prompt"] + row["completion"] for row in rows])
    for row, prompt, both in zip(rows, prompts, together, strict=True):
        answer, parted = answer_after(prompt, both, row["completion"], lambda text: _plain(tokenizer, text))
        counts.parted += parted
        ids = _ended([*prompt, *answer], chat)
        yield ids, [False] * len(prompt) + [True] * (len(ids) - len(prompt))


def _tokens(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Ids of texts, with the special tokens that the tokenizer adds; never a second beginning-of-text token.

    Tokens that a tokenizer adds at the end are taken off again: what ends an answer is decided in one place.
    """
    plain: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    beginning = beginning_of_texts(tokenizer)
    return [begun(ids, beginning) for ids in plain]


def _plain(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _ended(ids: list[int], chat: Chat) -> list[int]:
    return ids if chat.end_id is None or ids[-1:] == [chat.end_id] else [*ids, chat.end_id]


def _end_check(ids: Sequence[int], wanted: Sequence[bool], chat: Chat, counts: Counts) -> None:
    learned = {id for id, mine in zip(ids, wanted, strict=True) if mine}
    counts.endless += chat.end_id not in learned


def _conversation(row: Row, form: str) -> tuple[list[dict[str, str]], int]:
    """Messages, and the place of the first whose answers are learned."""
    if form == "messages":
        return row["messages"], 0
    return [*row["prompt"], *row["completion"]], len(row["prompt"])


def _encode_conversations(
    conversations: Sequence[tuple[list[dict[str, str]], int]],
    tokenizer: Any,
    chat: Chat,
    counts: Counts,
    refused: Refused,
) -> Iterator[tuple[list[int], list[bool]]]:
    if not tokenizer.is_fast:
        raise DataError(
            "This tokenizer does not map tokens to their text, so answers cannot be separated from prompts. "
            "Use a model with a tokenizer.json, or data with `prompt` and `completion` texts."
        )
    # A template that marks its answers is believed where the whole conversation is learned.
    marks = marks_answers(tokenizer) and all(first == 0 for _, first in conversations)
    marked, rendered = [], []
    for place, (messages, first) in enumerate(conversations):
        try:
            if marks:
                marked.append(marked_answers(messages, tokenizer))
            else:
                rendered.append(written_answers(messages, first, tokenizer, chat.end_token))
        except RenderingError as error:
            refused(place, error)
    yield from marked
    if not rendered:
        return
    texts = [text for text, _ in rendered]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    for (_, spans), ids, offsets in zip(rendered, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        wanted, spanning = tokens_inside(offsets, spans)
        counts.hidden += spanning
        yield ids, wanted


def _digests(row: Row, form: str) -> set[str]:
    """What a later test is looked up by: each prompt, alone and with its answer; of plain text the whole."""
    if form == "text":
        return {example_digest(row["text"])}
    if form == "prompt-completion" and isinstance(row["prompt"], str):
        return {example_digest(row["prompt"]), answered_digest(row["prompt"], row["completion"])}
    messages, first = _conversation(row, form)
    found: set[str] = set()
    for place, message in enumerate(messages):
        if message["role"] == "assistant" and place >= first and place > 0:
            before = _text(messages[:place])
            found |= {example_digest(before), answered_digest(before, message["content"])}
            for question in [m["content"] for m in messages[:place] if m["role"] == "user"][-1:]:
                found |= {example_digest(question), answered_digest(question, message["content"])}
    return found


def _text(prompt: str | Sequence[dict[str, str]]) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


def _last_question(prompt: str | Sequence[dict[str, str]]) -> set[str]:
    if isinstance(prompt, str):
        return set()
    return {example_digest(message["content"]) for message in prompt if message["role"] == "user"}
