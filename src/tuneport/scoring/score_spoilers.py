"""Find problems that silently spoil scores, before a model is scored.

From a tokenizer, the ids that end its generation and the prompts, to warnings: each says how it affects the scores and
what to do. Nothing is repaired here; `--strict` makes a warning stop the run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from tuneport.errors import RenderingError, named
from tuneport.examples.rendering import render
from tuneport.scoring.measured_tokens import Paired

# What a template writes that is meant as one token: <|im_start|>, <end_of_turn>, </s>, [INST], <asst>.
_MARK = re.compile(r"<\|[^<>|\s]+\|>|</?[A-Za-z][\w:-]*>|\[/?[A-Z][A-Z_]+\]|<｜[^<>｜\n]+｜>")
# Tülu's and OLMo 2's marks: their models read them as the text that they are.
_PLAIN = frozenset({"<|system|>", "<|user|>", "<|assistant|>"})
# Letters of both cases: a template may write an answer in capitals.
_QUESTION, _ANSWER = "QqQq", "AaAa"
_TALK = ({"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER})


@dataclass(frozen=True)
class Prompt:
    """A prompt on its way to a model: whose it is, its text, its ids, and the room it has."""

    task: str
    example: str
    ids: Sequence[int]
    room: int


def template_warnings(tokenizer: Any, label: str) -> list[str]:
    """A chat template whose marks the tokenizer does not have as tokens: it is another model's."""
    rendered = _conversation(tokenizer, label)
    if isinstance(rendered, list):
        return rendered
    foreign = []
    for mark in dict.fromkeys(_MARK.findall(rendered)):
        if mark in _PLAIN:
            continue
        pieces = tokenizer.encode(mark, add_special_tokens=False)
        if len(pieces) != 1:
            foreign.append(f"{mark!r} ({len(pieces)} tokens)")
        elif tokenizer.unk_token_id is not None and pieces[0] == tokenizer.unk_token_id and mark != tokenizer.unk_token:
            foreign.append(f"{mark!r} (unknown)")
    if not foreign:
        return []
    return [
        f"{label}: the chat template writes {', '.join(foreign)}, which the tokenizer does not have as tokens. The "
        f"template probably belongs to another model, and this model was never trained on these marks."
    ]


def end_of_turn_warnings(tokenizer: Any, ends: Collection[int], label: str) -> list[str]:
    """A turn that ends with a token at which generation does not stop: answers run on into invented turns."""
    rendered = _conversation(tokenizer, label)
    if isinstance(rendered, list) or _ANSWER not in rendered:
        return []
    after = rendered.rpartition(_ANSWER)[2]
    ids = tokenizer.encode(after, add_special_tokens=False)
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    first = next((token for token in ids if token in special), None)
    if first is None or first in ends:
        return []
    names = ", ".join(repr(tokenizer.convert_ids_to_tokens(token)) for token in sorted(ends)) or "no token at all"
    return [
        f"{label}: the chat template ends a turn with {tokenizer.convert_ids_to_tokens(first)!r}, but generation "
        f"stops only at {names}. Answers will not stop in time; add the id {first} to `eos_token_id` in "
        "generation_config.json."
    ]


def ending_warnings(tokenizer: Any, label: str) -> list[str]:
    """A tokenizer that puts an end token behind every prompt, as if the text were over."""
    ids = tokenizer.encode("a")
    if len(ids) < 2 or ids[-1] != tokenizer.eos_token_id:
        return []
    return [
        f"{label}: the tokenizer puts its end token {tokenizer.eos_token!r} after every prompt, so the model must "
        f"continue after the end. Set `add_eos_token` to false in tokenizer_config.json."
    ]


def beginning_of(tokenizer: Any) -> int | None:
    """The token that the tokenizer writes before every text, named or not."""
    plain, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    if len(whole) > len(plain) and whole[0] != plain[0]:
        return int(whole[0])
    return None if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)


def beginning_warnings(prompts: Sequence[Prompt], tokenizer: Any, label: str) -> list[str]:
    """Prompts that begin with the beginning-of-text token twice."""
    beginning = beginning_of(tokenizer)
    if beginning is None:
        return []

    def is_doubled(ids: Sequence[int]) -> bool:
        if list(ids[:2]) == [beginning, beginning]:
            return True
        # A blank or a newline may stand between the two.
        return [*ids[:1], *ids[2:3]] == [beginning, beginning] and not tokenizer.decode(ids[1:2]).strip()

    doubled = [prompt for prompt in prompts if is_doubled(prompt.ids)]
    if not doubled:
        return []
    return [
        f"{label}: {_counted(doubled, prompts)} begin with the beginning-of-text token twice ({_where(doubled)}). "
        "Remove it from the prompt or the chat template; the tokenizer adds it."
    ]


def length_warnings(prompts: Sequence[Prompt], label: str) -> list[str]:
    """Prompts that do not fit into the context beside the answer: the harness cuts them, from their beginning."""
    cut = [prompt for prompt in prompts if len(prompt.ids) > prompt.room]
    if not cut:
        return []
    longest = max(len(prompt.ids) for prompt in cut)
    return [
        f"{label}: {_counted(cut, prompts)} are cut at the context length ({_where(cut)}): up to {longest} tokens, "
        f"but {min(prompt.room for prompt in cut)} fit beside the answer. They lose their beginning. Lower "
        f"{named('max_new_tokens')}, or use fewer shots or shorter prompts."
    ]


def short_answers(label: str, task: str, longest: int, context: int) -> str:
    """A context that leaves less room for answers than is usual, where nobody said how long they may be."""
    return (
        f"{label}: answers to {task} are limited to {longest} tokens, what the context of {context} leaves beside the "
        f"longest prompt."
    )


def answer_warnings(tokenizer: Any, label: str) -> list[str]:
    """A template that writes something between the prompt that asks for an answer and the answer, or another answer."""
    rendered = _conversation(tokenizer, label)
    if isinstance(rendered, list):
        return []
    if _ANSWER not in rendered:
        return [
            f"{label}: the chat template changes an answer, or leaves it out. Choices and losses are measured on the answers as "
            "written in the examples, which is not what the model was trained on."
        ]
    until = rendered[: rendered.rindex(_ANSWER)]
    try:
        asked = render(tokenizer, _TALK[:1], ask=True)
    except RenderingError:
        return []  # whoever asks will be told
    ids = [tokenizer.encode(text + _ANSWER, add_special_tokens=False) for text in (asked, until)]
    if ids[0] == ids[1]:
        return []
    otherwise = (
        f"{until[len(asked) :]!r} between its prompt and an answer"
        if until.startswith(asked)
        else "an answer differently inside a conversation than after a prompt"
    )
    return [
        f"{label}: the chat template writes {otherwise}. Choices and losses are measured directly after the prompt. "
        f"If the model was trained with something in between, begin choices and answers with it."
    ]


def join_warnings(task: str, ids: Sequence[str], paired: Sequence[Paired], label: str) -> list[str]:
    """Examples in whose text one token holds the end of the prompt and the beginning of an answer."""
    found = []
    for join, words in _JOINED.items():
        spanned = [
            (id, of_example.token) for id, of_example in zip(ids, paired, strict=True) if of_example.join == join
        ]
        if spanned:
            shown = "; ".join(f"{task} {id}: {token!r}" for id, token in spanned[:3]) + ("; …" if spanned[3:] else "")
            found.append(f"{label}: in {len(spanned):,} of {len(ids):,} examples of {task} {words.format(shown=shown)}")
    return found


def same_warnings(task: str, ids: Sequence[str], paired: Sequence[Paired], label: str) -> list[str]:
    """Examples of which a tokenizer makes two choices one: words it does not know, blanks that it does not tell apart."""
    same = [id for id, of in zip(ids, paired, strict=True) if len({tuple(p.answer) for p in of.pairs}) < len(of.pairs)]
    if not same:
        return []
    shown = ", ".join(same[:3]) + (", …" if same[3:] else "")
    return [
        f"{label}: in {len(same):,} of {len(ids):,} examples of {task} ({shown}) two choices have the same tokens, so "
        f"they are equally likely and the first one counts. Give choices with different tokens."
    ]


def spanned_warnings(spanned: Sequence[Prompt], prompts: Sequence[Prompt], label: str) -> list[str]:
    """The same in the harness's own tasks, which stay as they are: published scores were taken so."""
    if not spanned:
        return []
    return [
        f"{label}: in {_counted(spanned, prompts)} one token spans the end of the prompt and the beginning of an "
        f"answer ({_where(spanned)}). lm-evaluation-harness scores such an answer without that token, so it seems "
        f"likelier than it is."
    ]


def moved_warnings(task: str, count: int, metrics: Sequence[str], label: str) -> list[str]:
    """Blanks and line ends at the end of prompts that the harness counts as an answer's first tokens."""
    return [
        f"{label}: {count:,} prompts of {task} end in spaces or line breaks, which lm-evaluation-harness counts as "
        f"the first tokens of each answer. {', '.join(metrics)} would change without them."
    ]


def refused_warnings(says: str, label: str) -> list[str]:
    """A template that refuses the system's message in which the harness puts a task's description."""
    return [
        f"{label}: its chat template rejects a system message ({says}); lm-evaluation-harness leaves it out, together "
        f"with the task's description."
    ]


_JOINED = {
    "split": "one token spans the end of the prompt and the beginning of an answer ({shown}). Prompt and answer are tokenized separately, as in generation. End prompts at the end of a word, or begin answers with a space.",
    "blank": "one token spans the space at the end of the prompt and the beginning of an answer ({shown}). The space is scored with the answer, but in generation the model starts after it. Remove the space from the prompt or the chat template.",
}


def _conversation(tokenizer: Any, label: str) -> str | list[str]:
    """A question and an answer through the template; a warning where it cannot be rendered."""
    if not tokenizer.chat_template:
        return ""
    try:
        return render(tokenizer, _TALK)
    except RenderingError as error:
        return [f"{label}: the chat template fails on a question with an answer: {error}"]


def _counted(found: Sequence[Prompt], of: Sequence[Prompt]) -> str:
    return f"{len(found):,} of {len(of):,} prompts"


def _where(prompts: Sequence[Prompt]) -> str:
    shown = "; ".join(f"{prompt.task} {prompt.example}" for prompt in prompts[:3])
    return shown + ("; …" if len(prompts) > 3 else "")
