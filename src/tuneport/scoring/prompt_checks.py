"""The harness's model class, extended to check every prompt before the model sees it.

It does the same as the backend's class, and also warns about problems in prompts, remembers what it tokenized, accepts
the tokens of the user's examples, and never counts an answer without tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tuneport.errors import RenderingError, ScoringError, UsageError
from tuneport.errors import named as option
from tuneport.examples.prompt_boundary import going_on
from tuneport.examples.rendering import refusals_in_words, render
from tuneport.scoring import score_spoilers
from tuneport.scoring.adapter_settings import check_adapter
from tuneport.scoring.answers.answer_shapes import AnswerShape, shape_of
from tuneport.scoring.measured_tokens import Pair
from tuneport.scoring.model_class import ids_that_end, model_class
from tuneport.scoring.score_spoilers import Prompt

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # as tasks name an answer's length
_REMEMBERED = 1 << 20  # tokens of texts that were asked before, as on every point of a path: some tens of MB at most


def checking(kind: type[Any]) -> type[Any]:
    """The harness's class, which looks at each lot of prompts before it asks them and remembers what it tokenised."""

    class Checking(kind):  # type: ignore[misc] # the class is known at run time only
        """`kind`, with a look at every prompt."""

        name = ""
        tell: Callable[[list[str]], None]
        _model: Any
        shapes: list[AnswerShape] | None = None  # a list is filled with those of the answers, in whatever order
        shortens = False  # whether answers may be shorter than a task says: where nobody gave their length
        add_bos_token: bool | None = None  # the harness's: False has it write nothing before or behind a text

        def __init__(self, *arguments: Any, **named: Any) -> None:
            self._remembered: dict[tuple[str, bool | None], list[int]] = {}
            self._tokens = 0  # in all of these
            self._pairs: Sequence[Sequence[Pair]] | None = None
            self._refused: set[str] = set()
            self.moved = 0  # prompts of the harness whose last blanks it counts as an answer's first tokens
            super().__init__(*arguments, **named)
            # On several GPUs under `accelerate launch` the harness would ask its share only and gather the rest, for which
            # nobody stands ready: one process asks, the others of a fine-tuning wait for it.
            self._rank, self._world_size = 0, 1

        def _create_model(self, *arguments: Any, **named: Any) -> None:
            # The harness would cut padded rows off, which saved modules and the loss need, and tie weights once more, by
            # names that an adapter may have wrapped; peft has tied them.
            adapter = named.pop("peft", None)
            if (
                self.backend == "causal"
            ):  # of some multimodal models transformers' own choice is the text part, of others none
                self.AUTO_MODEL_CLASS = model_class(self.config)
            super()._create_model(*arguments, **named)
            if adapter is None:
                return
            from peft import PeftModel

            model: Any = self._model  # of the harness's class, which has no types
            if len(self.tokenizer) > model.get_input_embeddings().weight.shape[0]:
                model.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
            check_adapter(adapter, (name for name, _ in (*model.named_modules(), *model.named_parameters())))
            model = PeftModel.from_pretrained(model, adapter)
            model.tie_weights = lambda: None
            self._model = model

        def tok_encode(self, string: Any, add_special_tokens: bool | None = None, **named: Any) -> Any:
            if named or not isinstance(string, str):
                return super().tok_encode(string, add_special_tokens, **named)
            key = string, self.add_bos_token if add_special_tokens is None else add_special_tokens
            found = self._remembered.get(key)
            if found is None:
                found = super().tok_encode(string, add_special_tokens)
                self._tokens += len(found)
                if self._tokens > _REMEMBERED:
                    self._remembered.clear()
                    self._tokens = len(found)
                self._remembered[key] = found
            return found

        def plain_ids(self, text: str) -> list[int]:
            """The tokens of a text, and no other."""
            ids: list[int] = self.tok_encode(text, False)
            return ids

        @contextlib.contextmanager
        def as_written(self) -> Iterator[None]:
            """Within it, texts are encoded as they stand."""
            before, self.add_bos_token = self.add_bos_token, False
            try:
                yield
            finally:
                self.add_bos_token = before

        @contextlib.contextmanager
        def given(self, pairs: Sequence[Sequence[Pair]]) -> Iterator[None]:
            """Within it, likelihoods are those of `pairs`: by document, and by choice."""
            self._pairs = pairs
            try:
                yield
            finally:
                self._pairs = None

        def room_for_answers(self, lengths: Sequence[int], wanted: int) -> int:
            """How many of the ``wanted`` tokens an answer may have beside prompts of these lengths; at least one.

            Where a prompt alone fills the context, half of that: the prompt loses its beginning, and a warning says so.
            """
            room = self.max_length - (1 if self.backend == "seq2seq" else max(lengths, default=1))
            return min(wanted, int(room if room > 0 else max(self.max_length // 2, 1)))

        def _shorten(self, requests: Sequence[Any]) -> None:
            """Where a task of the harness asks for answers as long as the context, let the room decide how long they are."""
            asked = [_answer_tokens(request.args[1], self.max_gen_toks) for request in requests]
            if max(asked, default=0) < self.max_length:
                return
            longest = self.room_for_answers([len(self.tok_encode(request.args[0])) for request in requests], max(asked))
            self.tell([score_spoilers.short_answers(self.name, requests[0].task_name, longest, self.max_length)])
            for request in requests:
                others = {name: value for name, value in request.args[1].items() if name not in _LENGTHS}
                request.arguments = (request.args[0], {**others, "max_gen_toks": longest})

        def generate_until(self, requests: Sequence[Any], *arguments: Any, **named: Any) -> Any:
            prompts = []
            if self.shortens:
                self._shorten(requests)
            for request in requests:
                text, settings = request.args[0], request.args[1]
                room = self.max_length - _answer_tokens(settings, self.max_gen_toks)
                if room < 1:
                    raise UsageError(
                        f"{self.name}: {self.max_length - room} new tokens do not fit; its context has "
                        f"{self.max_length} tokens in all. Lower {option('max_new_tokens')}."
                    )
                prompts.append(Prompt(request.task_name, str(request.doc_id), self.tok_encode(text), room))
            self._look_at(prompts)
            answers: list[Any] = [None] * len(requests)
            for places in self._by_beginning(requests):
                lot = [requests[place] for place in places]
                for place, answer in zip(places, super().generate_until(lot, *arguments, **named), strict=True):
                    answers[place] = answer
            return answers

        def _model_generate(self, context: Any, *arguments: Any, **named: Any) -> Any:
            found = super()._model_generate(context, *arguments, **named)
            if self.shapes is not None:
                begin = context.shape[1] if self.backend == "causal" else 1
                ends = {
                    self.tokenizer.eos_token_id,
                    *ids_that_end(self._model.generation_config.eos_token_id, self.name),
                }
                self.shapes += [shape_of(tokens, ends) for tokens in found[:, begin:].tolist()]
            return found

        def _by_beginning(self, requests: Sequence[Any]) -> list[list[int]]:
            # The harness judges by the first prompt of a batch whether all of them hold the beginning token.
            beginning = self.tokenizer.bos_token
            lots: dict[bool, list[int]] = {}
            for place, request in enumerate(requests):
                lots.setdefault(bool(beginning) and request.args[0].startswith(beginning), []).append(place)
            return list(lots.values())

        def loglikelihood(self, requests: Sequence[Any], *arguments: Any, **named: Any) -> Any:
            if self._pairs is None:
                self._look_at_pairs(requests)
                return super().loglikelihood(requests, *arguments, **named)
            asked = [(request, self._pairs[request.doc_id][request.idx]) for request in requests]
            self._look_at([self._whole(request, pair.prompt + pair.answer) for request, pair in asked])
            return self._loglikelihood_tokens([(request.args, pair.prompt, pair.answer) for request, pair in asked])

        def _encode_pair(self, context: str, continuation: str) -> Any:
            # A continuation that is part of the prompt's last token would have no tokens left, and count as certain.
            before, after = super()._encode_pair(context, continuation)
            return before, after or going_on(continuation, self.plain_ids)

        def _look_at_pairs(self, requests: Sequence[Any]) -> None:
            """At the harness's own prompts and continuations, which it cuts apart itself: what is published was cut so."""
            prompts, spanned = [], []
            for request in requests:
                context, continuation = request.args
                ids = self.tok_encode(context + continuation)
                prompts.append(self._whole(request, ids))
                if not context or self.backend != "causal":
                    continue
                before, after = self._encode_pair(context, continuation)
                if not after or len(after) > self.max_length:
                    held = (
                        f"{len(after):,} tokens, but the model's context has {self.max_length:,}"
                        if after
                        else "no tokens"
                    )
                    raise ScoringError(
                        f"model {self.name}: {request.task_name} {request.doc_id}: the answer {continuation!r} has {held}."
                    )
                if ids[: len(before)] != before:
                    spanned.append(prompts[-1])
                self.moved += context[-1:].isspace() and not self.tokenizer.decode(after[:1]).strip()
            self._look_at(prompts)
            self.tell(score_spoilers.spanned_warnings(spanned, prompts, self.name))

        def _whole(self, request: Any, ids: list[int]) -> Prompt:
            return Prompt(request.task_name, str(request.doc_id), ids, self.max_length + 1)

        def _look_at(self, prompts: list[Prompt]) -> None:
            found = score_spoilers.beginning_warnings(prompts, self.tokenizer, self.name)
            self.tell(found + score_spoilers.length_warnings(prompts, self.name))

        def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], *arguments: Any, **named: Any) -> str:
            # Where a template refuses a system's message, the harness leaves it out, and with it a task's description.
            try:
                if any(message["role"] == "system" for message in chat_history):
                    render(self.tokenizer, chat_history)
            except RenderingError as error:
                if str(error) not in self._refused:
                    self._refused.add(str(error))
                    self.tell(score_spoilers.refused_warnings(str(error), self.name))
            try:
                with refusals_in_words():
                    return str(super().apply_chat_template(chat_history, *arguments, **named))
            except RenderingError as error:
                raise RenderingError(
                    f"model {self.name}: its chat template fails on the task's prompts: {error}"
                ) from None

    return Checking


def _answer_tokens(settings: Mapping[str, Any], default: int) -> int:
    return int(next((settings[name] for name in _LENGTHS if settings.get(name) is not None), default))
